"""T1-weighted image and diffusion maps of a phantom, from the same anatomy as its T2-weighted image.

The values are rounded, define the truth of the phantom, and are not a clinical reference:

- T1w: inversion recovery with the times of the dHCP, TR 4795 and TI 1740 ms (Edwards et al. 2022, PMC9169090). T1 of
  white matter falls with age, R1 of grey matter is 1.3 times higher (Williams et al. 2005, neonates at 3 T,
  doi:10.1148/radiol.2352031769). Grey matter is therefore bright, as in newborns. The brainstem, which myelinates
  first, gains most with age.
- MD of white matter falls and its FA rises towards term; cortex loses FA (Huppi et al. 1998,
  doi:10.1203/00006450-199810000-00019; Mukherjee et al. 2002, PMC7976805).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from .acquisition import Acquisition, add_rician_noise, bias_field, scalp, tissue_values
from .anatomy import Anatomy
from .fields import named_rng
from .grids import Grid
from .growth import BRAINSTEM, CEREBELLUM, CORTEX, CSF, DEEP_GREY, HIPPOCAMPUS, VENTRICLES, WHITE_MATTER
from .options import MODALITIES
from .pathology import CLOT, CYST, LesionMap

if TYPE_CHECKING:
    from .plan import PlannedScan

MAPS = ("FA", "MD")  # of one diffusion acquisition: a session has both or none
REPETITION_MS, INVERSION_MS = 4795.0, 1740.0
T1_CSF_MS = 4000.0
T1_SCALE = 1500.0  # stored units per signal 1.0; at 40 weeks white matter is near 210, cortex near 390
T1_FAT = 0.35  # signal of the scalp
# sub-clusters: what is bright on T2w is dark on T1w; FA varies far more within a tissue
_CONTRAST = {"T1w": -1.0, "FA": 4.0, "MD": 0.6}


def checked_modalities(modalities: Sequence[str]) -> tuple[str, ...]:
    """The modalities in the order of `MODALITIES`. Raises ValueError if one is unknown or T2w is missing."""
    if unknown := [name for name in modalities if name not in MODALITIES]:
        raise ValueError(f"there is no modality {unknown[0]!r}; choose from {', '.join(MODALITIES)}")
    if "T2w" not in modalities:
        raise ValueError("every phantom has a T2w image; add T2w to the modalities")
    return tuple(name for name in MODALITIES if name in modalities)


def assign_modalities(
    rng: np.random.Generator, scans: list[PlannedScan], modalities: tuple[str, ...], missing: float
) -> list[PlannedScan]:
    """Give each scan the modalities, except that T1w and diffusion are missing in the stated share of the scans.

    Each is missing in round(`missing` x number) scans, drawn independently of each other and of the labels.
    """
    without: list[set[str]] = [set() for _ in scans]
    for group in (("T1w",), MAPS):
        for k in rng.permutation(len(scans))[: round(missing * len(scans))]:
            without[k].update(group)
    return [
        replace(scan, modalities=tuple(name for name in modalities if name not in absent))
        for scan, absent in zip(scans, without, strict=True)
    ]


def t1_of_white_matter(weeks: float) -> float:
    """T1 of white matter in ms at w weeks: 3000 - 45 (w - 30), at least 2300."""
    return max(2300.0, 3000.0 - 45.0 * (weeks - 30.0))


def t1_signal(t1_ms: float) -> float:
    """Signal of an inversion recovery, |1 - 2 exp(-TI / T1) + exp(-TR / T1)|, 0-1."""
    return abs(1.0 - 2.0 * math.exp(-INVERSION_MS / t1_ms) + math.exp(-REPETITION_MS / t1_ms))


def tissue_levels(modality: str, weeks: float) -> dict[int, float]:
    """Mean value of each DrawEM-9 label: signal (0-1) of T1w, FA (0-1), or MD in 1e-3 mm2/s."""
    age = min(weeks, 42.0) - 28.0
    if modality == "T1w":
        white = t1_of_white_matter(weeks)
        faster = {
            WHITE_MATTER: 1.0,
            CORTEX: 1.3,
            HIPPOCAMPUS: 1.3,
            CEREBELLUM: 1.4,
            DEEP_GREY: 1.45,
            BRAINSTEM: 1.41 + 0.02 * age,
        }
        fluid = t1_signal(T1_CSF_MS)
        return {CSF: fluid, VENTRICLES: fluid, **{label: t1_signal(white / r1) for label, r1 in faster.items()}}
    if modality == "FA":
        return {
            CSF: 0.06,
            VENTRICLES: 0.05,
            CORTEX: 0.22 - 0.008 * age,
            WHITE_MATTER: 0.17 + 0.009 * age,
            HIPPOCAMPUS: 0.14,
            CEREBELLUM: 0.16 + 0.003 * age,
            DEEP_GREY: 0.18 + 0.004 * age,
            BRAINSTEM: 0.30 + 0.006 * age,
        }
    return {
        CSF: 2.8,
        VENTRICLES: 3.0,
        CORTEX: 1.32 - 0.015 * age,
        WHITE_MATTER: 1.70 - 0.0375 * age,
        HIPPOCAMPUS: 1.35 - 0.015 * age,
        CEREBELLUM: 1.30 - 0.02 * age,
        DEEP_GREY: 1.25 - 0.015 * age,
        BRAINSTEM: 1.15 - 0.015 * age,
    }


def paint_modality(
    modality: str, anatomy: Anatomy, lesions: LesionMap, weeks: float, scalp_mm: float, seed: int, infant: str
) -> np.ndarray:
    """One modality of a head without noise: float32, RAS order, units of `tissue_levels`; maps are 0 outside the brain.

    Clot is bright on T1w and restricts diffusion; punctate lesions are bright on T1w, and lower MD.
    """
    levels = tissue_levels(modality, weeks)
    levels[WHITE_MATTER] *= lesions.white_matter.get(modality, 1.0)
    white, cortex = levels[WHITE_MATTER], levels[CORTEX]
    values = tissue_values(anatomy, levels, seed, infant, contrast=_CONTRAST[modality])
    clot = lesions.mask.ravel()[anatomy.inside] == CLOT
    values[clot] = {"T1w": 1.3 * cortex, "FA": 0.1, "MD": 0.7}[modality]
    image = np.zeros(anatomy.dseg.shape, dtype=np.float32)
    if modality == "T1w":
        image = scalp(anatomy.scalp_depth, T1_FAT, scalp_mm)
    image.ravel()[anatomy.inside] = values
    if lesions.cyst_fraction is not None:
        rim = (lesions.cyst_fraction > 0) & (lesions.mask != CYST)
        image[rim] += lesions.cyst_fraction[rim] * (levels[CSF] - image[rim])
    if lesions.punctate_contrast is not None and modality != "FA":
        image += lesions.punctate_contrast * ({"T1w": -1.5, "MD": 1.0}[modality] * white)
    return image


def acquire_t1w(image: np.ndarray, weeks: float, conditions: Acquisition, grid: Grid, seed: int, *names: str):
    """Simulate the acquisition of a T1-weighted head: point spread, bias field and noise of its own.

    Args:
        image: from `paint_modality`, in the field of view of the T2-weighted image.
        conditions: of the T2-weighted image, for the point spread.
        names: family, infant and session, for the random draws.

    Returns:
        int16 volume in RAS order, values 0 or more.
    """
    rng = named_rng(seed, "T1w", *names)
    gain, snr, bias = rng.uniform(0.85, 1.15), rng.uniform(12.0, 25.0), rng.uniform(0.02, 0.05)
    sigma_mm = math.hypot(conditions.psf_fwhm_mm / 2.3548, grid.voxel_size / math.sqrt(12.0))
    image = ndimage.gaussian_filter(image * np.float32(T1_SCALE * gain), sigma_mm / grid.voxel_size, truncate=3.0)
    image *= bias_field(grid, bias, rng)
    image = add_rician_noise(image, t1_signal(t1_of_white_matter(weeks)) * T1_SCALE * gain / snr, rng)
    return np.clip(np.rint(image), 0, 32767).astype(np.int16)

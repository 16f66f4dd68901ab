"""Tissue volumes of a phantom, in mL, as formulae of post-menstrual age.

The numbers follow published neonatal volumetry (Makropoulos et al. 2016, doi:10.1016/j.neuroimage.2015.10.047; Huppi et
al. 1998, doi:10.1002/ana.410430213) in rounded form. They define the truth of the phantom and are
not a clinical reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

# DrawEM's nine tissue labels, as in the dHCP suffix `desc-drawem9_dseg`. Label 4 (non-brain inside the mask) does not
# occur: the phantom's brain mask is exactly the intracranial space.
CSF, CORTEX, WHITE_MATTER, BACKGROUND, VENTRICLES, CEREBELLUM, DEEP_GREY, BRAINSTEM, HIPPOCAMPUS = range(1, 10)
TISSUE_NAMES = {
    CSF: "csf",
    CORTEX: "cortical_grey_matter",
    WHITE_MATTER: "white_matter",
    BACKGROUND: "background",
    VENTRICLES: "lateral_ventricles",
    CEREBELLUM: "cerebellum",
    DEEP_GREY: "deep_grey_matter",
    BRAINSTEM: "brainstem",
    HIPPOCAMPUS: "hippocampus_amygdala",
}

MIN_WEEKS, MAX_WEEKS = 28.0, 45.0  # range of post-menstrual age for the formulae
HEAD_LENGTH_RATIOS = (0.78, 1.0, 0.72)  # intracranial width (R), length (A), height (S), relative to the length
NORMAL_VENTRICLES_ML = 7.0  # median of both lateral ventricles together; ventriculomegaly factors refer to it
NORMAL_VENTRICLES_RANGE_ML = (3.0, 12.0)
NORMAL_VENTRICLES_LOG_SD = 0.30
MAX_VENTRICLE_FRACTION = 0.20  # of the intracranial volume
BRAIN_SD = 0.11  # relative, between infants of one age
MIN_EXTRA_AXIAL_FRACTION = 0.5  # enlarged ventricles reduce the outer CSF to this fraction, then the head grows


@dataclass(frozen=True)
class TissueVolumes:
    """Volumes of one intracranial space in mL. `brain` is parenchyma; all parts sum to `intracranial`."""

    cortex: float
    white_matter: float
    deep_grey: float
    hippocampus: float
    brainstem: float
    cerebellum: float
    extra_axial_csf: float
    left_ventricle: float
    right_ventricle: float

    @property
    def brain(self) -> float:
        """Parenchyma, mL."""
        return self.cortex + self.white_matter + self.deep_grey + self.hippocampus + self.brainstem + self.cerebellum

    @property
    def ventricles(self) -> float:
        """Both lateral ventricles, mL."""
        return self.left_ventricle + self.right_ventricle

    @property
    def intracranial(self) -> float:
        """Parenchyma, ventricles and extra-axial CSF, mL."""
        return self.brain + self.ventricles + self.extra_axial_csf


def brain_volume(weeks: float) -> float:
    """Mean total brain (parenchyma) volume in mL: 365 + 20.5 (w - 40)."""
    return 365.0 + 20.5 * (weeks - 40.0)


def cortical_volume(weeks: float) -> float:
    """Mean cortical grey matter in mL: 140 exp(0.12 (w - 40.5))."""
    return 140.0 * math.exp(0.12 * (weeks - 40.5))


def total_csf_volume(weeks: float) -> float:
    """Mean CSF in mL, ventricles included: intracranial minus brain, 60 + 1.5 (w - 28)."""
    return 60.0 + 1.5 * (weeks - 28.0)


def normal_ventricle_volume(z: float) -> float:
    """Normal lateral ventricles in mL for a standard-normal `z`: lognormal, median 7, clipped to 3-12."""
    low, high = NORMAL_VENTRICLES_RANGE_ML
    return min(max(NORMAL_VENTRICLES_ML * math.exp(NORMAL_VENTRICLES_LOG_SD * z), low), high)


def normal_volumes(
    weeks: float,
    brain_z: float = 0.0,
    ventricle_z: float = 0.0,
    deep_share: float = 0.065,
    ventricle_asymmetry: float = 0.0,
) -> TissueVolumes:
    """Volumes of an uninjured infant.

    Args:
        weeks: post-menstrual age, 28-45.
        brain_z: standard score of brain size, clipped to +-2; one unit is 11 %, applied to every parenchymal tissue.
        ventricle_z: standard score of the log ventricle volume.
        deep_share: deep grey matter as a fraction of the brain, 0.06-0.07.
        ventricle_asymmetry: (right - left) / (right + left), a few per cent in healthy infants.
    """
    factor = 1.0 + BRAIN_SD * min(max(brain_z, -2.0), 2.0)
    brain = brain_volume(weeks) * factor
    cortex = cortical_volume(weeks) * factor
    deep, hippocampus = deep_share * brain, 0.0075 * brain
    brainstem, cerebellum = 0.02 * brain, 0.06 * brain
    ventricles = normal_ventricle_volume(ventricle_z)
    return TissueVolumes(
        cortex=cortex,
        white_matter=brain - cortex - deep - hippocampus - brainstem - cerebellum,
        deep_grey=deep,
        hippocampus=hippocampus,
        brainstem=brainstem,
        cerebellum=cerebellum,
        extra_axial_csf=total_csf_volume(weeks) - ventricles,
        left_ventricle=ventricles * (1.0 - ventricle_asymmetry) / 2.0,
        right_ventricle=ventricles * (1.0 + ventricle_asymmetry) / 2.0,
    )


def with_ventricles(volumes: TissueVolumes, left: float, right: float) -> TissueVolumes:
    """The same infant with other lateral ventricles (mL). Parenchyma keeps its volume.

    Larger ventricles first displace outer CSF, down to half of its volume; beyond that the head grows. Both ventricles
    are scaled down if together they would exceed 20 % of the intracranial volume.
    """
    scale = 1.0
    for _ in range(50):  # the intracranial volume depends on the ventricles; the iteration is a contraction
        total = (left + right) * scale
        growth = total - volumes.ventricles
        outer = max(volumes.extra_axial_csf - growth, MIN_EXTRA_AXIAL_FRACTION * volumes.extra_axial_csf)
        intracranial = volumes.brain + total + min(outer, volumes.extra_axial_csf)
        scale = min(1.0, MAX_VENTRICLE_FRACTION * intracranial / (left + right))
    return replace(
        volumes,
        extra_axial_csf=min(outer, volumes.extra_axial_csf),
        left_ventricle=left * scale,
        right_ventricle=right * scale,
    )


def with_atrophy(volumes: TissueVolumes, white_loss: float, deep_loss: float, csf_gain: float = 0.0) -> TissueVolumes:
    """Remove a fraction of white matter and of deep grey matter, and add extra-axial CSF.

    Args:
        white_loss, deep_loss: fractions lost, 0.10-0.25 and 0.10-0.20.
        csf_gain: relative gain of extra-axial CSF; 0 means exactly the lost volume. Clipped to 0.3-1.0 in both cases.
    """
    lost = white_loss * volumes.white_matter + deep_loss * volumes.deep_grey
    gain = min(max(csf_gain or lost / volumes.extra_axial_csf, 0.3), 1.0)
    return replace(
        volumes,
        white_matter=volumes.white_matter * (1.0 - white_loss),
        deep_grey=volumes.deep_grey * (1.0 - deep_loss),
        extra_axial_csf=volumes.extra_axial_csf * (1.0 + gain),
    )


def intracranial_half_axes(intracranial_ml: float) -> tuple[float, float, float]:
    """Half axes (R, A, S) in mm of the ellipsoid 0.78 : 1 : 0.72 of this volume (45 x 58 x 42 at 40 weeks)."""
    width, length, height = HEAD_LENGTH_RATIOS
    full_length = (6.0 * intracranial_ml * 1000.0 / (math.pi * width * length * height)) ** (1.0 / 3.0)
    return width * full_length / 2.0, full_length / 2.0, height * full_length / 2.0

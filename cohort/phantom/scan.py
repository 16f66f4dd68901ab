"""One phantom scan in memory: combines growth, anatomy, pathology and acquisition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import nibabel as nib
import numpy as np

from .acquisition import Acquisition, acquire, draw_acquisition, paint
from .anatomy import build_anatomy
from .diffusion import DiffusionSpace, acquire_map, draw_space
from .field_of_view import FieldOfView, Placement, head_grid
from .fields import named_rng
from .grids import Grid, small_grid
from .growth import (
    MAX_WEEKS,
    MIN_WEEKS,
    TISSUE_NAMES,
    VENTRICLES,
    TissueVolumes,
    intracranial_half_axes,
    normal_volumes,
)
from .modalities import MAPS, acquire_t1w, checked_modalities, paint_modality
from .pathology import LESION_NAMES, Injury, Lesion, as_injuries, injured_volumes, place_lesions
from .scanners import SCANNERS


@dataclass(frozen=True)
class PhantomScan:
    """A generated scan, arrays in the stored axis order of `affine`.

    Attributes:
        volume: int16, T2-weighted head in air.
        affine: 4x4, voxel to world (RAS, mm).
        brain_mask: uint8, the intracranial space.
        dseg: uint8, DrawEM-9 labels.
        lesion_mask: uint8; 0 none, 1 cyst, 2 clot, 3 punctate lesion.
        target_volumes: the volumes that the anatomy was built for, mL.
        volumes_ml: the volumes measured in `dseg`, `brain_mask` and `lesion_mask`, mL, by name.
        injuries: name, severity and side of each.
        lesions: the spheres of cysts and punctate lesions.
        acquisition: imaging conditions.
        truth: the scan's row of truth.tsv.
        channels: modality other than T2w -> array as stored, and its affine.
        diffusion: where the diffusion maps lie; None without them.
        white_matter: modality -> factor of its value in all white matter; empty without a diffuse injury.
    """

    volume: np.ndarray
    affine: np.ndarray
    brain_mask: np.ndarray
    dseg: np.ndarray
    lesion_mask: np.ndarray
    target_volumes: TissueVolumes
    volumes_ml: dict[str, float]
    injuries: tuple[Injury, ...]
    lesions: tuple[Lesion, ...]
    acquisition: Acquisition
    truth: dict[str, float | str]
    channels: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    diffusion: DiffusionSpace | None = None
    white_matter: dict[str, float] = field(default_factory=dict)

    def image(self) -> nib.Nifti1Image:
        """The volume as a NIfTI image."""
        return nifti(self.volume, self.affine)


def nifti(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """A NIfTI image in mm with sform and qform set; its header says that it is synthetic."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"synthetic: gloresnet-phantom"
    return image


def make_phantom_scan(
    scan_age: float = 40.0,
    injuries: Mapping[str, str] | Iterable[Injury] = (),
    *,
    seed: int = 42,
    voxel_size: float = 1.25,
    grid: Grid | None = None,
    motion: float = 0.0,
    family: str = "family",
    infant: str = "infant",
    session: str = "session",
    acquisition: Acquisition | None = None,
    field_of_view: FieldOfView | None = None,
    scanner: str | None = None,
    modalities: Sequence[str] = ("T2w",),
) -> PhantomScan:
    """Generate one scan.

    Args:
        scan_age: post-menstrual age in weeks, 28-45.
        injuries: such as `{"ventriculomegaly": "severe"}`, or `Injury` objects. `INJURIES` lists names and severities.
        seed: determines everything random, together with `family`, `infant` and `session`.
        voxel_size: mm, isotropic; used if no `grid` is given.
        grid: shape, axis order and affine of the image.
        motion: strength of motion artefacts, 0-1.
        family, infant, session: names. Twins share a family and most of their anatomy. An infant keeps its anatomy and
            lesions across sessions. Each session has its own imaging conditions.
        acquisition: fixed imaging conditions instead of random ones; its `motion` replaces the argument.
        field_of_view: what the scan shows around the head, instead of the shape of the grid; adds a neck.
        scanner: a name of `SCANNERS`, which changes the drawn imaging conditions and, without a `grid`, the grid.
        modalities: `MODALITIES` to make; the T2-weighted image does not depend on them.

    Raises:
        ValueError: a value is out of range, or an injury is unknown.
    """
    if not MIN_WEEKS <= scan_age <= MAX_WEEKS:
        raise ValueError(f"the scan age is {scan_age:g} weeks; choose one between {MIN_WEEKS:g} and {MAX_WEEKS:g}")
    if not 0.0 <= motion <= 1.0:
        raise ValueError(f"the motion strength is {motion:g}; choose one between 0 and 1")
    injuries, modalities = as_injuries(injuries), checked_modalities(modalities)
    grid = grid or (SCANNERS[scanner].grid() if scanner else small_grid(voxel_size))
    rng = named_rng(seed, "acquisition", family, infant, session)
    conditions = acquisition or draw_acquisition(rng, motion)
    if scanner is not None:
        conditions = SCANNERS[scanner].applied(conditions)

    target = injured_volumes(infant_volumes(scan_age, seed, family, infant), injuries, seed, family + infant)
    home = grid
    if field_of_view is not None:
        half_axes = intracranial_half_axes(target.intracranial)
        placement = Placement(field_of_view, half_axes, conditions.scalp_mm, grid)
        grid, home = placement.grid, head_grid(half_axes, conditions.scalp_mm, grid.voxel_size)
        conditions = replace(conditions, shift=(0.0, 0.0, 0.0))  # the field of view places the head
    anatomy = build_anatomy(target, scan_age, home, seed, family, infant, conditions.shift)
    lesions = place_lesions(anatomy, injuries, home, seed, family + infant, conditions.shift)
    still = paint(anatomy, lesions, scan_age, conditions, seed, family + infant)
    others = {
        name: paint_modality(name, anatomy, lesions, scan_age, conditions.scalp_mm, seed, family + infant)
        for name in modalities[1:]
    }
    centre = np.array(conditions.shift)
    dseg, lesion_mask = anatomy.dseg, lesions.mask
    if field_of_view is not None:
        still, dseg, lesion_mask = (placement.placed(a, n) for a, n in ((still, 1), (dseg, 0), (lesion_mask, 0)))
        others = {name: placement.placed(image, 1) for name, image in others.items()}
        centre = placement.centre
        if field_of_view.neck:
            placement.add_neck(still, scan_age, conditions)
    volume = acquire(still, scan_age, conditions, grid, rng)
    names, channels, space = (family, infant, session), {}, None
    if "T1w" in others:
        t1w = acquire_t1w(others["T1w"], scan_age, conditions, grid, seed, *names)
        channels["T1w"] = (grid.stored(t1w), grid.affine)
    if set(MAPS) & others.keys():
        space = draw_space(grid, np.array(grid.origin) + centre, seed, *names)
        for name in [each for each in MAPS if each in others]:
            values = acquire_map(name, others[name], grid, space, seed, *names)
            channels[name] = (space.grid.stored(values), space.grid.affine)

    brain_mask = (dseg > 0).astype(np.uint8)
    volumes_ml = measure_volumes(dseg, lesion_mask, grid.voxel_size)
    left = anatomy.points[0] < 0
    in_ventricles = anatomy.dseg.ravel()[anatomy.inside] == VENTRICLES
    voxel_ml = grid.voxel_size**3 / 1000.0
    truth: dict[str, float | str] = {
        "scan_age": scan_age,
        "injuries": " ".join(str(injury) for injury in injuries) or "none",
        "motion": conditions.motion,
        **{f"{name}_ml": value for name, value in volumes_ml.items()},
        "left_ventricle_ml": float(np.count_nonzero(in_ventricles & left)) * voxel_ml,
        "right_ventricle_ml": float(np.count_nonzero(in_ventricles & ~left)) * voxel_ml,
        "head_circumference_cm": head_circumference(anatomy.half_axes, conditions.scalp_mm),
        "cyst_count": 0,
        "cyst_max_extent_mm": 0.0,
        "clot_fraction_left": 0.0,
        "clot_fraction_right": 0.0,
        "punctate_count": 0,
        "punctate_max_diameter_mm": 0.0,
        "punctate_mean_contrast": 0.0,
        **lesions.truth,
        "lesion_diameters_mm": " ".join(f"{lesion.diameter:.1f}" for lesion in lesions.lesions) or "n/a",
        "snr": conditions.snr,
        "psf_fwhm_mm": conditions.psf_fwhm_mm,
        "bias": conditions.bias,
        **(field_of_view.truth if field_of_view else {}),
        **({"scanner": scanner, "echo_time_ms": conditions.echo_time_ms} if scanner else {}),
    }
    return PhantomScan(
        volume=grid.stored(volume),
        affine=grid.affine,
        brain_mask=grid.stored(brain_mask),
        dseg=grid.stored(dseg),
        lesion_mask=grid.stored(lesion_mask),
        target_volumes=target,
        volumes_ml=volumes_ml,
        injuries=injuries,
        lesions=tuple(lesions.lesions),
        acquisition=conditions,
        truth=truth,
        channels=channels,
        diffusion=space,
        white_matter=lesions.white_matter,
    )


def infant_volumes(scan_age: float, seed: int, family: str, infant: str) -> TissueVolumes:
    """Normal tissue volumes of an infant at an age. Its standard scores are the same in all sessions."""
    shared, own = named_rng(seed, "size", family), named_rng(seed, "size", family, infant)
    brain_z = math.sqrt(0.7) * shared.standard_normal() + math.sqrt(0.3) * own.standard_normal()
    ventricle_z = math.sqrt(0.5) * shared.standard_normal() + math.sqrt(0.5) * own.standard_normal()
    return normal_volumes(
        scan_age,
        brain_z,
        ventricle_z,
        deep_share=float(own.uniform(0.06, 0.07)),
        ventricle_asymmetry=float(own.normal(0.0, 0.03)),
    )


def measure_volumes(dseg: np.ndarray, lesion_mask: np.ndarray, voxel_size: float) -> dict[str, float]:
    """Volumes in mL of each tissue, the brain (parenchyma), the intracranial space and each kind of lesion."""
    voxel_ml = voxel_size**3 / 1000.0
    counts = np.bincount(dseg.ravel(), minlength=10)
    volumes = {name: float(counts[label] * voxel_ml) for label, name in TISSUE_NAMES.items() if name != "background"}
    volumes["brain"] = sum(value for name, value in volumes.items() if name not in ("csf", "lateral_ventricles"))
    volumes["intracranial"] = float(counts[1:].sum() * voxel_ml)
    lesion_counts = np.bincount(lesion_mask.ravel(), minlength=4)
    volumes.update({f"{name}_lesion": float(lesion_counts[value] * voxel_ml) for value, name in LESION_NAMES.items()})
    return volumes


def head_circumference(half_axes: tuple[float, float, float], scalp_mm: float) -> float:
    """Perimeter in cm of the ellipse around the head (Ramanujan's approximation)."""
    a, b = half_axes[0] + scalp_mm, half_axes[1] + scalp_mm
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h))) / 10.0


def without_artefacts(conditions: Acquisition) -> Acquisition:
    """The same conditions without noise, bias field and motion, for measuring contrast."""
    return replace(conditions, snr=math.inf, bias=0.0, motion=0.0)

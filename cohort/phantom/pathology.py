"""Injuries of the phantom: how they change tissue volumes, and the focal lesions placed in a labelled head.

The whole package uses these names and severities (`INJURIES`):

- `ventriculomegaly`: normal ventricles (7 mL) x 1.5-2.5 mild, 2.5-5 moderate, 5-10 severe; one side may be larger;
- `atrophy`: white matter -10 / -17.5 / -25 %, deep grey matter -10 / -15 / -20 %, extra-axial CSF +30 to +100 %;
- `cystic_pvl`: CSF-bright cysts next to the ventricles, small 2-5 mm, large 8-10 mm, confluent chains of 12-20 mm;
- `ivh`: clot in a lateral ventricle, minor 10-50 %, major 55-90 % of its volume;
- `punctate`: dark white-matter lesions of 1-3 mm, few 1-5 or many 6-15, in a line or a cluster near the ventricles.

`DIFFUSE_INJURIES` are visible in diffusion only. `diffuse_wmi`: in all white matter, MD is 10-15 % (mild) or 15-20 %
(moderate) higher and FA 15-22 % or 22-30 % lower, while the T2-weighted signal rises by 1 %. In preterm infants with
diffuse signal changes of the white matter, diffusivity is raised too: Counsell et al. 2003, doi:10.1542/peds.112.1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .anatomy import Anatomy
from .fields import SmoothField, named_rng
from .grids import Grid
from .growth import (
    BRAINSTEM,
    CSF,
    DEEP_GREY,
    NORMAL_VENTRICLES_ML,
    VENTRICLES,
    WHITE_MATTER,
    TissueVolumes,
    with_atrophy,
    with_ventricles,
)

INJURIES: dict[str, tuple[str, ...]] = {
    "ventriculomegaly": ("mild", "moderate", "severe"),
    "atrophy": ("mild", "moderate", "severe"),
    "cystic_pvl": ("small", "large", "confluent"),
    "ivh": ("minor", "major"),
    "punctate": ("few", "many"),
}
DIFFUSE_INJURIES = {"diffuse_wmi": ("mild", "moderate")}
ALL_INJURIES = INJURIES | DIFFUSE_INJURIES
MD_RISE = {"mild": (0.10, 0.15), "moderate": (0.15, 0.20)}
FA_LOSS = {"mild": (0.15, 0.22), "moderate": (0.22, 0.30)}
T2W_RISE = 0.01
SIDES = ("both", "left", "right")
VENTRICLE_FACTORS = {"mild": (1.5, 2.5), "moderate": (2.5, 5.0), "severe": (5.0, 10.0)}
ATROPHY_LOSSES = {"mild": (0.10, 0.10), "moderate": (0.175, 0.15), "severe": (0.25, 0.20)}  # white matter, deep grey
CYST_DIAMETERS_MM = {"small": (2.0, 5.0), "large": (8.0, 10.0), "confluent": (8.0, 10.0)}
CONFLUENT_LENGTHS_MM = (12.0, 20.0)
CLOT_FRACTIONS = {"minor": (0.10, 0.50), "major": (0.55, 0.90)}
PUNCTATE_COUNTS = {"few": (1, 5), "many": (6, 15)}
PUNCTATE_DIAMETERS_MM = (1.0, 3.0)
PUNCTATE_CONTRAST = (-0.18, 0.08)  # mean and SD, relative to white matter; clipped at two SD
_OFF_MIDLINE_MM = 10.0  # keeps periventricular lesions out of the corpus callosum
LESION_NAMES = {1: "cyst", 2: "clot", 3: "punctate"}  # values of desc-lesion_mask
CYST, CLOT, PUNCTATE = LESION_NAMES


@dataclass(frozen=True)
class Injury:
    """One injury: name, severity, and the affected or more affected side (`both`, `left`, `right`)."""

    name: str
    severity: str
    side: str = "both"

    def __post_init__(self) -> None:
        if self.name not in ALL_INJURIES:
            raise ValueError(f"there is no injury named {self.name!r}; choose one of {', '.join(ALL_INJURIES)}")
        if self.severity not in ALL_INJURIES[self.name]:
            choices = ", ".join(ALL_INJURIES[self.name])
            raise ValueError(f"{self.name} has no severity {self.severity!r}; choose one of {choices}")
        if self.side not in SIDES:
            raise ValueError(f"{self.name} has no side {self.side!r}; choose one of {', '.join(SIDES)}")

    def __str__(self) -> str:
        return f"{self.name}:{self.severity}" + ("" if self.side == "both" else f":{self.side}")


def as_injuries(injuries: Mapping[str, str] | Iterable[Injury]) -> tuple[Injury, ...]:
    """Convert injuries such as {"ivh": "major"} to `Injury` objects; `Injury` objects are kept."""
    if isinstance(injuries, Mapping):
        return tuple(Injury(name, severity) for name, severity in injuries.items())
    return tuple(injuries)


@dataclass(frozen=True)
class Lesion:
    """One focal lesion: centre in the head (mm), diameter (mm), contrast relative to white matter (punctate only)."""

    kind: int
    centre: tuple[float, float, float]
    diameter: float
    contrast: float = 0.0


@dataclass
class LesionMap:
    """Focal lesions on the grid (RAS order).

    Attributes:
        mask: uint8; 1 cyst, 2 clot, 3 punctate lesion.
        cyst_fraction: float32, fraction of each voxel that is cyst, or None.
        punctate_contrast: float32, relative change of the signal (negative), or None.
        lesions: the spheres that were placed.
        white_matter: modality -> factor of its value in all white matter; empty without a diffuse injury.
        truth: numbers for the truth table.
    """

    mask: np.ndarray
    cyst_fraction: np.ndarray | None = None
    punctate_contrast: np.ndarray | None = None
    lesions: list[Lesion] = field(default_factory=list)
    white_matter: dict[str, float] = field(default_factory=dict)
    truth: dict[str, float] = field(default_factory=dict)


def injured_volumes(volumes: TissueVolumes, injuries: Iterable[Injury], seed: int, infant: str) -> TissueVolumes:
    """Apply atrophy, then ventriculomegaly, to normal volumes. Draws depend only on seed, infant and injury."""
    by_name = {injury.name: injury for injury in injuries}
    if "atrophy" in by_name:
        severity = by_name["atrophy"].severity
        rng = named_rng(seed, "atrophy", infant)
        white, deep = ATROPHY_LOSSES[severity]
        lost = white * volumes.white_matter + deep * volumes.deep_grey
        volumes = with_atrophy(volumes, white, deep, lost / volumes.extra_axial_csf * rng.uniform(0.9, 1.3))
    if "ventriculomegaly" in by_name:
        injury = by_name["ventriculomegaly"]
        rng = named_rng(seed, "ventriculomegaly", infant)
        total = NORMAL_VENTRICLES_ML * rng.uniform(*VENTRICLE_FACTORS[injury.severity])
        share = {"both": rng.uniform(0.45, 0.55), "left": rng.uniform(0.25, 0.32), "right": rng.uniform(0.68, 0.75)}
        right = share[injury.side]
        volumes = with_ventricles(volumes, total * (1.0 - right), total * right)
    return volumes


def place_lesions(
    anatomy: Anatomy,
    injuries: Iterable[Injury],
    grid: Grid,
    seed: int,
    infant: str,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> LesionMap:
    """Place cysts, clot and punctate lesions in a head. Cysts become CSF in `anatomy.dseg` (changed in place)."""
    result = LesionMap(mask=np.zeros(anatomy.dseg.shape, dtype=np.uint8))
    by_name = {injury.name: injury for injury in injuries}
    axes = grid.axes(shift)
    if "cystic_pvl" in by_name:
        _place_cysts(result, anatomy, by_name["cystic_pvl"], axes, named_rng(seed, "cystic_pvl", infant))
    if "ivh" in by_name:
        _place_clot(result, anatomy, by_name["ivh"], named_rng(seed, "ivh", infant))
    if "punctate" in by_name:
        _place_punctate(result, anatomy, by_name["punctate"], axes, named_rng(seed, "punctate", infant))
    if "diffuse_wmi" in by_name:
        severity, rng = by_name["diffuse_wmi"].severity, named_rng(seed, "diffuse_wmi", infant)
        rise, loss = float(rng.uniform(*MD_RISE[severity])), float(rng.uniform(*FA_LOSS[severity]))
        result.white_matter = {"T2w": 1.0 + T2W_RISE, "MD": 1.0 + rise, "FA": 1.0 - loss}
    return result


def sphere_fraction(
    axes: list[np.ndarray],
    centre: tuple[float, float, float],
    diameter: float,
    shape: tuple[int, ...],
    samples: int = 6,
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The fraction (0-1) of each voxel inside a sphere, estimated with `samples`^3 points per voxel.

    Returns:
        The slices of the box around the sphere, and the fractions in that box (float32).
    """
    box, sampled = [], []
    for axis, middle, n in zip(axes, centre, shape, strict=True):
        step = float(axis[1] - axis[0])
        low = int(np.clip(np.floor((middle - diameter / 2 - axis[0]) / step), 0, n - 1))
        high = int(np.clip(np.ceil((middle + diameter / 2 - axis[0]) / step), low, n - 1))
        box.append(slice(low, high + 1))
        offsets = (np.arange(samples) + 0.5) / samples - 0.5
        sampled.append(((axis[low : high + 1, None] + offsets * step).ravel() - middle) ** 2)
    squared = sampled[0][:, None, None] + sampled[1][None, :, None] + sampled[2][None, None, :]
    filled = (squared < diameter**2 / 4).astype(np.float32)
    blocks = filled.reshape(-1, samples, filled.shape[1] // samples, samples, filled.shape[2] // samples, samples)
    return tuple(box), blocks.mean(axis=(1, 3, 5))


def _on_side(anatomy: Anatomy, side: str, beyond: float = 0.0) -> np.ndarray:
    """Mask of the points on one side (or both), more than `beyond` mm from the midline."""
    x = anatomy.points[0]
    return {"both": np.abs(x) > beyond, "left": x < -beyond, "right": x > beyond}[side]


def _inside_fraction(anatomy: Anatomy, axes: list[np.ndarray], centre: tuple, diameter: float, labels: tuple) -> float:
    """The fraction of a sphere that is in the given tissues."""
    box, fraction = sphere_fraction(axes, centre, diameter, anatomy.dseg.shape, samples=3)
    return float((fraction * np.isin(anatomy.dseg[box], labels)).sum() / max(fraction.sum(), 1e-6))


def _place_sphere(
    anatomy: Anatomy,
    axes: list[np.ndarray],
    rng: np.random.Generator,
    candidates: np.ndarray,
    diameter: float,
    avoid: list[Lesion],
    tries: int = 40,
) -> tuple[float, float, float] | None:
    """Draw centres until a sphere fits in white matter, clear of `avoid`; otherwise return the best one drawn."""
    if not candidates.size:
        return None
    best, best_score = None, -1.0
    for _ in range(tries):
        point = anatomy.points[:, int(candidates[rng.integers(candidates.size)])]
        x, y, z = (float(v) for v in point + rng.uniform(-0.25, 0.25, 3))
        centre = (x, y, z)
        if any(np.hypot.reduce(np.subtract(centre, o.centre)) < (o.diameter + diameter) / 2 + 0.5 for o in avoid):
            continue
        score = _inside_fraction(anatomy, axes, centre, diameter, (WHITE_MATTER,))
        if score > best_score:
            best, best_score = centre, score
        if score > 0.97:
            break
    return best


def _place_cysts(
    result: LesionMap, anatomy: Anatomy, injury: Injury, axes: list[np.ndarray], rng: np.random.Generator
) -> None:
    white = anatomy.dseg.ravel()[anatomy.inside] == WHITE_MATTER
    gap, depth = anatomy.ventricle_gap, anatomy.sulcal_depth
    count = int(rng.integers(3, 8)) if injury.severity == "small" else int(rng.integers(2, 4))
    sides = {"both": ["left", "right"], "left": ["left"], "right": ["right"]}[injury.side]
    cysts: list[Lesion] = []
    extents = []
    for side in sides:
        for _ in range(1 if injury.severity == "confluent" else count):
            diameter = float(rng.uniform(*CYST_DIAMETERS_MM[injury.severity]))
            near = white & _on_side(anatomy, side, _OFF_MIDLINE_MM)
            near &= (gap > diameter / 2 + 0.3) & (depth > diameter / 2)
            candidates = np.flatnonzero(near & (gap < diameter / 2 + 3.0))
            if not candidates.size:  # thin mantle: use any white matter on that side
                candidates = np.flatnonzero(white & _on_side(anatomy, side))
            centre = _place_sphere(anatomy, axes, rng, candidates, diameter, cysts)
            if centre is None:
                continue
            chain = [Lesion(CYST, centre, diameter)]
            extent = diameter
            if injury.severity == "confluent":  # a row of overlapping cysts along the ventricle
                extent = float(rng.uniform(*CONFLUENT_LENGTHS_MM))
                steps = max(int(np.ceil((extent - diameter) / (0.6 * diameter))), 1)
                for step in range(1, steps + 1):
                    along = (extent - diameter) * step / steps * (1.0 if centre[1] < 0 else -1.0)
                    chain.append(Lesion(CYST, (centre[0], centre[1] + along, centre[2]), diameter))
            cysts += chain
            extents.append(extent)
    fraction = np.zeros(anatomy.dseg.shape, dtype=np.float32)
    for cyst in cysts:
        box, part = sphere_fraction(axes, cyst.centre, cyst.diameter, anatomy.dseg.shape)
        fraction[box] = np.maximum(fraction[box], part * np.isin(anatomy.dseg[box], (WHITE_MATTER, DEEP_GREY)))
    result.cyst_fraction = fraction
    result.mask[fraction >= 0.5] = CYST
    anatomy.dseg[fraction >= 0.5] = CSF
    result.lesions += cysts
    result.truth.update(cyst_count=len(extents), cyst_max_extent_mm=max(extents, default=0.0))


def _place_clot(result: LesionMap, anatomy: Anatomy, injury: Injury, rng: np.random.Generator) -> None:
    """Fill a fraction of the ventricle from the back and the bottom, as blood settles in a supine infant."""
    ventricle = anatomy.dseg.ravel()[anatomy.inside] == VENTRICLES
    ripple = SmoothField(rng, rng, 9.0).at(*anatomy.points)
    level = anatomy.points[1] + 0.5 * anatomy.points[2] + 4.0 * ripple
    sides = {"both": ["left", "right"], "left": ["left"], "right": ["right"]}[injury.side]
    for side in sides:
        fraction = float(rng.uniform(*CLOT_FRACTIONS[injury.severity]))
        voxels = np.flatnonzero(ventricle & _on_side(anatomy, side))
        lowest = voxels[np.argsort(level[voxels], kind="stable")[: round(fraction * voxels.size)]]
        result.mask.ravel()[anatomy.inside[lowest]] = CLOT
        result.truth[f"clot_fraction_{side}"] = lowest.size / max(voxels.size, 1)


def _place_punctate(
    result: LesionMap, anatomy: Anatomy, injury: Injury, axes: list[np.ndarray], rng: np.random.Generator
) -> None:
    white = anatomy.dseg.ravel()[anatomy.inside] == WHITE_MATTER
    near = np.flatnonzero(
        white
        & _on_side(anatomy, injury.side, _OFF_MIDLINE_MM)
        & (anatomy.ventricle_gap > 1.5)
        & (anatomy.ventricle_gap < 9.0)
        & (anatomy.sulcal_depth > 3.5)
    )
    if not near.size:
        near = np.flatnonzero(white & _on_side(anatomy, injury.side))
    low, high = PUNCTATE_COUNTS[injury.severity]
    count = int(rng.integers(low, high + 1))
    start = anatomy.points[:, int(near[rng.integers(near.size)])]
    offset = np.abs(anatomy.points[:, near] - start[:, None])
    linear = bool(rng.random() < 0.5)  # a row along the ventricle, else a cluster
    row = (offset[0] < 3.0) & (offset[2] < 3.0) & (offset[1] < 2.5 * count + 4.0)
    cluster = np.sqrt((offset**2).sum(axis=0)) < 5.0 + 0.7 * count
    candidates = near[row if linear else cluster]
    mean, sd = PUNCTATE_CONTRAST
    change = np.zeros(anatomy.dseg.shape, dtype=np.float32)
    lesions: list[Lesion] = []
    for _ in range(count):
        diameter = float(rng.uniform(*PUNCTATE_DIAMETERS_MM))
        contrast = mean + sd * float(np.clip(rng.standard_normal(), -2.0, 2.0))
        centre = _place_sphere(anatomy, axes, rng, candidates, diameter, lesions)
        if centre is None:  # no space left there: use any place near the ventricles
            centre = _place_sphere(anatomy, axes, rng, near, diameter, lesions)
        if centre is None:
            continue
        lesions.append(Lesion(PUNCTATE, centre, diameter, contrast))
        box, part = sphere_fraction(axes, centre, diameter, anatomy.dseg.shape)
        part *= ~np.isin(anatomy.dseg[box], (VENTRICLES, CSF, BRAINSTEM))
        change[box] += contrast * part
        result.mask[box][part >= min(0.5, float(part.max()))] = PUNCTATE
    result.punctate_contrast = change
    result.lesions += lesions
    diameters = [lesion.diameter for lesion in lesions]
    result.truth.update(
        punctate_count=len(lesions),
        punctate_max_diameter_mm=max(diameters, default=0.0),
        punctate_mean_contrast=float(np.mean([x.contrast for x in lesions])) if lesions else 0.0,
    )

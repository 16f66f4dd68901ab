"""Paint small injuries of known place, size and contrast into a scan: dark spots and streaks, bright spots, cysts.

What is added is smooth, so the noise of the scan stays as it is. Needs numpy and scipy only. Never clinical evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from .plan import KINDS
from .shapes import draw_spot, draw_streak, share_of_voxels

DARK = {"spot": 0.7, "streak": 0.3}  # how often each kind is painted for training
DIAMETERS_MM = (1.2, 4.5)
CONTRASTS = (0.08, 0.45)
WHITE_MATTER = (0.85, 1.2)  # local mean where an injury may lie; white matter is 1
CSF = 1.7  # usual brightness of CSF in a neonatal T2w scan
_EDGE_MM = (0.3, 0.5)  # SD of the soft edge
_EVENNESS = 0.7  # share of the places of white-matter brightness that counts as homogeneous
_PLACES = 8000  # voxels looked at
_CUBE_MM = 2.5  # edge of the cube whose mean and SD are looked at
_CLUSTER_MM = (2.5, 9.0)  # distance between neighbours in a cluster
_TRIES = 60
_WITHIN = 0.9  # of an injury lies in white matter, where that is known
_FAINTEST = 1e-3  # smaller shares are left out


class Lesion(NamedTuple):
    """One painted injury. The scan has changed by `contrast * background * share`, and nowhere else."""

    kind: str  # one of KINDS
    centre: tuple[float, float, float]  # centre of mass, voxels of the grid
    diameter_mm: float  # of the sphere of the same volume
    contrast: float  # relative change of the local background: -0.2 is 20 % darker
    background: float  # brightness around the injury before it was painted; white matter is 1
    start: tuple[int, int, int]  # first voxel of the box `share`
    share: np.ndarray  # float32, 0-1: how much of each voxel is injured

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where `share` lies in the grid."""
        x, y, z = (slice(a, a + n) for a, n in zip(self.start, self.share.shape, strict=True))
        return x, y, z

    def mask(self) -> np.ndarray:
        """The voxels of the box that count as injured: at least half a voxel, or half of the fullest one."""
        return self.share >= min(0.5, float(self.share.max()) / 2)


def paint_spots(
    data: np.ndarray,
    inside: np.ndarray,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
    count: int = 40,
    *,
    kinds: Mapping[str, float] | None = None,
    diameters_mm: tuple[float, float] = DIAMETERS_MM,
    contrasts: tuple[float, float] = CONTRASTS,
    clustered: float = 0.4,
    csf: float = CSF,
    white_matter: np.ndarray | None = None,
) -> tuple[np.ndarray, list[Lesion]]:
    """Paint injuries that do not touch each other where the scan is homogeneous and as bright as white matter.

    Args:
        data: (x, y, z) float32; white matter is 1.
        inside: (x, y, z) bool; no injury reaches beyond it. The interior of the head, or white matter.
        spacing: (3,) mm.
        rng: determines everything.
        count: how many. Fewer are painted if there is no more room.
        kinds: kind -> how often, relative to the others; `spot` (dark), `streak` (dark), `bright` (a spot or a streak
            as bright as a perivascular space) and `cyst` (as bright as CSF). None: `DARK`.
        diameters_mm: smallest and largest, of the sphere of the same volume; drawn log-uniformly.
        contrasts: smallest and largest share of the local background, above 0; the kind gives the sign. Cysts take
            their contrast from `csf`.
        clustered: probability that an injury lies within 9 mm of the one before.
        csf: brightness of CSF.
        white_matter: (x, y, z) bool; if it is given, at least 90 % of each injury lies in it.

    Returns:
        A painted copy of the scan, float32, and the injuries in it.

    Raises:
        ValueError: a kind is unknown, or shapes do not agree.
    """
    data = np.asarray(data, dtype=np.float32)
    if data.ndim != 3 or data.shape != np.shape(inside):
        raise ValueError(f"the scan has the shape {data.shape}, its inside {np.shape(inside)}; both must be the same")
    weights = dict(DARK if kinds is None else kinds)
    if unknown := sorted(set(weights) - set(KINDS[:4])):
        raise ValueError(f"there is no kind of spot {unknown[0]!r}; choose among {', '.join(KINDS[:4])}")
    names = list(weights)
    chances = np.array([weights[name] for name in names], dtype=float)
    chances /= chances.sum()
    step = np.asarray(spacing, dtype=float)

    painted = data.copy()
    places = even_places(data, inside if white_matter is None else inside & white_matter, step, rng)
    free = np.array(inside, dtype=bool)
    lesions: list[Lesion] = []
    for _ in range(count):
        kind = names[int(rng.choice(len(names), p=chances))]
        diameter = float(np.exp(rng.uniform(*np.log(diameters_mm))))
        contrast = float(rng.uniform(*contrasts)) * (1.0 if kind == "bright" else -1.0)
        near = places
        if lesions and rng.random() < clustered:
            distance = np.linalg.norm((places - np.array(lesions[-1].centre)) * step, axis=1)
            near = places[(distance > _CLUSTER_MM[0]) & (distance < _CLUSTER_MM[1])]
        drawn = draw_share(rng, kind, diameter, step)
        for candidates in (near, places):
            lesion = place_lesion(data, free, candidates, rng, kind, diameter, contrast, drawn, csf, white_matter)
            if lesion is not None:
                break
        else:
            continue
        lesions.append(lesion)
        painted[lesion.box] += np.float32(lesion.contrast * lesion.background) * lesion.share
        _take(free, lesion, step)
    return painted, lesions


def even_places(data: np.ndarray, inside: np.ndarray, spacing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Voxels inside (n, 3), int, around which the scan is as bright as white matter, and homogeneous.

    A sample of the voxels is looked at, each with the cube around it. Homogeneous are the 70 % with the smallest SD.
    """
    reach = np.maximum(np.round(_CUBE_MM / 2 / spacing), 1).astype(int)
    core = np.zeros(data.shape, dtype=bool)
    deep = tuple(slice(r, max(n - r, r)) for r, n in zip(reach, data.shape, strict=True))
    core[deep] = inside[deep]
    voxels = np.flatnonzero(core)
    if voxels.size > _PLACES:
        voxels = voxels[np.sort(rng.choice(voxels.size, _PLACES, replace=False))]
    points = np.stack(np.unravel_index(voxels, data.shape), axis=1)
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    flat = np.ravel_multi_index(tuple(offsets.T + reach[:, None]), data.shape)
    flat -= np.ravel_multi_index(tuple(reach), data.shape)
    cubes = data.ravel()[voxels[:, None] + flat]
    mean, sd = cubes.mean(axis=1), cubes.std(axis=1)
    bright = (mean > WHITE_MATTER[0]) & (mean < WHITE_MATTER[1])
    if not bright.any():
        return points[:0]
    return points[bright & (sd <= np.quantile(sd[bright], _EVENNESS))]


def draw_share(
    rng: np.random.Generator, kind: str, diameter: float, spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A random injury around the centre of a voxel: the first voxel of its box relative to it, and the share (0-1)."""
    is_streak = kind == "streak" or (kind == "bright" and rng.random() < 0.5)
    parts = (draw_streak if is_streak else draw_spot)(rng, diameter)
    offset = rng.uniform(-0.5, 0.5, 3) * spacing
    first, share = share_of_voxels(parts, offset, spacing, float(rng.uniform(*_EDGE_MM)))
    share[share < _FAINTEST] = 0.0
    return first, share


def place_lesion(
    data: np.ndarray,
    free: np.ndarray,
    places: np.ndarray,
    rng: np.random.Generator,
    kind: str,
    diameter: float,
    contrast: float,
    drawn: tuple[np.ndarray, np.ndarray],
    csf: float = CSF,
    white_matter: np.ndarray | None = None,
) -> Lesion | None:
    """Look for a place where a drawn injury covers only free voxels. None if none of the places tried has the room."""
    first, share = drawn
    injured = share > 0.0
    for _ in range(_TRIES if len(places) else 0):
        start = places[int(rng.integers(len(places)))] + first
        if (start < 0).any() or (start + share.shape > data.shape).any():
            continue
        box = tuple(slice(a, a + n) for a, n in zip(start, share.shape, strict=True))
        if not free[box][injured].all():
            continue
        if white_matter is not None and share[white_matter[box]].sum() < _WITHIN * share.sum():
            continue
        background = float(np.median(data[box][~injured]))
        if kind == "cyst":
            contrast = csf / background - 1.0
        x, y, z = (start + ndimage.center_of_mass(share)).tolist()
        a, b, c = start.tolist()
        return Lesion(kind, (x, y, z), diameter, contrast, background, (a, b, c), share)
    return None


def _take(free: np.ndarray, lesion: Lesion, spacing: np.ndarray) -> None:
    """Close the voxels of an injury and those within about 1 mm of it to further injuries."""
    margin = np.maximum(np.round(1.0 / spacing), 1).astype(int)
    grown = ndimage.maximum_filter(np.pad(lesion.share > 0.0, [(m, m) for m in margin]), size=2 * margin + 1)
    start = np.array(lesion.start) - margin
    cut = np.maximum(-start, 0)
    grown = grown[tuple(slice(c, None) for c in cut)]
    start = start + cut
    grown = grown[tuple(slice(0, max(n - s, 0)) for s, n in zip(start, free.shape, strict=True))]
    box = tuple(slice(s, s + n) for s, n in zip(start, grown.shape, strict=True))
    free[box] &= ~grown

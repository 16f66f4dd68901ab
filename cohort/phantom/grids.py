"""Voxel grids: the small default, and the two grids of the dHCP release in several axis orders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import nibabel as nib
import numpy as np

FIELD_OF_VIEW_MM = (145.0, 145.0, 102.5)  # R, A, S: 116 x 116 x 82 voxels of 1.25 mm
FULL_VOXEL_SIZE = 0.5
MIN_VOXEL_SIZE, MAX_VOXEL_SIZE = 0.4, 5.0


@dataclass(frozen=True)
class Grid:
    """One image grid.

    Attributes:
        ras_shape: voxels along R, A, S.
        voxel_size: isotropic, mm.
        axcodes: directions in which the stored axes grow, e.g. ("L", "P", "S"); permutations and flips of RAS.
        origin: world position (mm, R A S) of the centre of the field of view; makes affines differ.
    """

    ras_shape: tuple[int, int, int]
    voxel_size: float
    axcodes: tuple[str, str, str] = ("R", "A", "S")
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def axes(self, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> list[np.ndarray]:
        """Voxel centres in mm along R, A, S. Zero is the centre of the field of view plus `shift`."""
        sizes = zip(self.ras_shape, shift, strict=True)
        return [(np.arange(n) - (n - 1) / 2.0) * self.voxel_size - moved for n, moved in sizes]

    @property
    def ras_affine(self) -> np.ndarray:
        """4x4 affine of the array in RAS order."""
        affine = np.diag([self.voxel_size] * 3 + [1.0])
        affine[:3, 3] = [o - (n - 1) / 2.0 * self.voxel_size for o, n in zip(self.origin, self.ras_shape, strict=True)]
        return affine

    def stored(self, ras_array: np.ndarray) -> np.ndarray:
        """Reorder an array from RAS into the stored axis order."""
        return np.ascontiguousarray(nib.orientations.apply_orientation(ras_array, self._transform()))

    @property
    def affine(self) -> np.ndarray:
        """4x4 affine of the array as stored."""
        return self.ras_affine @ nib.orientations.inv_ornt_aff(self._transform(), self.ras_shape)

    def _transform(self) -> np.ndarray:
        return nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt(("R", "A", "S")), nib.orientations.axcodes2ornt(self.axcodes)
        )


def small_grid(voxel_size: float = 1.25, field_of_view_mm: tuple[float, float, float] = FIELD_OF_VIEW_MM) -> Grid:
    """A grid of about 145 x 145 x 102 mm (116 x 116 x 82 voxels at 1.25 mm), or another, stored in RAS order."""
    if not MIN_VOXEL_SIZE <= voxel_size <= MAX_VOXEL_SIZE:
        raise ValueError(
            f"the voxel size is {voxel_size:g} mm; choose one between {MIN_VOXEL_SIZE} and {MAX_VOXEL_SIZE:g}"
        )
    right, anterior, superior = (math.ceil(round(side / voxel_size, 6)) for side in field_of_view_mm)
    return Grid((right, anterior, superior), float(voxel_size))


# The two grids of the release, in axis orders that a loader must handle. The 217 voxels run along R or S.
_FULL_GRIDS = (
    ((290, 290, 203), ("R", "A", "S")),
    ((290, 290, 203), ("L", "A", "S")),
    ((290, 290, 203), ("L", "P", "S")),
    ((217, 290, 290), ("R", "A", "S")),
    ((217, 290, 290), ("L", "S", "P")),
    ((290, 290, 217), ("S", "R", "A")),
)


def full_grid(rng: np.random.Generator) -> Grid:
    """Draw one of the 0.5 mm grids, stored as 290 x 290 x 203 or 217 x 290 x 290, and its world origin."""
    ras_shape, axcodes = _FULL_GRIDS[int(rng.integers(len(_FULL_GRIDS)))]
    x, y, z = (round(float(v), 2) for v in rng.uniform(-12.0, 12.0, 3))
    return Grid(ras_shape, FULL_VOXEL_SIZE, axcodes, (x, y, z))

"""Diffusion maps of a phantom: a grid of 1.5 mm, another place of the head, and what is left of EPI distortion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .acquisition import rotation_matrix
from .fields import SmoothField, named_rng
from .grids import Grid

VOXEL_MM = 1.5
SHAPE = (100, 100, 66)  # voxels along R, A, S
AXIS_ORDERS = (("R", "A", "S"), ("L", "A", "S"), ("L", "P", "S"))
MAX_ROTATION_DEG, MAX_OFFSET_MM, MAX_ORIGIN_MM = 6.0, 4.0, 15.0
DISTORTION_MM = 1.0  # largest displacement along the phase-encoding direction, A
BLUR_FWHM_MM = 1.8
NOISE = {"FA": 0.02, "MD": 0.05}  # SD: FA, and MD in 1e-3 mm2/s
MD_UNIT = 1e-3  # stored in mm2/s, as FSL does


@dataclass(frozen=True)
class DiffusionSpace:
    """Where the diffusion images of a session lie.

    Attributes:
        grid: voxels, axis order and origin.
        to_t2w: 4x4, from their world to that of the T2-weighted image, mm; a rigid motion.
        flirt: the same in FSL's convention.
    """

    grid: Grid
    to_t2w: np.ndarray
    flirt: np.ndarray


def draw_space(t2w: Grid, head: np.ndarray, seed: int, *names: str) -> DiffusionSpace:
    """Draw where the head lies in the diffusion images; `head` is its centre in the T2-weighted world, mm (R, A, S)."""
    rng = named_rng(seed, "diffusion", *names)
    x, y, z = (round(float(value), 2) for value in rng.uniform(-MAX_ORIGIN_MM, MAX_ORIGIN_MM, 3))
    grid = Grid(SHAPE, VOXEL_MM, AXIS_ORDERS[int(rng.integers(len(AXIS_ORDERS)))], (x, y, z))
    rotation = rotation_matrix(np.deg2rad(rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG, 3)))
    centre = np.array(grid.origin) + rng.uniform(-MAX_OFFSET_MM, MAX_OFFSET_MM, 3)
    to_t2w = np.eye(4)
    to_t2w[:3, :3] = rotation
    to_t2w[:3, 3] = head - (rotation * centre).sum(axis=1)
    return DiffusionSpace(grid, to_t2w, flirt_matrix(to_t2w, grid, t2w))


def flirt_matrix(world: np.ndarray, moving: Grid, reference: Grid) -> np.ndarray:
    """The matrix that FSL's FLIRT writes for a motion from the world of `moving` to that of `reference`, 4x4.

    FLIRT works in millimetres from the first voxel, along the stored axes. Where voxel axes are right-handed (the
    determinant of the affine is positive), it counts the first axis from the other end.
    """
    inner, outer = _flirt_to_world(moving), _flirt_to_world(reference)
    return np.linalg.inv(outer) @ world @ inner


def _flirt_to_world(grid: Grid) -> np.ndarray:
    affine = grid.affine
    to_voxels = np.diag([1.0 / grid.voxel_size] * 3 + [1.0])
    if np.linalg.det(affine[:3, :3]) > 0:
        length = int(np.abs(affine[:3, 0]).argmax())  # which of R, A, S the first stored axis runs along
        to_voxels[0] = [-1.0 / grid.voxel_size, 0.0, 0.0, grid.ras_shape[length] - 1.0]
    return affine @ to_voxels


def acquire_map(name: str, image: np.ndarray, t2w: Grid, space: DiffusionSpace, seed: int, *names: str) -> np.ndarray:
    """Resample a map to the diffusion grid, with blur, residual distortion and noise: float32, RAS order of that grid.

    Args:
        name: FA or MD.
        image: the map on the grid of the T2-weighted image, 0 outside the brain; MD in 1e-3 mm2/s.

    Returns:
        The map, 0 outside the brain; FA 0-1, MD in mm2/s.
    """
    image = ndimage.gaussian_filter(image, BLUR_FWHM_MM / 2.3548 / t2w.voxel_size, truncate=3.0)
    inside = ndimage.gaussian_filter((image > 0).astype(np.float32), 0.5)
    where = _sampled_at(t2w, space, named_rng(seed, "EPI", *names))
    found = ndimage.map_coordinates(image, where, order=1, output=np.float32)
    brain = ndimage.map_coordinates(inside, where, order=1, output=np.float32) > 0.9
    rng = named_rng(seed, "diffusion noise", name, *names)
    found += NOISE[name] * rng.standard_normal(found.shape, dtype=np.float32)
    found = np.clip(found, 1e-3, 1.0 if name == "FA" else None) * brain
    return (found if name == "FA" else found * np.float32(MD_UNIT)).astype(np.float32)


def _sampled_at(t2w: Grid, space: DiffusionSpace, rng: np.random.Generator) -> np.ndarray:
    """For each voxel of the diffusion grid (RAS order), the voxel of the T2-weighted image that it shows: (3, ...)."""
    axes = space.grid.axes()
    bend = SmoothField(rng, rng, 30.0).on_axes(*axes)
    bend *= DISTORTION_MM / max(float(np.abs(bend).max()), 1e-6)
    x, y, z = (axis + at for axis, at in zip(axes, space.grid.origin, strict=True))
    points = (x[:, None, None], y[None, :, None] + bend, z[None, None, :])
    start = t2w.ras_affine[:3, 3]
    rows = []
    for k in range(3):
        moved = sum(space.to_t2w[k, j] * points[j] for j in range(3)) + space.to_t2w[k, 3]
        rows.append((moved - start[k]) / t2w.voxel_size)
    return np.stack([np.broadcast_to(row, bend.shape) for row in rows])

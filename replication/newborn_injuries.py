"""Warps, dark spots and wide ventricles for scans of real newborns; see `newborns.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cohort.phantom.growth import WHITE_MATTER
from cohort.phantom.pathology import PUNCTATE

TURN_DEGREES, STRETCH = 5.0, 0.04  # largest rotation about each axis, and change of each length
WARP_MM, WARP_SCALE_MM = 1.5, 18.0  # root mean square of the smooth displacement, and its Gaussian scale
SPOTS = (2, 6)
DIAMETERS_MM = (2.0, 4.0)  # of a sphere of the spot's volume
CONTRAST = (0.20, 0.45)  # share of the surrounding white matter's signal that a spot takes away
SURROUNDINGS_MM = 4.0
BLUR_MM = 0.45  # Gaussian; the scanner's point spread, on top of partial volume
CLUSTER_MM = 15.0  # in every second scan all spots are this close to the first one
TUBE = 0.65  # width of a tube, relative to the sphere of its volume
WIDER = (2.5, 5.0)  # volume of wide ventricles, relative to before
PUSH_SCALE_MM, STEP_MM, MOST_STEPS = 5.0, 0.5, 60
SAMPLES = 5  # per voxel edge, for partial volume


class Spot(NamedTuple):
    """One spot: centre in voxels, diameter in mm of a sphere of its volume, shape, contrast."""

    centre: np.ndarray
    diameter: float
    shape: str
    contrast: float


def warp(shape: Sequence[int], spacing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a smooth warp: (3, R, A, S) voxel positions of the source, for each voxel of the result."""
    half = (np.array(shape) - 1) / 2
    turn = Rotation.from_euler("xyz", rng.uniform(-TURN_DEGREES, TURN_DEGREES, 3), degrees=True).as_matrix()
    turn = turn @ np.diag(rng.uniform(1 - STRETCH, 1 + STRETCH, 3))
    matrix = turn * spacing[None, :] / spacing[:, None]
    axes = [np.arange(n, dtype=np.float32) - middle for n, middle in zip(shape, half, strict=True)]
    positions = np.empty((3, *shape), np.float32)
    for axis in range(3):
        moved = ndimage.gaussian_filter(
            rng.standard_normal(shape, dtype=np.float32), WARP_SCALE_MM / spacing, mode="wrap"
        )
        positions[axis] = moved * (WARP_MM / spacing[axis] / moved.std()) + half[axis]
        for row, along in zip(matrix[axis], np.ix_(*axes), strict=True):
            positions[axis] += np.float32(row) * along
    return positions


def widening(ventricles: np.ndarray, spacing: np.ndarray, factor: float) -> np.ndarray:
    """A smooth displacement that widens the lateral ventricles: (3, R, A, S) voxels, result to source.

    The tissue flows outwards along the gradient of the blurred ventricles until their volume has grown by the factor.

    Raises:
        ValueError: it has not after `MOST_STEPS` steps.
    """
    inside = ventricles.astype(np.float32)
    blurred = ndimage.gaussian_filter(inside, PUSH_SCALE_MM / spacing)
    velocity = np.stack(np.gradient(blurred, *map(float, spacing)))  # per mm, inwards
    velocity *= STEP_MM / np.sqrt((velocity**2).sum(axis=0)).max()
    velocity = (velocity / spacing[:, None, None, None])[:, ::2, ::2, ::2].astype(np.float32)  # voxels a step
    start = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in velocity.shape[1:]), indexing="ij"))
    position, before = start.copy(), sampled(inside, start * 2, 1).sum()
    for _ in range(MOST_STEPS):
        position += np.stack([sampled(each, position, 1) for each in velocity]) / 2
        if sampled(inside, position * 2, 1).sum() >= factor * before:
            half = 2 * (position - start)
            whole = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) / 2 for n in inside.shape), indexing="ij"))
            return np.stack([sampled(each, whole, 1) for each in half])
    raise ValueError(f"the ventricles cannot be made {factor:.1f} times as large: check the labels")


def paint_spots(data: np.ndarray, tissues: np.ndarray, spacing: np.ndarray, rng: np.random.Generator):
    """Paint dark spots into the white matter.

    Half of the spots are ellipsoids, half are short tubes with round ends. A spot's share of each voxel, times its
    contrast, times the mean signal of the white matter around it is subtracted, so the noise stays.

    Returns:
        The painted intensities, the truth mask (`PUNCTATE` where at least half of a voxel is spot, at least one voxel
        a spot), and the spots.

    Raises:
        ValueError: the white matter has too little room.
    """
    white = tissues == WHITE_MATTER
    depth = ndimage.distance_transform_edt(white, sampling=spacing)
    weight = ndimage.gaussian_filter(white.astype(np.float32), SURROUNDINGS_MM / spacing)
    level = ndimage.gaussian_filter(np.where(white, data, 0), SURROUNDINGS_MM / spacing) / np.maximum(weight, 1e-3)
    clustered, spots = rng.random() < 0.5, []
    for _ in range(rng.integers(SPOTS[0], SPOTS[1] + 1)):
        diameter = float(rng.uniform(*DIAMETERS_MM))
        room = np.argwhere(depth > diameter / 2 + 0.5)
        for other in spots:
            gap = np.linalg.norm((room - other.centre) * spacing, axis=1)
            far = CLUSTER_MM if clustered and other is spots[0] else np.inf
            room = room[(gap > diameter / 2 + other.diameter / 2 + 2) & (gap < far)]
        if not len(room):
            continue
        centre = room[rng.integers(len(room))] + rng.uniform(-0.5, 0.5, 3)
        shape = "ellipsoid" if rng.random() < 0.5 else "tube"
        spots.append(Spot(centre, diameter, shape, float(rng.uniform(*CONTRAST))))
    if len(spots) < SPOTS[0]:
        raise ValueError("the white matter has no room for two spots: check the labels")
    share, mask = np.zeros(data.shape, np.float32), np.zeros(data.shape, np.uint8)
    for spot in spots:
        box, inside = _shares(spot, spacing, data.shape, rng)
        share[box] = np.maximum(share[box], inside * spot.contrast)
        mask[box][inside >= min(0.5, inside.max())] = PUNCTATE
    painted = data - ndimage.gaussian_filter(share, BLUR_MM / spacing) * level
    return np.where(tissues > 0, np.maximum(painted, 0), data), mask, spots


def _shares(spot: Spot, spacing: np.ndarray, shape: Sequence[int], rng: np.random.Generator):
    """The slices of the box around a spot, and the share of each voxel there that is spot."""
    radius = spot.diameter / 2
    reach = np.ceil(2 * spot.diameter / spacing).astype(int)
    low = np.maximum(np.round(spot.centre).astype(int) - reach, 0)
    high = np.minimum(np.round(spot.centre).astype(int) + reach + 1, shape)
    offsets = (np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5
    axes = [((np.arange(low[k], high[k])[:, None] + offsets).ravel() - spot.centre[k]) * spacing[k] for k in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ Rotation.random(random_state=rng).as_matrix()
    if spot.shape == "ellipsoid":
        lengths = np.exp(rng.uniform(-0.3, 0.3, 3))
        lengths *= radius / np.cbrt(lengths.prod())
        inside = ((points / lengths) ** 2).sum(axis=-1) < 1
    else:  # as large as the sphere: pi w^2 / 4 * straight + pi w^3 / 6 = pi d^3 / 6
        width = TUBE * spot.diameter
        straight = (spot.diameter**3 - width**3) * 2 / 3 / width**2
        points[..., 0] -= np.clip(points[..., 0], -straight / 2, straight / 2)
        inside = (points**2).sum(axis=-1) < width**2 / 4
    sizes = [n for length in high - low for n in (length, SAMPLES)]
    return tuple(map(slice, low, high)), inside.reshape(sizes).mean(axis=(1, 3, 5), dtype=np.float32)


def sampled(array: np.ndarray, positions: np.ndarray, order: int) -> np.ndarray:
    return ndimage.map_coordinates(array, positions, order=order, mode="nearest", output=array.dtype)

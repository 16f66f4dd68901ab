"""Shapes of painted injuries: unions of turned ellipsoids and bent streaks, as the share of each voxel that they fill.

A shape lives in millimetres around the origin. Drawing one at random is separate from putting it on a grid, so that the
same shape can be put on any grid, and its volume can be checked against a formula.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

SAMPLES = 4  # points per edge of a voxel that the surface may cut
_LATTICE = 24  # points per edge of the box in which the volume of a union is measured
_LONGEST_STREAK_MM = 10.0


class Part(NamedTuple):
    """All points x whose `matrix @ (x - nearest point of the segment)` is shorter than 1.

    An ellipsoid if the segment is a point, a capsule if `matrix` is a multiple of the identity.
    """

    centre: np.ndarray  # (3,) mm, middle of the segment
    half: np.ndarray  # (3,) mm, from the middle of the segment to its end; 0 for an ellipsoid
    matrix: np.ndarray  # (3, 3) per mm
    narrowest: float  # mm, smallest semi-axis


def ellipsoid(centre: np.ndarray, semi_axes: np.ndarray, turn: np.ndarray) -> Part:
    """An ellipsoid with `semi_axes` (3,) in mm along the rows of the rotation `turn` (3, 3)."""
    matrix = np.asarray(turn, dtype=float) / np.asarray(semi_axes, dtype=float)[:, None]
    return Part(np.asarray(centre, float), np.zeros(3), matrix, float(np.min(semi_axes)))


def capsule(start: np.ndarray, end: np.ndarray, radius: float) -> Part:
    """A cylinder with round ends between two points, in mm."""
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    return Part((start + end) / 2, (end - start) / 2, np.eye(3) / radius, radius)


def draw_spot(rng: np.random.Generator, diameter: float) -> list[Part]:
    """A union of 1 to 3 overlapping turned ellipsoids with the volume of a sphere of `diameter` mm."""
    parts = []
    for index in range(int(rng.integers(1, 4))):
        semi_axes = np.exp(rng.uniform(-0.3, 0.3, 3)) * (1.0 if index == 0 else rng.uniform(0.5, 0.9))
        offset = np.zeros(3) if index == 0 else _direction(rng) * rng.uniform(0.4, 0.9)
        parts.append(ellipsoid(offset, semi_axes, _rotation(rng)))
    return with_volume_of_sphere(parts, diameter)


def draw_streak(rng: np.random.Generator, diameter: float) -> list[Part]:
    """A slightly bent streak along a random direction, as along a medullary vein; volume of a sphere of `diameter` mm.

    It is about 2.5 to 5 times as long as wide, and not much longer than 10 mm.
    """
    longest = max(2.5, min(5.0, (_LONGEST_STREAK_MM / diameter) ** 1.5))
    reach = float(np.exp(rng.uniform(np.log(2.5), np.log(longest)))) - 1.0  # half the length of the axis, in radii
    along = _direction(rng)
    across = np.cross(along, _direction(rng))
    bend = across / max(float(np.linalg.norm(across)), 1e-6) * reach * rng.uniform(0.0, 0.3)
    return with_volume_of_sphere([capsule(-reach * along, bend, 1.0), capsule(bend, reach * along, 1.0)], diameter)


def with_volume_of_sphere(parts: list[Part], diameter: float) -> list[Part]:
    """Scale a shape and move its bounding box to the origin, so that it has the volume of a sphere of `diameter` mm."""
    low, high = _bounds(parts)
    edges = [np.linspace(a, b, _LATTICE + 1) for a, b in zip(low, high, strict=True)]
    middles = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    points = np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1)
    volume = _filled(parts, points, float(np.mean(high - low)) / _LATTICE).mean() * float(np.prod(high - low))
    scale = (np.pi / 6.0 * diameter**3 / volume) ** (1.0 / 3.0)
    middle = (low + high) / 2
    return [Part((p.centre - middle) * scale, p.half * scale, p.matrix / scale, p.narrowest * scale) for p in parts]


def share_of_voxels(
    parts: list[Part], offset: np.ndarray, spacing: np.ndarray, edge_mm: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The share of each voxel that a shape fills: partial volume, then a soft edge that keeps the volume.

    Args:
        parts: a shape around the origin, mm along the axes of the grid.
        offset: (3,) where the origin lies relative to the centre of a voxel, mm.
        spacing: (3,) mm.
        edge_mm: SD of the Gaussian that softens the edge, mm.

    Returns:
        (3,) index of the first voxel of the box relative to that voxel, and the share (0-1), float32.
    """
    spacing = np.asarray(spacing, dtype=float)
    low, high = (bound + offset for bound in _bounds(parts))
    margin = np.ceil(3.0 * edge_mm / spacing + 0.5)
    first = (np.floor(low / spacing) - margin).astype(int)
    last = (np.ceil(high / spacing) + margin).astype(int)
    axes = [np.arange(a, b + 1) * step for a, b, step in zip(first, last, spacing, strict=True)]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - offset
    depth = np.max([_depth(part, centres) for part in parts], axis=0)
    # the depth is of first order only: a wide margin leaves no voxel of the surface out
    cut = np.abs(depth) < float(np.linalg.norm(spacing)) + 0.5 * np.abs(depth)
    share = (depth > 0.0).astype(np.float32)
    step = (np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5
    inner = np.stack(np.meshgrid(*(step * s for s in spacing), indexing="ij"), axis=-1).reshape(1, -1, 3)
    share[cut] = _filled(parts, centres[cut][:, None, :] + inner, float(np.mean(spacing)) / SAMPLES).mean(axis=1)
    if edge_mm > 0.0:
        share = ndimage.gaussian_filter(share, edge_mm / spacing, mode="constant", truncate=3.0)
    return first, share


def _depth(part: Part, points: np.ndarray) -> np.ndarray:
    """The depth (...) of points (..., 3) below the surface of a part, mm; first order, exact at the surface."""
    vector = points - part.centre
    length = float(part.half @ part.half)
    if length > 0.0:
        along = np.clip(vector @ part.half / length, -1.0, 1.0)
        vector = vector - along[..., None] * part.half
    scaled = vector @ part.matrix.T
    value = np.sqrt((scaled**2).sum(axis=-1))
    slope = np.sqrt(((scaled @ part.matrix) ** 2).sum(axis=-1))  # times value
    return (1.0 - value) * np.where(slope > 0.0, value / np.maximum(slope, 1e-12), part.narrowest)


def _filled(parts: list[Part], points: np.ndarray, size: float) -> np.ndarray:
    """The share (...) of small cubes with edges of `size` mm around points (..., 3) that a union fills."""
    return np.clip(0.5 + np.max([_depth(part, points) for part in parts], axis=0) / size, 0.0, 1.0)


def _bounds(parts: list[Part]) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper corner (3,) of a box around a shape, mm."""
    reach = [np.abs(part.half) + np.linalg.norm(np.linalg.inv(part.matrix), axis=1) for part in parts]
    low = np.min([part.centre - size for part, size in zip(parts, reach, strict=True)], axis=0)
    high = np.max([part.centre + size for part, size in zip(parts, reach, strict=True)], axis=0)
    return low, high


def _direction(rng: np.random.Generator) -> np.ndarray:
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)


def _rotation(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((3, 3)))[0]

"""The phantom's anatomy: each tissue fills its exact volume with the voxels where its shape function is lowest.

Positions are in millimetres: x to the right, y to the front, z up, zero at the centre of the intracranial space. Shape
functions are written for a head of 40 weeks (half axes 45 x 58 x 42 mm) and scaled with the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .fields import SmoothField, named_rng
from .grids import Grid
from .growth import (
    BRAINSTEM,
    CEREBELLUM,
    CORTEX,
    CSF,
    DEEP_GREY,
    HIPPOCAMPUS,
    VENTRICLES,
    WHITE_MATTER,
    TissueVolumes,
    intracranial_half_axes,
)

STANDARD_HALF_AXES = (44.8, 57.5, 41.4)  # mm, 40 weeks

# Right lateral ventricle as (x, y, z, radius) along its axis: frontal horn, body, atrium, occipital horn; and the
# temporal horn, from the atrium. Radii are relative: the filled volume sets the absolute size.
_VENTRICLE_BODY = (
    (9.5, 25, 2, 1.5),
    (8, 19, 6, 2.7),
    (8.5, 8, 9.5, 2.2),
    (11, -6, 11, 2.2),
    (16, -18, 7, 3.2),
    (19, -26, 2, 3.3),
    (18, -36, 1, 1.9),
    (15, -43, 2, 0.9),
)
_VENTRICLE_TEMPORAL = ((19, -24, 2, 2.6), (25, -17, -7, 1.5), (26, -7, -13, 1.2), (24, 1, -15, 1.0))
_BRAINSTEM = ((0, -5, -5, 8.5), (0, -7, -12, 8.5), (0, -7, -19, 9.5), (0, -11, -27, 7.0), (0, -15, -40, 5.5))
_HIPPOCAMPUS = ((15, -19, -3, 2.2), (18, -12, -11, 2.8), (19, -4, -15, 3.4), (18, 3, -16, 4.2))
# centre and half axes, mm
_DEEP_GREY = (((9, -8, 1), (8.2, 13.5, 9.5)), ((22.5, 3, 0), (6.0, 14.5, 10.5)), ((12.5, 17, 5), (4.5, 8.5, 8)))
_CAPSULE = (((13.0, 7.0), (24.0, -16.0)), ((13.0, 7.0), (21.0, 23.0)))  # internal capsule: two limbs, as (x, y)
_CEREBELLUM = (((15, -30, -23), (16, 14, 11.5)), ((0, -29, -21), (9, 13, 11.5)))


@dataclass(frozen=True)
class Anatomy:
    """A labelled head on one grid (arrays in RAS order).

    Attributes:
        dseg: uint8, DrawEM-9 tissue labels; 0 outside the intracranial space.
        scalp_depth: float32, mm outside the intracranial space (0 inside).
        inside: int64, flat indices of the n intracranial voxels; the arrays below have one value per such voxel.
        points: float32 (3, n), position in mm.
        ventricle_gap: float32, approximate distance in mm to the nearest ventricle wall, negative inside.
        sulcal_depth: float32, mm to the nearest pial surface, including sulci.
        half_axes: of the intracranial ellipsoid, mm (R, A, S).
    """

    dseg: np.ndarray
    scalp_depth: np.ndarray
    inside: np.ndarray
    points: np.ndarray
    ventricle_gap: np.ndarray
    sulcal_depth: np.ndarray
    half_axes: tuple[float, float, float]


def build_anatomy(
    volumes: TissueVolumes,
    weeks: float,
    grid: Grid,
    seed: int,
    family: str = "",
    infant: str = "",
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Anatomy:
    """Label a head with the given tissue volumes.

    Args:
        volumes: the tissue volumes to fill, mL.
        weeks: post-menstrual age; sets the depth of the sulci.
        seed, family, infant: determine the random shape. Infants of one family share most of it; an infant keeps its
            shape across sessions.
        shift: displacement of the head in the field of view, mm (R, A, S).
    """

    def field(name: str, spacing: float = 10.0, wavelength: float | None = None) -> SmoothField:
        shared, own = named_rng(seed, "shape", name, family), named_rng(seed, "shape", name, family, infant)
        return SmoothField(shared, own, spacing, wavelength=wavelength)

    x, y, z = grid.axes(shift)
    half_axes = intracranial_half_axes(volumes.intracranial)
    voxel_ml = grid.voxel_size**3 / 1000.0
    radius = _skull_radius(x, y, z, half_axes, field("hull", 32.0))
    # Cut the intracranial space at the radius that encloses its volume, so that the volume is exact on any grid.
    near = radius[radius < 1.35]
    count = min(round(volumes.intracranial / voxel_ml), near.size - 1)
    radius /= np.partition(near, count)[count]
    distance = np.sqrt((x**2)[:, None, None] + (y**2)[None, :, None] + (z**2)[None, None, :]).astype(np.float32)
    scalp_depth = np.where(radius > 1.0, distance - distance / np.maximum(radius, 1.0), 0.0).astype(np.float32)

    inside = np.flatnonzero(radius < 1.0)
    i, j, k = np.unravel_index(inside, radius.shape)
    points = np.stack([x[i], y[j], z[k]]).astype(np.float32)
    rho = np.maximum(radius.ravel()[inside], 1e-3)
    depth = distance.ravel()[inside] * (1.0 / rho - 1.0)
    scale = np.array([s / h for s, h in zip(STANDARD_HALF_AXES, half_axes, strict=True)], dtype=np.float32)
    px, py, pz = points * scale[:, None]
    ax, mean_scale = np.abs(px), float(np.prod(scale)) ** (1.0 / 3.0)

    labels = np.zeros(inside.size, dtype=np.uint8)
    counts = {name: max(round(getattr(volumes, name) / voxel_ml), 1) for name in TissueVolumes.__dataclass_fields__}

    # Tissues placed first keep their shape; later ones fill the space around them.
    stem = _tube(px / 1.15, py, pz, _BRAINSTEM)
    _fill(labels, stem + _rim(depth, 1.0), counts["brainstem"], BRAINSTEM)
    little = np.minimum.reduce([_ellipsoid(ax if c[0] else px, py, pz, c, h) for c, h in _CEREBELLUM])
    little += 0.02 * field("cerebellum", 6.0).at(ax, py, pz)
    edge = _fill(labels, little + _rim(depth, 1.5), counts["cerebellum"], CEREBELLUM)
    tentorium = (little / edge - 1.0) * 13.0 / mean_scale  # mm above the cerebellum, roughly
    along, across = _slit(ax, pz)
    body, body_radius = _tube(along, py, across, _slit_axis(_VENTRICLE_BODY), with_radius=True)
    temporal, temporal_radius = _tube(ax, py, pz, _VENTRICLE_TEMPORAL, with_radius=True)
    horn = np.minimum(body, temporal)
    horn_radius = np.where(body < temporal, body_radius, temporal_radius) / mean_scale
    # the cost near the skull keeps a mantle of brain around ventricles of any size
    horn_cost = horn * (1.0 + (5.0 / np.maximum(depth, 0.5)) ** 2)
    horn_cost += np.where(ax < 0.9, 50.0, 0.0)  # septum pellucidum
    gap = np.full(inside.size, np.inf, dtype=np.float32)
    dilation = 1.0
    for side, name in ((px < 0, "left_ventricle"), (px > 0, "right_ventricle")):
        wall = _fill(labels, np.where(side, horn_cost, np.inf), counts[name], VENTRICLES)
        gap[side] = ((horn_cost - wall) * horn_radius)[side]
        dilation = max(dilation, wall / 2.0)
    third = _ellipsoid(px / min(dilation, 3.0), py, pz, (0, -3, -2), (1.2, 8, 6.5))
    fourth = _ellipsoid(px, py, pz, (0, -17, -22), (4.5, 3.0, 4.0))
    labels[((third < 1.0) | (fourth < 1.0)) & (labels != VENTRICLES)] = CSF

    walls = _pial_distance(ax, px, py, pz, rho, depth * mean_scale, weeks, field) / mean_scale
    walls = np.minimum(walls, np.maximum(tentorium, 0.0) + 0.8)
    # Outer CSF: the cisterns around cerebellum and brainstem, then the voxels nearest to the skull or a sulcus.
    basal = np.where((pz < -12) & (py < 4), np.maximum(stem - 1.0, 0.0) * 6.0, np.inf)
    outer = np.minimum(walls, np.where((depth < 6) | (pz < -20), np.minimum(basal, np.maximum(tentorium, 0.0)), np.inf))
    missing = counts["extra_axial_csf"] - int(np.count_nonzero(labels == CSF))
    _fill(labels, outer, max(missing, 1), CSF)

    pial = walls + np.where(stem < 1.3, 20.0, 0.0)  # no cortex between the brainstem and the thalami
    nuclei = np.minimum.reduce([_ellipsoid(ax, py, pz, c, h) for c, h in _DEEP_GREY])
    capsule = np.minimum.reduce([_segment(ax, py, a, b) for a, b in _CAPSULE])
    nuclei += 0.5 * np.exp(-((capsule / 1.5) ** 2))
    _fill(labels, nuclei + np.where(walls < 2.5, 5.0, 0.0), counts["deep_grey"], DEEP_GREY)
    _fill(labels, _tube(ax, py, pz, _HIPPOCAMPUS), counts["hippocampus"], HIPPOCAMPUS)
    _fill(labels, pial, counts["cortex"], CORTEX)
    labels[labels == 0] = WHITE_MATTER

    dseg = np.zeros(radius.shape, dtype=np.uint8)
    dseg.ravel()[inside] = labels
    return Anatomy(dseg, scalp_depth, inside, points, gap, walls, half_axes)


def _skull_radius(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, half_axes: tuple[float, float, float], hull: SmoothField
) -> np.ndarray:
    """Normalised radius of the intracranial space, about 1 at its border.

    The shape is an ellipsoid, wider at the back than at the front, with a raised floor under the frontal lobes and a
    smooth random deformation. It is symmetric left to right.
    """
    a, b, c = half_axes
    width = a * (1.0 - 0.09 * np.clip(y / b, -1, 1) - 0.04 * np.clip(y / b, -1, 1) ** 2)
    front = np.clip((y / b + 0.05) / 0.6, 0.0, 1.0)
    floor = np.where(z < 0, 1.0, 0.0)[None, :] * (0.22 * front * front * (3 - 2 * front))[:, None]
    across = np.abs(x)[:, None] / width[None, :]
    up = np.abs(z)[None, :] / (c * (1.0 - floor))
    squared = (across**2)[:, :, None] + ((y / b) ** 2)[None, :, None] + (up**2)[None, :, :]
    radius = np.sqrt(squared).astype(np.float32)
    radius *= 1.0 + 0.022 * hull.on_axes(np.abs(x), y, z)
    return radius


def _pial_distance(
    ax: np.ndarray,
    px: np.ndarray,
    py: np.ndarray,
    pz: np.ndarray,
    rho: np.ndarray,
    depth: np.ndarray,
    weeks: float,
    field,
) -> np.ndarray:
    """Distance to the nearest pial surface (convexity, fissures, sulci), in mm of a 40-week head.

    A sulcus is a radial sheet: the zero level of a random field, evaluated on the surface above each point. Sulci
    deepen with age.
    """
    pial = depth + 0.0
    on_surface = (ax / rho, py / rho, pz / rho)
    # sheets bend with depth
    bend = 0.35 * depth * field("bend", 13.0).at(*on_surface)
    on_surface = (ax / rho, py / rho + bend, pz / rho - bend)
    variation = np.clip(1.0 + 0.2 * field("sulcal depth", 22.0).at(*on_surface), 0.5, 1.5)
    primary = 2.5 + 14.5 / (1.0 + np.exp(-(weeks - 34.0) / 2.6))  # mm: about 5 at 30 weeks, 15 at 40
    secondary = 7.0 / (1.0 + np.exp(-(weeks - 40.0) / 1.5))
    for name, wavelength, reach in (("primary", 15.0, primary), ("secondary", 15.0, secondary)):
        # mostly symmetric, with a smaller part that differs between the hemispheres
        height = 0.96 * field(name, wavelength=wavelength).at(*on_surface)
        height += 0.28 * field(f"{name} one-sided", wavelength=wavelength).at(px / rho, *on_surface[1:])
        sheet = np.abs(height) * (wavelength / (2.0 * np.pi * 0.82)) * rho
        below = np.maximum(depth - reach * variation, 0.0)
        pial = np.minimum(pial, np.hypot(sheet, 1.6 * below) + 1.3)
    # The fissure between the hemispheres: down to the corpus callosum, and in front of and behind it.
    arch = np.sqrt((np.minimum(np.abs(py + 2) / 33.0, 3.0)) ** 2 + ((pz - 1.0) / np.where(pz > 1.0, 17.0, 30.0)) ** 2)
    pial = np.minimum(pial, np.hypot(ax, np.maximum(1.0 - arch, 0.0) * 16.0) + 1.0)
    # Sylvian fissure: wide open at a young age, then closing as the opercula grow over the insula.
    opening = np.clip((38.0 - weeks) / 10.0, 0.0, 1.0) * np.clip((ax - 27.0) / 14.0, 0.0, 1.0)
    course = pz + 2.0 + 0.45 * (py - 2.0)
    insula = 30.0 + 12.0 * ((py - 1.0) / 19.0) ** 2
    sylvian = np.hypot(course, 1.4 * np.maximum(insula - ax, 0.0))
    pial = np.minimum(pial, sylvian * (1.0 - 0.6 * opening) + 0.9)
    # Suprasellar and ambient cisterns under the brain.
    cistern = _ellipsoid(px, py, pz, (0, 8, -20), (9, 7, 6))
    return np.minimum(pial, np.maximum(cistern - 1.0, 0.0) * 7.0 + 0.3).astype(np.float32)


def _slit(ax, pz):
    """Coordinates in which the body of the ventricle, a slit that rises to the side, has a round cross-section."""
    along, across = (0.80 * ax + 0.60 * pz) / 1.45, (-0.60 * ax + 0.80 * pz) * 1.25
    return along, across


def _slit_axis(axis: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    return tuple((_slit(x, z)[0], y, _slit(x, z)[1], radius) for x, y, z, radius in axis)


def _tube(x: np.ndarray, y: np.ndarray, z: np.ndarray, axis: tuple[tuple[float, ...], ...], with_radius: bool = False):
    """Distance to a polyline divided by its local radius (1 on the wall); `with_radius` also returns that radius."""
    best = np.full(x.shape, np.inf, dtype=np.float32)
    best_radius = np.ones(x.shape, dtype=np.float32)
    for (x0, y0, z0, r0), (x1, y1, z1, r1) in zip(axis[:-1], axis[1:], strict=True):
        dx, dy, dz = x1 - x0, y1 - y0, z1 - z0
        t = np.clip(((x - x0) * dx + (y - y0) * dy + (z - z0) * dz) / (dx * dx + dy * dy + dz * dz), 0.0, 1.0)
        radius = r0 + t * (r1 - r0)
        ratio = np.sqrt((x - x0 - t * dx) ** 2 + (y - y0 - t * dy) ** 2 + (z - z0 - t * dz) ** 2) / radius
        closer = ratio < best
        best = np.where(closer, ratio, best).astype(np.float32)
        if with_radius:
            best_radius = np.where(closer, radius, best_radius).astype(np.float32)
    return (best, best_radius) if with_radius else best


def _segment(x: np.ndarray, y: np.ndarray, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """Distance in the axial plane to a line segment."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return np.hypot(x - start[0] - t * dx, y - start[1] - t * dy)


def _ellipsoid(x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: tuple, half_axes: tuple) -> np.ndarray:
    """Normalised radius around `centre`: 1 on the ellipsoid."""
    (a, b, c), (ra, rb, rc) = centre, half_axes
    return np.sqrt(((x - a) / ra) ** 2 + ((y - b) / rb) ** 2 + ((z - c) / rc) ** 2)


def _rim(depth: np.ndarray, width: float) -> np.ndarray:
    """A cost that keeps a tissue `width` mm away from the skull."""
    return np.where(depth < width, 3.0, 0.0)


def _fill(labels: np.ndarray, cost: np.ndarray, count: int, label: int) -> float:
    """Label the `count` unlabelled voxels of lowest cost, in place. Returns the highest cost among them."""
    free = np.flatnonzero((labels == 0) & np.isfinite(cost))
    count = min(count, free.size - 1)
    values = cost[free]
    chosen = np.argpartition(values, count)[:count]
    labels[free[chosen]] = label
    return max(float(values[chosen].max()), 1e-3)

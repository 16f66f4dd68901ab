"""From slices with positions to one grid. Only positions count, not slice thickness, instance numbers or file names."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .errors import SeriesError
from .headers import Frame, Instance
from .thresholds import (
    GAP_LENGTH,
    GAP_SHARE,
    MAX_DRIFT,
    MAX_EDGE,
    MAX_VOLUME,
    MIN_SLICES,
    RIGHT_ANGLE,
    SAME_DIRECTION,
    SAME_POSITION,
    SAME_SPACING,
)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
PLANES = ("sagittal", "coronal", "axial")  # by the axis of the normal


class Stack(NamedTuple):
    """The slices of a series in their order along the normal.

    Attributes:
        slices: each with the instance that holds it.
        affine: `(4, 4)`, from (column, row, slice) to RAS millimetres.
        plane: of the slices.
    """

    slices: list[tuple[Instance, Frame]]
    affine: np.ndarray
    plane: str


def stack_up(series: Sequence[Instance], where: str) -> Stack:
    """Put the slices of a series in order.

    Raises:
        SeriesError: they do not belong together, or do not lie on one regular grid.
    """
    slices = [(instance, frame) for instance in series for frame in instance.frames]
    for problem in (_different(slices), _unusable(slices)):
        if problem:
            raise SeriesError(f"{where}: the T2-weighted series {problem}.")
    slices, affine, problem = _on_grid(slices)
    if problem:
        raise SeriesError(f"{where}: the T2-weighted series {problem}.")
    return Stack(slices, affine, plane_of(slices[0][1].orientation))


def plane_of(orientation: Sequence[float]) -> str:
    """The closest plane; empty without an orientation."""
    if len(orientation) != 6:
        return ""
    return PLANES[int(np.abs(np.cross(orientation[:3], orientation[3:])).argmax())]


def _different(slices: list[tuple[Instance, Frame]]) -> str:
    """What differs between slices that belong together; empty if nothing does."""
    one_value: dict[str, set[Any]] = {
        "patients": {instance.patient for instance, _ in slices},
        "echo times": {frame.echo_time for _, frame in slices},
        "image types": {frame.types for _, frame in slices},
        "matrix sizes": {(instance.rows, instance.columns) for instance, _ in slices},
        "frames of reference": {instance.reference for instance, _ in slices},
        "private scale factors": {frame.philips for _, frame in slices},
    }
    for what, values in one_value.items():
        if len(values) > 1:
            return f"has {len(values)} different {what}: export the series alone, or another one"
    return ""


def _unusable(slices: list[tuple[Instance, Frame]]) -> str:
    """Why the slices give no volume, before their positions are looked at; empty if nothing is wrong."""
    rows, columns = slices[0][0].rows, slices[0][0].columns
    if any(instance.pixel_problem for instance, _ in slices):
        return f"has {next(i.pixel_problem for i, _ in slices if i.pixel_problem)}: export the original series"
    if any(instance.lossy for instance, _ in slices):
        return "was compressed with loss: export the original series"
    if len(slices) < MIN_SLICES:
        return f"has {len(slices)} slice(s), a head has at least {MIN_SLICES}: give the folder of the whole series"
    if not 2 <= min(rows, columns) <= max(rows, columns) <= MAX_EDGE:
        return f"claims slices of {rows} x {columns} pixels: its header is damaged; export it again"
    if (size := 4 * rows * columns * len(slices)) > MAX_VOLUME:
        return f"claims {size / 1e9:.3g} GB of voxels, more than {MAX_VOLUME / 1e9:g}: export it again"
    lengths = {(len(frame.position), len(frame.orientation), len(frame.spacing)) for _, frame in slices}
    if lengths != {(3, 6, 2)}:
        return "does not say where all its slices are (position, orientation, pixel spacing): export it again"
    return ""


def _on_grid(slices: list[tuple[Instance, Frame]]) -> tuple[list[tuple[Instance, Frame]], np.ndarray, str]:
    """The slices in order, their affine, and a problem; empty if there is none."""
    nothing = np.eye(4)
    positions = np.array([frame.position for _, frame in slices])
    directions = np.array([frame.orientation for _, frame in slices])
    spacings = np.array([frame.spacing for _, frame in slices])
    if np.ptp(directions, axis=0).max() > SAME_DIRECTION:
        return slices, nothing, "has slices in different orientations: give one of its planes"
    if np.ptp(spacings, axis=0).max() > SAME_SPACING or spacings.min() <= 0:
        return slices, nothing, "has pixel spacings that differ or are not above 0: export it again"
    axes = directions[0].reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if abs(lengths - 1).max() > SAME_DIRECTION or abs(axes[0] @ axes[1]) > RIGHT_ANGLE:
        return slices, nothing, "has rows and columns that are not at right angles: its header is damaged"
    row, column = axes / lengths[:, None]
    normal = np.cross(row, column)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    if gaps.min() < SAME_POSITION:
        return (
            slices,
            nothing,
            ("has several slices at one position (several echoes, phases or repetitions): export one of them"),
        )
    step = gaps.mean()
    if abs(gaps - step).max() > max(GAP_SHARE * step, GAP_LENGTH):
        return (
            slices,
            nothing,
            (
                f"has gaps between its slices from {gaps.min():.2f} to {gaps.max():.2f} mm: a slice is missing, or the"
                " spacing varies; export it again"
            ),
        )
    first, last = positions[order[0]], positions[order[-1]]
    sideways = positions - first - np.outer(along - along[order[0]], normal)
    if abs(sideways).max() > MAX_DRIFT * spacings.max():
        return slices, nothing, "has slices that are displaced sideways (a tilted gantry or shear): it cannot be used"
    lps = np.eye(4)
    lps[:3] = np.column_stack([row * spacings[0, 1], column * spacings[0, 0], (last - first) / len(gaps), first])
    return [slices[index] for index in order], LPS_TO_RAS @ lps, ""

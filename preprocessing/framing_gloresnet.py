"""Find the head in a scan, and place it on a frame of fixed size in millimetres.

Without framing, the cube shows whatever was scanned: more neck, more air or another table position changes the size and
place of the head in it. With framing, the cube always covers the same length in millimetres on every axis. The top of
the head is `ABOVE` of it below the upper face; left-right and front-back, the head is in the middle.
What is more than `BELOW_MM` below the head is blank, so the length of the neck in the scan does not matter.

The head is described by an ellipsoid. The areas of parallel sections of an ellipsoid are a parabola, however it is
turned. A parabola fitted to the sections near the widest one gives both ends of the head along an axis, even if one end
was not scanned, and it does not depend on how much neck is in the field of view.
"""

from typing import Any, NamedTuple

import numpy as np

from .reading_gloresnet import VolumeError
from .resampling_gloresnet import Frame, resample
from .volume_gloresnet import Volume

FRAME_MM = 150.0  # the longest phantom (45 weeks) has a head of 143 mm, the longest of ten newborn brains has 135 mm
ABOVE = 0.2  # share of the frame above the top of the head; 120 mm are left below it, the tallest phantom has 106 mm
# What is shown below the head. More neck would change the mean and SD of the cube, and so the answer. Less could cut a
# head: of ten newborn brains that nod by 15 degrees, up to 11.2 mm were below the lower end that was found.
BELOW_MM = 15.0
GRID = 81  # voxels per edge of the coarse copy that is searched; odd, so that every second voxel is symmetric
SMOOTHING_MM = 1.5
EDGE = 0.3  # of the way from the background to the head: above ghosts and noise, below fat, even in a strong bias field
WIDEST_MM = 70.0  # the widest section of an infant's head is not farther below its top, but shoulders may be
UPPER = 0.75  # share of the head's height that places it sideways: without face and neck
SMALLEST_MM, LARGEST_MM = 40.0, 250.0  # extents of a head, from 24 weeks to adults
TOUCHES = 0.05  # of the widest section: a larger section on the first or last slice of an axis means a cut
CUT = (0.6, 0.6, 0.42)  # R, A, S, of the widest section: a larger one 4 mm before the end of the head means a cut
FITTED = 0.3  # of the widest section: smaller sections do not count for the shape of the head
FITTED_BELOW = 0.85  # the same below the widest section, so that face and neck do not count
WARN, REFUSE = 0.05, 0.17  # missing shares of the head's extent along an axis
SIDES = (("left", "right"), ("back", "front"), ("bottom", "top"))


class Head(NamedTuple):
    """Where the head is, in voxels of the scan. Axes are R, A, S, sides those of `SIDES`.

    Attributes:
        low, high: (3,) the ends of the head along each axis. They may be outside the scan.
        missing: (3, 2) share of the head's extent along an axis that was not scanned at each side.
        touches: (3, 2) whether the head touches the first or last slice, or is cut before it.
        background: the typical intensity outside the head.
    """

    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray
    touches: np.ndarray
    background: float


def frame_head(volume: Volume, frame_mm: float = FRAME_MM) -> Volume:
    """Give a volume the frame of its head.

    Args:
        volume: with an affine.
        frame_mm: length in mm between the centres of the outermost voxels of the cube.

    Returns:
        The volume with its `frame`, and with a warning for each end of the head that was not scanned or leaves the
        frame. A neck that leaves the scan at the bottom is normal.

    Raises:
        VolumeError: the volume has no affine, no head was found, too much of it is missing, or scipy is not installed.
    """
    if volume.affine is None:
        raise VolumeError(
            f"{volume.source} is an array without an affine, so its size in millimetres is not known, and this model "
            "frames the head: give a path, or nibabel.Nifti1Image(array, affine)."
        )
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    head = find_head(volume.data, spacing, volume.source)
    low, high, size = head.low, head.high, frame_mm / spacing
    first = (low + high - size) / 2
    first[2] = high[2] - (1 - ABOVE) * size[2]
    outside = np.maximum([first - low, high - (first + size)], 0).T / (high - low)[:, None]  # of the frame
    sentences = []
    for axis, sides in enumerate(SIDES):
        for end, side in enumerate(sides):
            share, beyond = float(head.missing[axis, end]), float(outside[axis, end])
            if max(share, beyond) > REFUSE:
                raise VolumeError(
                    f"{volume.source} shows too little of the head: about {100 * max(share, beyond):.0f} % of its "
                    f"extent is missing at the {side}"
                    + (": give a scan of the whole head." if share >= beyond else f" of a frame of {frame_mm:g} mm.")
                )
            if share > WARN or (head.touches[axis, end] and side != "bottom"):
                sentences.append(
                    f"The head touches the edge of the scan at the {side}: about {100 * share:.0f} % of its extent is "
                    "missing."
                )
            elif beyond > WARN:
                sentences.append(f"About {100 * beyond:.0f} % of the head leaves the frame at the {side}.")
    bottom = max(float(low[2] - BELOW_MM / spacing[2]), 0.0)
    frame = Frame(_three(first), _three(first + size), head.background, bottom)
    return volume._replace(frame=frame, warnings=(*volume.warnings, *sentences))


def find_head(data: np.ndarray, spacing: Any, name: str = "the scan") -> Head:
    """Find the head in a T2-weighted scan, with or without neck, air, shoulders, or skull.

    Args:
        data: `(R, A, S)` intensities.
        spacing: voxel edges in mm.
        name: of the scan in messages.

    Raises:
        VolumeError: nothing in the scan has the size and shape of a head, or scipy is not installed.
    """
    coarse = resample(data, GRID).astype(np.float32)
    step = (np.array(data.shape) - 1) * spacing / (GRID - 1)  # mm
    inside, background = find_foreground(coarse, step, name)
    ends, missing, touches = np.empty((2, 3)), np.empty((3, 2)), np.empty((3, 2), bool)
    weights = np.ones(GRID)
    for axis in (2, 0, 1):
        sections = (inside * weights).sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        low, high = _ends(sections, step[axis], from_top=axis == 2)
        if not SMALLEST_MM <= (high - low) * step[axis] <= LARGEST_MM:
            raise VolumeError(
                f"{name} shows no complete head that could be framed: check that it is a scan of a whole head and that "
                "its voxel size is right."
            )
        both = [
            _cut(sections, low, high, step[axis], CUT[axis]),
            _cut(sections[::-1], GRID - 1 - high, GRID - 1 - low, step[axis], CUT[axis]),
        ]
        ends[:, axis], (missing[axis], touches[axis]) = (low, high), np.transpose(both)
        if axis == 2:  # sideways, only the upper part of the head counts
            weights = np.clip(np.arange(GRID) + 0.5 - (high - UPPER * (high - low)), 0, 1)
    low, high = ends * (np.array(data.shape) - 1) / (GRID - 1)
    return Head(low, high, missing, touches, background)


def find_foreground(coarse: np.ndarray, step: np.ndarray, name: str) -> tuple[np.ndarray, float]:
    """The largest bright object of the coarse copy, with its holes filled in each axial plane, and the background."""
    try:  # here, because a model that does not frame needs no scipy
        from scipy import ndimage
    except ImportError as error:
        raise VolumeError(f"{name} cannot be framed without scipy: run pip install scipy.") from error
    smooth = ndimage.gaussian_filter(coarse, SMOOTHING_MM / step, truncate=3, mode="nearest")
    values = np.sort(smooth[::2, ::2, ::2], axis=None)
    level = float(values.mean())
    for _ in range(20):  # medians of both sides, because the brightest voxels are fluid or fat
        count = min(max(int(np.searchsorted(values, level, side="right")), 1), len(values) - 1)
        background, head = float(values[count // 2]), float(values[(count + len(values)) // 2])
        before, level = level, background + EDGE * (head - background)
        if abs(level - before) <= 1e-3 * (head - background):
            break
    cross = ndimage.generate_binary_structure(3, 1)
    inside = ndimage.binary_opening(smooth > level, cross)
    labels, count = ndimage.label(inside)
    if count > 1:
        inside = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    cross[:, :, [0, 2]] = False
    return ndimage.binary_fill_holes(inside, cross), background


def _ends(sections: np.ndarray, step: float, from_top: bool) -> tuple[float, float]:
    """Where a parabola through the sections near the widest one is 0; NaN if they are not like those of a head."""
    filled = np.flatnonzero(sections > TOUCHES * sections.max())
    if not len(filled):
        return np.nan, np.nan
    start = max(filled[-1] - int(WIDEST_MM / step), 0) if from_top else 0
    low = high = start + int(np.argmax(sections[start : filled[-1] + 1]))
    widest = sections[low]
    while high + 1 < len(sections) and sections[high + 1] >= FITTED * widest:
        high += 1
    while low > 0 and sections[low - 1] >= (FITTED_BELOW if from_top else FITTED) * widest:
        low -= 1
    if high - low < 3:
        return np.nan, np.nan
    square, slope, constant = np.polyfit(np.arange(low, high + 1), sections[low : high + 1], 2)
    inner = slope**2 - 4 * square * constant
    if square >= 0 or inner <= 0:
        return np.nan, np.nan
    middle, half = -slope / (2 * square), np.sqrt(inner) / (-2 * square)
    return float(middle - half), float(middle + half)


def _cut(sections: np.ndarray, low: float, high: float, step: float, cut: float) -> tuple[float, bool]:
    """The share of the head that is missing at its lower end, and whether the head is cut there.

    There are two estimates: how far the end of the parabola is beyond the end of the head, and the length of an
    ellipsoid beyond a section of this size. A neck has a large section, but it ends beyond the parabola. A head that is
    no ellipsoid may end before the parabola, but with a small section. The geometric mean is small for both.
    """
    widest = sections[max(int(low), 0) : int(np.ceil(high)) + 1].max()
    end = int(np.flatnonzero(sections > 0.02 * widest)[0])
    at_border = end == 0 and sections[0] > TOUCHES * widest
    inner = sections[min(end + int(np.ceil(4.0 / step)), len(sections) - 1)]
    if not (at_border or inner > cut * widest):
        return 0.0, False
    section = min((sections[0] if at_border else inner) / widest, 1.0)
    by_section, by_parabola = (1 - np.sqrt(1 - section)) / 2, (end - low) / (high - low)
    return float(np.sqrt(by_section * np.clip(by_parabola, 0, 1))), True


def _three(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = map(float, values)
    return x, y, z

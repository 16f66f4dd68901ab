"""Resample a volume to a cube and standardise it: the global mapping of the paper, in numpy alone."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

# if planes along S lie far apart in memory, so many are reordered at a time: they fit into the CPU cache
PLANES = 8


class Frame(NamedTuple):
    """The part of a scan that a cube covers.

    Attributes:
        first, last: the positions of the cube's first and last voxel along R, A, S, in voxels of the scan. They may be
            outside the scan.
        background: the intensity of the cube outside the scan.
        bottom: what is below this position along S counts as outside the scan.
    """

    first: tuple[float, float, float]
    last: tuple[float, float, float]
    background: float = 0.0
    bottom: float = 0.0


def whole_grid(shape: Sequence[int]) -> Frame:
    """The frame that covers a whole scan of this shape; corner voxels map to corner voxels."""
    r, a, s = shape
    return Frame((0.0, 0.0, 0.0), (r - 1.0, a - 1.0, s - 1.0))


def resample(data: np.ndarray, image_size: int | Sequence[int], frame: Frame | None = None) -> np.ndarray:
    """Trilinear interpolation onto a cube; corner voxels map to corner voxels (R in the paper, arXiv 2606.02498).

    Along an axis, target index t reads source coordinate first + t (last - first) / (image_size - 1). Without a frame,
    first is 0 and last is the last voxel, as in `scipy.ndimage.zoom(order=1)`: the aspect ratio is not kept. There is
    no anti-aliasing.

    Args:
        data: `(R, A, S)`, at least 2 voxels per axis, of any real type and memory order. The axis that is slowest in
            memory is interpolated first, so the memory order may change the rounding of the result, but nothing else.
        image_size: edge of the cube in voxels, or one edge per axis.
        frame: the part of the data to use; all of it by default.

    Returns:
        `(image_size,) * 3`, C-contiguous float32; float64 if the contrast is so small compared with the offset that
        float32 would lose it.
    """
    some = data[::4, ::4, ::4]
    low, high = float(some.min()), float(some.max())
    dtype = np.float32 if high - low > 0.1 * max(abs(low), abs(high)) else np.float64
    shape = tuple(image_size) if isinstance(image_size, Sequence) else (image_size,) * 3
    frame = whole_grid(data.shape) if frame is None else frame
    each = zip(frame.first, frame.last, data.shape, shape, (0.0, 0.0, frame.bottom), strict=True)
    neighbours = [_neighbours(*of_axis, dtype) for of_axis in each]

    # planes are contiguous in memory, and one at a time fits into the CPU cache
    slow, middle, fast = np.argsort(np.abs(data.strides), kind="stable")[::-1].tolist()
    planes = data.transpose(slow, middle, fast)
    plane = lru_cache(maxsize=2)(lambda index: planes[index].astype(dtype, copy=False))
    cube = np.empty((shape[slow], shape[fast], shape[middle]), dtype)
    for target, before, share, outside in zip(cube, *neighbours[slow], strict=True):
        if outside:
            target[...] = frame.background
            continue
        lines = _between(plane(before), plane(before + 1), share)
        lines = _interpolate(lines, neighbours[middle], frame.background)
        target[...] = _interpolate(np.ascontiguousarray(lines.T), neighbours[fast], frame.background)
    cube = cube.transpose(np.argsort((slow, fast, middle)))
    result = np.empty(shape, dtype)
    step = PLANES if slow == 2 else shape[2]
    for first in range(0, shape[2], step):
        result[:, :, first : first + step] = cube[:, :, first : first + step]
    return result


def standardise(data: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """z = (x - mean) / (std + eps) over all voxels (N in the paper, arXiv 2606.02498).

    The standard deviation is that of the population.

    Args:
        data: `(R, A, S)`. Its type must hold differences from the mean, as that of a cube of `resample` does; integers
            become floating-point numbers.

    Returns:
        float32. Sums are float64.
    """
    dtype = np.result_type(data, np.float32).type
    centred = np.subtract(data, dtype(data.mean(dtype=np.float64)), dtype=dtype)
    squares = sum(np.square(plane, dtype=np.float64).sum() for plane in centred)  # a plane fits into the CPU cache
    centred /= dtype(np.sqrt(squares / data.size) + eps)
    return centred.astype(np.float32, copy=False)


class _Neighbours(NamedTuple):
    """For each target along an axis: the source voxel before it, the weight of the next one, whether it is outside."""

    before: np.ndarray
    share: np.ndarray
    outside: np.ndarray


def _neighbours(first: float, last: float, length: int, size: int, bottom: float, dtype: type) -> _Neighbours:
    points = first + np.arange(size) * (last - first) / (size - 1)
    outside = (points < max(bottom, 0.0) - 1e-6) | (points > length - 1 + 1e-6)
    points = points.clip(0, length - 1)
    before = np.minimum(points.astype(int), length - 2)
    return _Neighbours(before, (points - before).astype(dtype), outside)


def _interpolate(lines: np.ndarray, neighbours: _Neighbours, background: float) -> np.ndarray:
    """Linear interpolation along the first axis of a plane."""
    before, share, outside = neighbours
    between = _between(lines.take(before, axis=0), lines.take(before + 1, axis=0), share[:, None])
    between[outside] = background
    return between


def _between(low: np.ndarray, high: np.ndarray, share: np.ndarray) -> np.ndarray:
    """low + share (high - low), in separate operations: equal inputs round equally, and constants stay constant."""
    result = high - low
    result *= share
    result += low
    return result

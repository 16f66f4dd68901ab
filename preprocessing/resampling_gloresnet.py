"""Resample a volume to a cube and standardise it: the global mapping of the paper, in numpy alone."""

import multiprocessing
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

SLAB = 64  # planes that a thread copies at a time, so that resampling takes no second copy of a scan


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
        data: `(R, A, S)`, at least 2 voxels per axis, of any real type and memory order. Every voxel is interpolated
            along S, then A, then R, so the memory order does not change a single bit of the result.
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
    on_r, on_a, on_s = (
        _neighbours(first, last, length, size, dtype)
        for first, last, length, size in zip(frame.first, frame.last, data.shape, shape, strict=True)
    )
    cube = np.empty((shape[2], *shape[:2]), dtype)  # (S, R, A)

    def fill(part: np.ndarray) -> None:
        planes = _planes(data, on_s[0][part].max() + 2)
        plane = lru_cache(maxsize=2)(lambda index: planes[index].astype(dtype, copy=False))
        for target in part:  # one plane at a time fits into the CPU cache
            before, share, outside = (values[target] for values in on_s)
            if outside or before + share < frame.bottom:
                cube[target] = frame.background
                continue
            lines = _between(plane(before), plane(before + 1), share)
            lines = _interpolate(lines.T, *on_a, frame.background)
            cube[target] = _interpolate(lines.T, *on_r, frame.background)

    first, *others = np.array_split(np.arange(shape[2]), min(_threads(), shape[2]))
    with ThreadPoolExecutor() as pool:  # numpy computes outside Python's lock
        filling = [pool.submit(fill, part) for part in others]
        fill(first)
        for part in filling:
            part.result()
    reordered = np.empty(shape, dtype)  # (R, A, S)
    for index in range(shape[0]):
        reordered[index] = cube[:, index].T
    return reordered


def standardise(data: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """z = (x - mean) / (std + eps) over all voxels (N in the paper, arXiv 2606.02498).

    The standard deviation is that of the population. Sums are float64, the result is float32.
    """
    mean = data.mean(dtype=np.float64)
    squares = 0.0
    for plane in data:  # one float64 plane at a time fits into the CPU cache
        squares += np.square(plane - mean).sum()
    scale = np.sqrt(squares / data.size) + eps
    standardised = np.empty(data.shape, np.float32)
    for plane, row in zip(data, standardised, strict=True):
        row[...] = (plane - mean) / scale
    return standardised


def _threads() -> int:
    """How many threads resample one scan: two where a program waits for it, one in a worker process or thread."""
    waiting = multiprocessing.parent_process() is None and threading.current_thread() is threading.main_thread()
    return 2 if waiting else 1


def _planes(data: np.ndarray, end: int) -> Any:
    """The planes `(R, A)` of a volume along S, up to `end`. Ask in ascending order."""
    planes = np.moveaxis(data, 2, 0)  # most files store S slowest
    strides = np.abs(planes.strides)
    # otherwise each voxel of a plane is on another cache line
    return _Slabs(data[:, :, :end]) if strides[0] == strides.min() else planes


class _Slabs:
    """Planes that are copied to contiguous memory, a slab at a time."""

    def __init__(self, data: np.ndarray):
        self.data, self.first, self.slab = data, 0, np.empty((0, 0, 0), data.dtype)

    def __getitem__(self, index: int) -> np.ndarray:
        if not self.first <= index < self.first + len(self.slab):
            self.first = index
            part = self.data[:, :, index : index + SLAB]
            self.slab = np.empty((part.shape[2], *part.shape[:2]), part.dtype)
            for place, rows in enumerate(part):
                self.slab[:, place] = rows.T
        return self.slab[index - self.first]


def _neighbours(
    first: float, last: float, length: int, size: int, dtype: type
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `size` targets: the source voxel before it, the weight of the next one, and whether it is outside."""
    points = first + np.arange(size) * (last - first) / (size - 1)
    outside = (points < -1e-6) | (points > length - 1 + 1e-6)
    points = points.clip(0, length - 1)
    before = np.minimum(points.astype(int), length - 2)
    return before, (points - before).astype(dtype), outside


def _interpolate(
    lines: np.ndarray, before: np.ndarray, shares: np.ndarray, outside: np.ndarray, background: float
) -> np.ndarray:
    """Linear interpolation along the first axis of a plane."""
    between = _between(lines[before], lines[before + 1], shares[:, None])
    between[outside] = background
    return between


def _between(low: np.ndarray, high: np.ndarray, share: np.ndarray) -> np.ndarray:
    """low + share (high - low), in separate operations: equal inputs round equally, and constants stay constant."""
    result = high - low
    result *= share
    result += low
    return result

"""Find the inside of the brain at native resolution, for the search for small lesions (the local stream).

The network's cube of 128 voxels smooths a lesion of 2 mm away. The local stream therefore works on the scan's own grid,
or on 0.7 mm if that is finer, in the part of the head that is surely brain. Intensities are divided by those of white
matter, which three-class Otsu finds (Otsu 1979, doi:10.1109/TSMC.1979.4310076). No segmentation is needed.
"""

from typing import Any, NamedTuple

import numpy as np

from .framing_gloresnet import find_foreground, find_head
from .reading_gloresnet import VolumeError
from .resampling_gloresnet import Frame, resample
from .volume_gloresnet import Volume

FINEST_MM = 0.7  # finer scans are resampled to this spacing
COARSEST_MM = 1.2  # a longer voxel edge leaves nothing of a lesion of 2 mm
SAME = 0.05  # an axis keeps its own spacing if that is within this share of the wanted one
BELOW_SKIN_MM = 9.0  # scalp, skull and the fluid around the brain are thinner
BELOW_BRAIN_MM = 3.0  # below the edge of a brain mask: most of the fluid around the brain
HEAD_STEP_MM, BRAIN_STEP_MM = 2.8, 1.4  # spacing of the copies on which depths are measured
MARGIN = 12  # voxels around the interior: half of the widest cube, and its mean over 3 voxels
SMALLEST_ML = 20.0  # a smaller interior is not that of a brain
STRIPPED_ZEROS = 0.2  # a scan without its skull has at least this share of voxels that are exactly 0
BONE_MM = (2.0, 7.0)  # where bone is below the surface of a head
BONE_DARK = 0.4  # of the median intensity: bone is darker
BONE_SHARE = 0.05  # of that shell: ten newborn brains have up to 0.006, heads of phantoms 0.17 and more
BINS = 256  # of the histogram that is searched for thresholds
NEGATIVE = 0.01  # of the interior; ringing of an interpolation makes fewer voxels negative
EVERY = 2  # voxels per axis, of those whose intensities are counted


class NoInterior(ValueError):
    """The local stream cannot judge a scan. The message says why."""


class Interior(NamedTuple):
    """The inside of the brain, cropped, with axes R, A, S.

    Attributes:
        data: `(x, y, z)` float32 intensities; white matter is 1.
        affine: `(4, 4)` float64, from voxel indices of `data` to the scan's world millimetres (RAS).
        spacing: `(3,)` float64 voxel edges of `data` in mm.
        inside: `(x, y, z)` bool, the interior.
        white: the intensity of white matter, in units of the scan.
        thresholds: between dark tissue and white matter, and between white matter and fluid, in units of the scan.
        shares: `(9,)` float32, see `intensity_shares`.
    """

    data: np.ndarray
    affine: np.ndarray
    spacing: np.ndarray
    inside: np.ndarray
    white: float
    thresholds: tuple[float, float]
    shares: np.ndarray


def find_interior(volume: Volume, masked: bool = False) -> Interior:
    """Find the interior of the brain and scale its intensities.

    The grid is the scan's own from 0.7 to 1.2 mm. A finer scan is resampled to 0.7 mm; a scan with unequal edges is
    resampled to its longest edge. The interior is everything deeper than 3 mm below the edge of the brain mask, or
    deeper than 9 mm below the surface of the head if there is no mask and the skull is in the scan. It ends where the
    head ends and the neck begins, see `find_head`.

    Args:
        volume: on its own grid, with its mask applied and its bias field corrected if the model does so. Its `frame`
            does not matter.
        masked: whether a brain mask has been applied. A scan whose skull was removed is recognised without this.

    Raises:
        NoInterior: the scan has no affine, is too coarse, shows no complete head or no brain, or was standardised.
        VolumeError: scipy is not installed.
    """
    import_ndimage(volume.source)
    if volume.affine is None:
        raise NoInterior("the scan is an array without an affine, so its size in millimetres is not known.")
    native = np.linalg.norm(volume.affine[:3, :3], axis=0)
    coarsest = float(native.max())
    if coarsest > COARSEST_MM * (1 + 1e-3):
        raise NoInterior(
            f"its voxels are up to {coarsest:.3g} mm long, and small lesions need {COARSEST_MM:g} mm or less."
        )
    depth, factors, least = _depth(volume, native, masked or is_stripped(volume.data, native))
    wanted = max(coarsest, FINEST_MM)
    step = np.where(np.abs(native / wanted - 1) <= SAME, 1.0, wanted / native)  # voxels of the scan
    first, shape = _crop(depth > least, factors, step, volume.data.shape)
    last = first + step * (shape - 1)
    size = tuple(int(length) for length in shape)
    data = _part(volume.data, first, last, size)
    centre = (factors - 1) / 2
    frame = Frame(_three((first - centre) / factors), _three((last - centre) / factors))
    inside = resample(depth, size, frame) > least
    spacing = native * step
    volume_ml = np.count_nonzero(inside) * float(spacing.prod()) / 1000
    if volume_ml < SMALLEST_ML:
        raise NoInterior(f"it shows no brain that could be searched, only {volume_ml:.0f} mL inside the head.")
    thresholds = otsu_thresholds(data[::EVERY, ::EVERY, ::EVERY][inside[::EVERY, ::EVERY, ::EVERY]])
    values = data[inside]
    if np.mean(values < 0) > NEGATIVE:
        raise NoInterior("many of its intensities are below 0: give the scan as it was acquired, not standardised.")
    middle = values[(values >= thresholds[0]) & (values < thresholds[1])]
    white = float(np.median(middle)) if len(middle) else 0.0
    if not white > 0:
        raise NoInterior("its intensities do not show white matter above 0: give the scan as it was acquired.")
    data /= white
    affine = volume.affine @ np.block([[np.diag(step), first[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
    shares = intensity_shares(values / white, volume_ml, (thresholds[0] / white, thresholds[1] / white))
    return Interior(data, affine, spacing, inside, white, thresholds, shares)


def import_ndimage(name: str) -> Any:
    """scipy.ndimage. Only a model that frames the head or has a local stream needs it.

    Args:
        name: of the scan, for the message.

    Raises:
        VolumeError: it is not installed.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise VolumeError(
            f"{name} cannot be searched for small lesions without scipy, and this model needs that: "
            "run pip install scipy."
        ) from error
    return ndimage


def is_stripped(data: np.ndarray, spacing: np.ndarray) -> bool:
    """Whether a scan shows a brain without skull and scalp.

    Outside the brain, such a scan is exactly 0. Some scanners also set air to 0, but below the surface of a head there
    is bone, which is dark, and below that of a brain there is not.

    Args:
        data: `(R, A, S)` intensities.
        spacing: voxel edges in mm.
    """
    ndimage = import_ndimage("the scan")
    some = data[::EVERY, ::EVERY, ::EVERY]
    present = some != 0
    if not 0 < np.count_nonzero(present) <= (1 - STRIPPED_ZEROS) * present.size:
        return False
    depth = ndimage.distance_transform_edt(ndimage.binary_fill_holes(present), sampling=EVERY * np.asarray(spacing))
    shell = some[(depth > BONE_MM[0]) & (depth <= BONE_MM[1])]
    return len(shell) > 0 and bool(np.mean(shell < BONE_DARK * np.median(some[present])) < BONE_SHARE)


def otsu_thresholds(values: np.ndarray) -> tuple[float, float]:
    """The two thresholds that separate three classes best: Otsu's criterion, searched over a histogram.

    Args:
        values: intensities. The lowest and highest 0.1 % count at the ends of the histogram.

    Returns:
        Two edges of the histogram, ascending. A value belongs to the upper class if it is at least the threshold.
    """
    low, high = np.quantile(values, (0.001, 0.999))
    if not low < high:
        return float(low), float(high)
    counts, edges = np.histogram(np.clip(values, low, high), BINS, (low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    number = np.concatenate(([0], np.cumsum(counts))).astype(np.float64)
    total = np.concatenate(([0], np.cumsum(counts * centres)))
    with np.errstate(divide="ignore", invalid="ignore"):
        # sum of n * mean^2 of the classes [i, j); what is between the classes, up to a constant
        between = (total[None] - total[:, None]) ** 2 / (number[None] - number[:, None])
    between = np.nan_to_num(between, nan=0.0, posinf=0.0)
    criterion = between[0][:, None] + between + between[:, BINS][None]
    first, second = np.triu_indices(BINS + 1, 1)
    best = int(np.argmax(criterion[first, second]))
    return float(edges[first[best]]), float(edges[second[best]])


def intensity_shares(values: np.ndarray, volume_ml: float, thresholds: tuple[float, float]) -> np.ndarray:
    """Nine numbers that describe the interior without a segmentation.

    Args:
        values: intensities of the interior; white matter is 1.
        volume_ml: volume of the interior.
        thresholds: between dark tissue and white matter, and between white matter and fluid; white matter is 1.

    Returns:
        `(9,)` float32: volume in litres; both thresholds; the shares below the first and above the second; the shares
        below 0.6, below 0.8, above 1.25 and above 1.6.
    """
    low, high = thresholds
    shares = [np.count_nonzero(values < limit) for limit in (low, 0.6, 0.8)]
    above = [np.count_nonzero(values >= limit) for limit in (high, 1.25, 1.6)]
    dark, bright = np.array(shares) / len(values), np.array(above) / len(values)
    return np.array([volume_ml / 1000, low, high, dark[0], bright[0], *dark[1:], *bright[1:]], np.float32)


def _depth(volume: Volume, native: np.ndarray, brain_only: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """The depth in mm below the surface on a coarse copy, the factors of that copy, and the least depth inside."""
    ndimage = import_ndimage(volume.source)
    wanted = BRAIN_STEP_MM if brain_only else HEAD_STEP_MM
    factors = np.maximum(np.rint(wanted / native).astype(int), 1)
    coarse_step = native * factors
    if min(np.array(volume.data.shape) // factors) < 8:
        raise NoInterior("it has too few slices for a search in three dimensions.")
    if brain_only:
        present = block_mean(volume.data != 0, factors) >= 0.5
        labels, count = ndimage.label(present)
        if count > 1:
            present = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
        head, least, bottom = ndimage.binary_fill_holes(present), BELOW_BRAIN_MM, 0.0
    else:
        coarse = block_mean(volume.data, factors)
        head, _ = find_foreground(coarse, coarse_step, volume.source)
        least = BELOW_SKIN_MM
        try:
            bottom = find_head(coarse, coarse_step).low[2]
        except VolumeError as error:
            raise NoInterior("it shows no complete head.") from error
    # what lies outside the field of view is not known to be brain
    depth = ndimage.distance_transform_edt(np.pad(head, 1), sampling=coarse_step)[1:-1, 1:-1, 1:-1]
    depth = np.maximum(depth - coarse_step.mean() / 2, 0).astype(np.float32)  # from the surface, not from a centre
    depth[:, :, : max(int(np.ceil(bottom)), 0)] = 0
    if not (depth > least).any():
        raise NoInterior("it shows no brain that could be searched.")
    return depth, factors, least


def block_mean(data: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """The mean of blocks of `factors` voxels, float32. Incomplete blocks at the upper ends are left out."""
    x, y, z = (int(factor) for factor in factors)
    nx, ny, nz = (int(length // factor) for length, factor in zip(data.shape, factors, strict=True))
    coarse = np.zeros((nx, ny, nz), np.float32)
    part = data[: nx * x, : ny * y, : nz * z]
    for i in range(x):
        for j in range(y):
            for k in range(z):
                coarse += part[i::x, j::y, k::z]
    return coarse / np.float32(x * y * z)


def _crop(deep: np.ndarray, factors: np.ndarray, step: np.ndarray, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """The first voxel of the scan, and the shape of the working grid, that hold the interior and a margin."""
    first, size = np.zeros(3), np.zeros(3, int)
    for axis in range(3):
        (planes,) = np.nonzero(deep.any(axis=tuple({0, 1, 2} - {axis})))
        margin = MARGIN * step[axis]
        low = max(np.floor((planes[0] - 1) * factors[axis] - margin), 0)
        high = min((planes[-1] + 2) * factors[axis] + margin, shape[axis] - 1)
        first[axis], size[axis] = low, int((high - low) / step[axis] + 1e-6) + 1
    return first, size


def _part(data: np.ndarray, first: np.ndarray, last: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A part of the scan on the working grid, as a contiguous float32 array of its own."""
    if (last - first == np.array(shape) - 1).all():
        part = data[tuple(slice(int(start), int(start) + length) for start, length in zip(first, shape, strict=True))]
        return np.array(part, np.float32, order="C")
    low = np.floor(first).astype(int)
    part = data[tuple(slice(int(a), int(b) + 2) for a, b in zip(low, np.ceil(last), strict=True))]
    return resample(part, shape, Frame(_three(first - low), _three(last - low))).astype(np.float32)


def _three(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = map(float, values)
    return x, y, z

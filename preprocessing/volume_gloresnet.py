"""Turn a scan into the standardised volume that the network receives: plain functions on arrays.

    volume = read_volume("scan.nii.gz")                  # native grid, axes reordered to R, A, S
    volume = apply_mask(volume, "brain_mask.nii.gz")     # only for a model that requires it
    volume = correct_bias(volume)                        # only for a model that corrects the bias field
    volume = frame_head(volume, 150)                     # only for a model that frames the head
    cube = map_volume(volume, image_size=128)            # (128, 128, 128) float32, mean 0, SD 1

Every user error raises `VolumeError` with one sentence that names the scan and says what to do.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage

from .appearance_gloresnet import check_standardised
from .arrays_gloresnet import array_and_affine
from .masks_gloresnet import brain_voxels
from .reading_gloresnet import (
    VolumeError,
    check_budget,
    check_header,
    check_voxel_type,
    doubts,
    largest_shift,
    open_image,
    read_voxels,
    spatial_shape,
    stated_affine,
)

MAX_INTENSITY = 1e30  # so that differences do not overflow float32
MIN_CONTRAST = 1e-9  # of the largest intensity; less is lost in rounding
SLAB = 128  # planes that are copied at a time, so that resampling takes no second copy of a scan
GRID_TOLERANCE = 0.1  # voxels; the corners of a mask and its scan may differ by this much


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


class Volume(NamedTuple):
    """A scan on its own voxel grid, with axes pointing right, anterior, superior (RAS).

    Attributes:
        data: `(R, A, S)` intensities as stored, all finite, of any real type and memory order. Often a view: do not
            write to it.
        affine: `(4, 4)` float64, from voxel indices of `data` to millimetres; None for an array, which has no position.
        source: the path or another name of the scan, for messages.
        stored_shape: the shape in the file, before squeezing and reorientation.
        stored_spacing: voxel edge lengths in mm along the stored spatial axes; None for an array.
        stored_orientation: directions of the stored axes, such as `"LPS"`; `"RAS"` for an array.
        warnings: sentences about doubts that do not prevent reading. They do not name the scan.
        frame: the part that the network sees, see `frame_head`; None for the whole field of view.
        bias_corrected: whether `data` was divided by its bias field, see `correct_bias`.
    """

    data: np.ndarray
    affine: np.ndarray | None
    source: str
    stored_shape: tuple[int, ...]
    stored_spacing: tuple[float, float, float] | None
    stored_orientation: str
    warnings: tuple[str, ...] = ()
    frame: Frame | None = None
    bias_corrected: bool = False


def is_volume(source) -> bool:
    """Whether this is a `Volume`, perhaps of another copy of this code: a model folder contains one."""
    return isinstance(source, tuple) and hasattr(source, "stored_orientation")


def read_volume(source, name: str = "the scan") -> Volume:
    """Read one 3D scan and reorder its axes to RAS: each to the closest axis, without interpolation.

    Args:
        source: a path to NIfTI-1/2 (`.nii`, `.nii.gz`, pairs), MGH (`.mgh`, `.mgz`) or another volume that nibabel
            reads and that states its orientation; a nibabel image; a `Volume`; or a numpy array or torch tensor
            `(R, A, S)`. An array without an affine is assumed to be RAS; the affine of a MONAI `MetaTensor` or TorchIO
            image counts. Trailing axes of length 1 are dropped, for arrays leading ones (channels) too.
        name: the name in messages of a scan without a path.

    Raises:
        VolumeError: this is not one 3D volume of real, finite, non-constant intensities and known orientation.
    """
    volume = read_labels(source, name)
    if _is_constant(volume.data):
        raise VolumeError(
            f"{volume.source} is constant, every voxel is {volume.data.flat[0]:g}: check that the export is complete."
        )
    return volume


def read_labels(source, name: str = "the labels") -> Volume:
    """Read a mask or segmentation like `read_volume`, except that it may be constant. Raises: VolumeError."""
    if isinstance(source, (str, os.PathLike)):
        source = os.fsdecode(source)
        return _from_image(open_image(source), source, source)
    if is_volume(source):
        return Volume(*source[:9])
    if isinstance(source, SpatialImage):
        return _from_image(source, source.get_filename() or name)
    return _from_array(*array_and_affine(source, name), name)


def apply_mask(volume: Volume, mask, name: str = "the mask") -> Volume:
    """Set all voxels outside a brain mask to 0, on the scan's own grid, before any resampling.

    Args:
        volume: the scan.
        mask: in any form that `read_volume` accepts. After reorientation to RAS it has the scan's grid. It has two
            values, 0 and a positive one, or brain probabilities in [0, 1]; see `brain_voxels`.
        name: the name in messages of a mask without a path.

    Returns:
        The masked scan, with the warnings of the scan and of the mask.

    Raises:
        VolumeError: the mask cannot be read, has another grid, or is not a brain mask: other values, (nearly) empty or
            full, or inverted.
    """
    inside = read_labels(mask, name)
    shape = inside.data.shape
    if shape != volume.data.shape:
        raise VolumeError(
            f"{inside.source} has shape {shape} but {volume.source} has {volume.data.shape}:"
            " give a mask on the scan's own grid."
        )
    if inside.affine is not None and volume.affine is not None:
        shift = largest_shift(volume.affine, inside.affine, shape)
        if shift > GRID_TOLERANCE:
            raise VolumeError(
                f"{inside.source} is shifted by up to {shift:.3g} voxels from {volume.source} of the same shape:"
                " give a mask on the scan's own grid."
            )
    brain, sentences = brain_voxels(inside.data, inside.source)
    of_mask = (f"Brain mask: {sentence}" for sentence in (*inside.warnings, *sentences))
    return volume._replace(data=volume.data * brain, warnings=(*volume.warnings, *of_mask))


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
    planes: Any = np.moveaxis(data, 2, 0)  # (S, R, A): most files store S slowest
    strides = np.abs(planes.strides)
    if strides[0] == strides.min():  # otherwise each voxel of a plane is on another cache line
        planes = _Slabs(data)
    plane = lru_cache(maxsize=2)(lambda index: planes[index].astype(dtype, copy=False))
    shape = tuple(image_size) if isinstance(image_size, Sequence) else (image_size,) * 3
    frame = whole_grid(data.shape) if frame is None else frame
    on_r, on_a, on_s = (
        _neighbours(first, last, length, size, dtype)
        for first, last, length, size in zip(frame.first, frame.last, data.shape, shape, strict=True)
    )
    cube = np.empty((shape[2], *shape[:2]), dtype)  # (S, R, A)
    for row, before, share, outside in zip(cube, *on_s, strict=True):  # one plane at a time fits into the CPU cache
        if outside or before + share < frame.bottom:
            row[...] = frame.background
            continue
        lines = _between(plane(before), plane(before + 1), share)
        lines = _interpolate(lines.T, *on_a, frame.background)
        row[...] = _interpolate(lines.T, *on_r, frame.background)
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


def map_volume(volume: Volume, image_size: int = 128, eps: float = 1e-6) -> np.ndarray:
    """Resample, then standardise: the global mapping M = N o R of the paper (arXiv 2606.02498).

    A volume with a `frame` is resampled from that part of its grid.

    Returns:
        `(image_size,) * 3` float32, axes R, A, S, mean 0, standard deviation 1.

    Raises:
        VolumeError: the cube is constant, because of the mask or because its grid is coarser than the scan; or its
            contrast is lost in `eps`.
    """
    cube = resample(volume.data, image_size, volume.frame)
    if cube.min() == cube.max():
        raise VolumeError(
            f"{volume.source} is constant after masking and resampling to {image_size} voxels per edge:"
            " check that the scan and its mask belong together."
        )
    return check_standardised(standardise(cube, eps), volume.source)


# ------------------------------------------------------------------------------------------------------------ reading


def _from_image(image: SpatialImage, name: str, path: str = "") -> Volume:
    if not path:  # open_image has checked the header of a path
        check_header(image, name)
    stored_shape = tuple(int(n) for n in image.shape)
    shape = spatial_shape(stored_shape, name)
    check_voxel_type(getattr(image.dataobj, "dtype", None) or image.get_data_dtype(), name)
    affine = stated_affine(image, name)
    check_budget(image, name)
    voxels, sentences = read_voxels(image, name, path)
    voxels = _checked(voxels.reshape(shape), name)
    return _oriented(voxels, affine, name, stored_shape, (*doubts(image, affine), *sentences))


def _oriented(
    voxels: np.ndarray, affine: np.ndarray, name: str, stored_shape: tuple[int, ...], warnings: tuple[str, ...] = ()
) -> Volume:
    orientation = nibabel.io_orientation(affine)
    x, y, z = (float(edge) for edge in nibabel.affines.voxel_sizes(affine))
    return Volume(
        data=nibabel.apply_orientation(voxels, orientation),
        affine=affine @ nibabel.orientations.inv_ornt_aff(orientation, voxels.shape),
        source=name,
        stored_shape=stored_shape,
        stored_spacing=(x, y, z),
        stored_orientation="".join(nibabel.orientations.ornt2axcodes(orientation)),
        warnings=warnings,
    )


def _from_array(array: np.ndarray, affine: np.ndarray | None, name: str) -> Volume:
    check_voxel_type(array.dtype, name)
    shape = array.shape
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    shape = spatial_shape(shape, name)
    voxels = _checked(array.reshape(shape), name)
    if affine is not None:
        return _oriented(voxels, affine, name, array.shape)
    return Volume(voxels, None, name, array.shape, None, "RAS")


def _is_constant(data: np.ndarray) -> bool:
    """Whether all voxels are equal. Checking a few first is nearly always enough to say no."""
    first = data.flat[0]
    return bool((data[::8, ::8, ::8] == first).all() and (data == first).all())


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    """The array in native byte order.

    Raises:
        VolumeError: a voxel is not a usable number.
    """
    if array.dtype.kind == "f":  # integers are finite and never too large
        low, high = float(array.min()), float(array.max())
        largest = max(abs(low), abs(high))  # NaN if there is any NaN
        if not np.isfinite(largest):
            count = np.count_nonzero(~np.isfinite(array))
            raise VolumeError(f"{name} has {count} NaN or infinite voxel(s): replace them, or export the scan again.")
        if largest > MAX_INTENSITY:
            raise VolumeError(f"{name} has intensities up to {largest:.3g}, too large for a scan: export it again.")
        if 0 < high - low < MIN_CONTRAST * largest:
            raise VolumeError(
                f"{name} has intensities from {low:.9g} to {high:.9g}, too close for the precision of a computer:"
                " its scaling is damaged; export it again."
            )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


class _Slabs:
    """The planes `(R, A)` of a volume along S, copied to contiguous memory a slab at a time. Ask in ascending order."""

    def __init__(self, data: np.ndarray):
        self.data, self.number = data, -1

    def __getitem__(self, index: int) -> np.ndarray:
        if index // SLAB != self.number:
            self.number = index // SLAB
            part = self.data[:, :, self.number * SLAB : (self.number + 1) * SLAB]
            self.slab = np.empty((part.shape[2], *part.shape[:2]), part.dtype)
            for place, rows in enumerate(part):
                self.slab[:, place] = rows.T
        return self.slab[index % SLAB]


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

"""From a scan to the standardised volume the network sees: plain functions, array in, array out.

    volume = read_volume("scan.nii.gz")                  # native grid, axes turned to R, A, S
    volume = apply_mask(volume, "brain_mask.nii.gz")     # only for a model that asks for it
    lattice = map_volume(volume, image_size=128)         # (128, 128, 128) float32, mean 0, deviation 1

Everything a user can get wrong raises `VolumeError`, one sentence that names the scan and says what to do.
"""

import os
import sys
from functools import lru_cache
from typing import NamedTuple

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage

from .reading_gloresnet import (
    VolumeError,
    check_voxel_type,
    open_image,
    read_voxels,
    spatial_shape,
    stated_affine,
)

MAX_INTENSITY = 1e30  # leaves float32 room for differences
GRID_TOLERANCE = 0.1  # voxels by which the corners of a mask and of its scan may differ


class Volume(NamedTuple):
    """A scan on its own grid, axes in the order and direction right, anterior, superior.

    Attributes:
        data: `(R, A, S)` intensities as stored, all finite: any real type, in any order in memory. Often a view, not
            to be written to.
        affine: `(4, 4)` float64, voxel indices of `data` to millimetres; None for an array, which carries no position.
        source: the path, or what else the volume came from; used in messages.
        stored_shape: the shape found, before squeezing and reorientation.
        stored_spacing: voxel edge lengths in mm along the stored spatial axes; None for an array.
        stored_orientation: the stored axes' directions, e.g. `"LPS"`; `"RAS"` for an array, which is taken so.
    """

    data: np.ndarray
    affine: np.ndarray | None
    source: str
    stored_shape: tuple[int, ...]
    stored_spacing: tuple[float, float, float] | None
    stored_orientation: str


def read_volume(source, name: str = "the scan") -> Volume:
    """Read one 3D scan and turn it to RAS axes (closest axis; nothing is interpolated).

    Args:
        source: a path to NIfTI-1/2 (`.nii`, `.nii.gz`, pairs), MGH (`.mgh`, `.mgz`) or another volume that nibabel
            reads and that states its orientation; a nibabel image; or a numpy array or torch tensor `(R, A, S)`, taken
            as RAS. Axes of length 1 after the three are dropped; from an array also those before them (channel).
        name: what messages call a scan that has no path.

    Raises:
        VolumeError: not a single finite, non-constant, real-valued 3D volume of known orientation.
    """
    volume = _read_grid(source, name)
    if _is_constant(volume.data):
        raise VolumeError(
            f"{volume.source} is constant, every voxel is {volume.data.flat[0]:g}: check that the export was complete."
        )
    return volume


def apply_mask(volume: Volume, mask, name: str = "the mask") -> Volume:
    """Set everything outside a brain mask to 0, on the scan's own grid, before any resampling.

    Args:
        mask: whatever `read_volume` takes, on the same grid as the scan once both are RAS; brain where > 0.
        name: what messages call a mask that has no path.

    Raises:
        VolumeError: the mask is unreadable, empty, or on another grid.
    """
    inside = _read_grid(mask, name)
    brain = inside.data > 0
    if brain.shape != volume.data.shape:
        raise VolumeError(
            f"{inside.source} has the grid {brain.shape} and {volume.source} {volume.data.shape}:"
            " give a mask drawn on the scan's own grid."
        )
    if inside.affine is not None and volume.affine is not None:
        corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]).T * [[n - 1] for n in (*brain.shape, 2)]
        shift = np.abs(np.linalg.inv(volume.affine) @ inside.affine @ corners - corners).max()
        if shift > GRID_TOLERANCE:
            raise VolumeError(
                f"{inside.source} lies up to {shift:.3g} voxels off {volume.source}, although their shapes agree:"
                " give a mask drawn on the scan's own grid."
            )
    if not brain.any():
        raise VolumeError(f"{inside.source} is an empty mask, no voxel is above 0: give the mask of this scan's brain.")
    return volume._replace(data=volume.data * brain)


def resample(data: np.ndarray, image_size: int) -> np.ndarray:
    """Trilinear interpolation onto a cube, corner voxels on corner voxels (the paper's R; method.md section 2).

    Target index t of an axis of n voxels reads source coordinate t (n - 1) / (image_size - 1): the same as
    `scipy.ndimage.zoom(order=1)`. The aspect ratio is not kept; no anti-aliasing.

    Args:
        data: `(R, A, S)`, at least 2 voxels an axis, any real type, in any order in memory: the result is the same to
            the bit, as every voxel meets the same sums: along S, then A, then R.

    Returns:
        `(image_size,) * 3`, C-contiguous float32; float64 where the contrast is too small beside the offset for float32
        to carry it.
    """
    some = data[::4, ::4, ::4]
    low, high = float(some.min()), float(some.max())
    dtype = np.float32 if high - low > 0.1 * max(abs(low), abs(high)) else np.float64
    planes = np.moveaxis(data, 2, 0)  # (S, R, A), as files mostly store S slowest
    strides = np.abs(planes.strides)
    if strides[0] == strides.min():  # each voxel of a plane lies on a cache line of its own
        planes = np.empty(planes.shape, planes.dtype)
        for index in range(planes.shape[1]):
            planes[:, index] = data[index].T
    plane = lru_cache(maxsize=2)(lambda index: planes[index].astype(dtype, copy=False))
    on_r, on_a, on_s = (_neighbours(length, image_size, dtype) for length in data.shape)
    cube = np.empty((image_size,) * 3, dtype)  # (S, R, A)
    for row, before, share in zip(cube, *on_s, strict=True):  # one plane at a time, which fits a CPU's cache
        lines = _between(plane(before), plane(before + 1), share)
        lines = _interpolate(lines.T, *on_a)
        row[...] = _interpolate(lines.T, *on_r)
    lattice = np.empty_like(cube)
    for index in range(image_size):
        lattice[index] = cube[:, index].T
    return lattice


def standardise(data: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """z = (x - mean) / (std + eps) over all voxels, population std, sums in float64 (the paper's N); float32 out."""
    mean = data.mean(dtype=np.float64)
    squares = 0.0
    for plane in data:  # what is in float64 stays in the CPU's cache
        squares += np.square(plane - mean).sum()
    scale = np.sqrt(squares / data.size) + eps
    standardised = np.empty(data.shape, np.float32)
    for plane, row in zip(data, standardised, strict=True):
        row[...] = (plane - mean) / scale
    return standardised


def map_volume(volume: Volume, image_size: int = 128, eps: float = 1e-6) -> np.ndarray:
    """The paper's global mapping M = N o R: resample first, standardise second.

    Returns:
        `(image_size,) * 3` float32, axes R, A, S, mean 0, standard deviation 1.

    Raises:
        VolumeError: what is left (after a mask, or on a lattice coarser than the scan) is constant.
    """
    cube = resample(volume.data, image_size)
    if cube.min() == cube.max():
        raise VolumeError(
            f"{volume.source} is constant once masked and resampled to {image_size} voxels a side:"
            " check that the scan and its mask belong together."
        )
    return standardise(cube, eps)


# ---------------------------------------------------------------------------------------------- what read_volume needs


def _read_grid(source, name: str) -> Volume:
    """`read_volume` without the check that it is not constant (a mask may be)."""
    if isinstance(source, (str, os.PathLike)):
        source = os.fsdecode(source)
        return _from_image(open_image(source), source)
    if isinstance(source, SpatialImage):
        return _from_image(source, source.get_filename() or name)
    torch = sys.modules.get("torch")  # not imported here: a tensor exists only where torch has been imported
    if torch is not None and isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    raise VolumeError(f"{name} is a {type(source).__name__}: give a path, a nibabel volume, or a 3D array or tensor.")


def _from_image(image: SpatialImage, name: str) -> Volume:
    stored_shape = tuple(int(n) for n in image.shape)
    shape = spatial_shape(stored_shape, name)
    check_voxel_type(getattr(image.dataobj, "dtype", None) or image.get_data_dtype(), name)
    affine = stated_affine(image, name)
    voxels = _checked(read_voxels(image, name).reshape(shape), name)
    orientation = nibabel.io_orientation(affine)
    return Volume(
        data=nibabel.apply_orientation(voxels, orientation),
        affine=affine @ nibabel.orientations.inv_ornt_aff(orientation, shape),
        source=name,
        stored_shape=stored_shape,
        stored_spacing=tuple(float(edge) for edge in nibabel.affines.voxel_sizes(affine)),
        stored_orientation="".join(nibabel.orientations.ornt2axcodes(orientation)),
    )


def _from_array(array: np.ndarray, name: str) -> Volume:
    check_voxel_type(array.dtype, name)
    shape = array.shape
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    shape = spatial_shape(shape, name)
    return Volume(_checked(array.reshape(shape), name), None, name, array.shape, None, "RAS")


def _is_constant(data: np.ndarray) -> bool:
    """Whether all voxels are equal; a few of them, far apart, nearly always tell."""
    first = data.flat[0]
    return bool((data[::8, ::8, ::8] == first).all() and (data == first).all())


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    """The array in native byte order.

    Raises:
        VolumeError: a voxel is not a usable number.
    """
    if array.dtype.kind == "f":  # integers are all finite, and none is too large
        largest = max(abs(float(array.min())), abs(float(array.max())))  # NaN wins both
        if not np.isfinite(largest):
            count = np.count_nonzero(~np.isfinite(array))
            raise VolumeError(f"{name} has {count} NaN or infinite voxel(s): replace them or export it again.")
        if largest > MAX_INTENSITY:
            raise VolumeError(f"{name} has intensities up to {largest:.3g}, none of a scan: export it again.")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _neighbours(length: int, size: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """For each of `size` target voxels, the source voxel before it and the share of the one after that."""
    points = np.arange(size) * (length - 1) / (size - 1)
    before = np.minimum(points.astype(int), length - 2)
    return before, (points - before).astype(dtype)


def _interpolate(lines: np.ndarray, before: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Linear interpolation along the first axis of a plane."""
    return _between(lines[before], lines[before + 1], shares[:, None])


def _between(low: np.ndarray, high: np.ndarray, share: np.ndarray) -> np.ndarray:
    """low + share (high - low); separate operations round alike wherever a voxel lies, and a constant stays one."""
    result = high - low
    result *= share
    result += low
    return result

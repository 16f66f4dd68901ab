"""Turn a scan into the standardised volume that the network receives: plain functions on arrays.

    volume = read_volume("scan.nii.gz")                  # native grid, axes reordered to R, A, S
    volume = apply_mask(volume, "brain_mask.nii.gz")     # only for a model that requires it
    volume = correct_bias(volume)                        # only for a model that corrects the bias field
    volume = frame_head(volume, 150)                     # only for a model that frames the head
    cube = map_volume(volume, image_size=128)            # (128, 128, 128) float32, mean 0, SD 1

Every user error raises `VolumeError` with one sentence that names the scan and says what to do.
"""

import os
from typing import NamedTuple

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
from .resampling_gloresnet import Frame, resample, standardise

MAX_INTENSITY = 1e30  # so that differences do not overflow float32
MIN_CONTRAST = 1e-9  # of the largest intensity; less is lost in rounding
GRID_TOLERANCE = 0.1  # voxels; the corners of a mask and its scan may differ by this much


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

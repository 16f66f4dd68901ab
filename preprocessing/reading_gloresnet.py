"""Open a scan and check its header before reading any voxel. Every problem is reported in one sentence."""

import os
from typing import Any

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import SpatialImage

from .decoding_gloresnet import BUDGET, decode, decoded_bytes
from .headers_gloresnet import (
    ContradictionError,
    contradiction,
    irregular_neighbour,
    missing_content,
    open_by_content,
    states_orientation,
)

DICOM = "for DICOM: dicomfiles.read of the GloResNet repository, or dcm2niix"
LARGEST = 1e6  # mm; the head is no kilometre from the origin, and no voxel edge is below the inverse
PARALLEL = 0.5  # volume of the cell of three unit axes: 1 if they are perpendicular, 0.5 at 30 degrees
SKEW = 0.02  # cosine of the angle between two axes: 1 degree from perpendicular
SPACING = 0.01  # relative difference between the voxel edges of pixdim and of the sform
SHIFT = 0.1  # voxels; the corners of a volume by sform and by qform may differ by this much
SFORM = ("srow_x", "srow_y", "srow_z")
QFORM = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}  # NIfTI codes; 2 is millimetres, 0 unknown


class VolumeError(ValueError):
    """A scan or mask cannot be used. The message is one sentence: what was found, where, and what to do."""


class VolumeWarning(UserWarning):
    """A scan or mask can be used, but something about it is doubtful."""


def open_image(path: str) -> SpatialImage:
    """Open a file and read its header, but not its voxels. Content decides, not the extension.

    Raises:
        VolumeError: there is no such file, its content is not fetched yet, or it is not a volume in a format that
            nibabel reads.
    """
    if "://" in path:
        raise VolumeError(f"{path} is a URL: download the scan and give its path.")
    check_fetched(path)
    if not os.path.exists(path):
        if os.path.islink(path):
            raise VolumeError(f"{path} is a link to a missing file, {os.readlink(path)}: restore it or fix the link.")
        raise VolumeError(f"{path or 'an empty path'} does not exist: check the path.")
    if not os.path.isfile(path):
        raise VolumeError(f"{path} is a folder or device, not a file: give one scan ({DICOM}).")
    try:
        image = open_by_content(path) or _load(path)
    except ContradictionError as error:
        raise VolumeError(f"{path} has a header that contradicts itself ({error}): export it again.") from error
    except nibabel.filebasedimages.ImageFileError as error:
        reason = _one_line(error, path)
        raise VolumeError(f"{path} is not a volume ({reason}): give NIfTI or MGH ({DICOM}).") from error
    except Exception as error:  # damaged bytes can make a decoder raise anything
        reason = _one_line(error, path)
        raise VolumeError(f"{path} cannot be opened ({reason}): copy it again, or convert it to NIfTI.") from error
    if not isinstance(image, SpatialImage):
        raise VolumeError(f"{path} contains a {type(image).__name__}, not a 3D volume: give a NIfTI or MGH scan.")
    for holder in image.file_map.values():  # of a pair, the other file too
        check_fetched(holder.filename or path)
    return image


def _load(path: str) -> Any:
    """What nibabel finds in a pair or in another format than single NIfTI and MGH files."""
    neighbour = irregular_neighbour(path)
    if neighbour:  # nibabel would wait for it
        raise OSError(f"{neighbour} is a pipe, socket or device")
    image = nibabel.load(path, mmap=False)
    problem = contradiction(image) if isinstance(image, SpatialImage) else ""
    if problem:
        raise ContradictionError(problem)
    return image


def check_header(image: SpatialImage, name: str) -> None:
    """Check that the header in the file of an image does not contradict itself.

    Raises:
        VolumeError: it does.
    """
    problem = contradiction(image)
    if problem:
        raise VolumeError(f"{name} has a header that contradicts itself ({problem}): export it again.")


def check_fetched(path: str) -> None:
    """Check that a file of a DataLad or git-LFS dataset has its content.

    Raises:
        VolumeError: it is a pointer to content that was not fetched.
    """
    command = missing_content(path)
    if command:
        raise VolumeError(f"{path} is a pointer, its content is not on this computer: run `{command}` in its folder.")


def spatial_shape(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """The three spatial lengths of a stored shape. Trailing axes of length 1 are dropped.

    Raises:
        VolumeError: there are several frames, fewer than three axes, or a single slice.
    """
    found = shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise VolumeError(f"{name} has several frames or channels, shape {found}: give one 3D volume.")
    if len(shape) < 3 or min(shape) < 2:
        raise VolumeError(f"{name} is not a 3D volume, its shape is {found}: give a scan of the whole head.")
    return shape[0], shape[1], shape[2]


def check_voxel_type(dtype: np.dtype, name: str) -> None:
    """Check that voxels are real numbers.

    Raises:
        VolumeError: they are complex, colour or structured.
    """
    if np.dtype(dtype).kind not in "biuf":
        kind = "complex" if np.dtype(dtype).kind == "c" else "colour or structured"
        raise VolumeError(f"{name} has {kind} voxels ({dtype}): give a grey-scale (magnitude) volume.")


def stated_affine(image: SpatialImage, name: str) -> np.ndarray:
    """The affine stored in the file, `(4, 4)`, from voxel indices to RAS millimetres (NIfTI: sform, else qform).

    Raises:
        VolumeError: the file does not say which side is left, or the matrix is singular or not finite.
    """
    header, why = image.header, "with neither sform nor qform"
    if isinstance(header, nibabel.Nifti1Header):  # NIfTI-2 too
        stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    elif isinstance(image, nibabel.MGHImage):
        stated, why = states_orientation(image), "with goodRASFlag 0"
    else:
        stated = not isinstance(header, nibabel.AnalyzeHeader)
    if not stated:
        raise VolumeError(
            f"{name} does not say which side is left ({type(image).__name__} {why}):"
            " convert the original again, or set its orientation."
        )
    affine = np.array(image.affine, dtype=np.float64) if image.affine is not None else np.full((4, 4), np.nan)
    affine[:3] *= _unit(header)[1]
    check_affine(affine, name)
    return affine


def check_affine(affine: np.ndarray, name: str) -> None:
    """Check that an affine maps voxels to positions.

    Raises:
        VolumeError: it is not a `(4, 4)` matrix, has axes that are (nearly) parallel, or is not finite or too large.
    """
    if affine.shape != (4, 4):
        raise VolumeError(f"{name} has an affine of shape {affine.shape}: give one scan with one 4 x 4 matrix.")
    with np.errstate(all="ignore"):
        edges = np.sqrt(np.square(affine[:3, :3]).sum(axis=0))
        directions = affine[:3, :3] / edges
        volume = abs(np.linalg.det(directions))  # of a unit voxel: 1 without shear
    if not np.isfinite(affine).all() or np.abs(affine).max() > LARGEST or not (edges > 1 / LARGEST).all():
        raise VolumeError(
            f"{name} has an affine that is singular or not finite or too large: its header is damaged; export it again."
        )
    if not volume > PARALLEL:
        raise VolumeError(f"{name} has an affine with nearly parallel axes: its header is damaged; export it again.")


def doubts(image: SpatialImage, affine: np.ndarray) -> tuple[str, ...]:
    """Sentences about a header that can be read but may be wrong.

    Args:
        image: as stored.
        affine: from `stated_affine`.
    """
    header, sentences = image.header, []
    edges = nibabel.affines.voxel_sizes(affine)
    unit, factor = _unit(header)
    if not (edges.min() > 0.05 and edges.max() < 20):
        sentences.append(
            f"The header gives lengths in {unit}, so a voxel is {_lengths(edges)} mm: its unit or size may be wrong."
        )
    angles = np.abs((affine[:3, :3] / edges).T @ (affine[:3, :3] / edges) - np.eye(3))
    if angles.max() > SKEW:
        sentences.append(
            f"Its axes are {np.degrees(np.arccos(angles.max())):.0f} degrees apart, not 90: its affine may be wrong."
        )
    if type(image.dataobj) is ArrayProxy and image.dataobj.slope < 0:
        sentences.append("Its scl_slope is negative, so bright and dark are exchanged: its scaling may be wrong.")
    if not isinstance(header, nibabel.Nifti1Header):
        return tuple(sentences)
    codes = int(header["sform_code"]), int(header["qform_code"])
    claimed = np.abs(np.array(header["pixdim"][1:4], dtype=np.float64)) * factor
    if codes[0] > 0 and not (np.abs(claimed - edges) <= SPACING * edges).all():
        sentences.append(
            f"The sform and pixdim disagree, a voxel is {_lengths(edges)} mm and {_lengths(claimed)} mm;"
            " the sform is used."
        )
    used, unused = ("sform", "qform") if codes[0] > 0 else ("qform", "sform")
    which = f"The sform (code {codes[0]}) and the qform (code {codes[1]})"
    try:
        other = header.get_qform() if codes[0] > 0 else header.get_sform()
        other[:3] *= factor
        check_affine(other, "")
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        return (*sentences, f"The {unused} is invalid; the {used} is used.") if min(codes) > 0 else tuple(sentences)
    here, there = ("".join(nibabel.aff2axcodes(matrix)) for matrix in (affine, other))
    # a matrix with code 0 does not count, but most programs fill both alike, so it tells of damage
    filled = any(header[field].any() for field in (QFORM if codes[0] > 0 else SFORM))
    if here != there and (min(codes) > 0 or filled):
        sentences.append(f"{which} disagree, {here} and {there}: left and right may be wrong; the {used} is used.")
    elif min(codes) > 0:
        shift = largest_shift(affine, other, image.shape[:3])
        if shift > SHIFT:
            sentences.append(f"{which} disagree by up to {shift:.3g} voxels; the {used} is used.")
    return tuple(sentences)


def _lengths(edges: np.ndarray) -> str:
    return " x ".join(f"{edge:.3g}" for edge in edges)


def largest_shift(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far apart two affines place the corners of a volume, in voxels of the first."""
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]).T * [[n - 1] for n in (*shape, 2)]
    return float(np.abs(np.linalg.inv(affine) @ other @ corners - corners).max())


def _unit(header) -> tuple[str, float]:
    """The unit of length in a header, and its length in millimetres."""
    code = int(header["xyzt_units"]) % 8 if isinstance(header, nibabel.Nifti1Header) else 0
    return UNITS.get(code, ("millimetres", 1.0))


def check_budget(image: SpatialImage, name: str) -> None:
    """Check that the decoded voxels of a file fit into the budget, before any is allocated.

    Raises:
        VolumeError: they do not.
    """
    size = decoded_bytes(image)
    if size > BUDGET:
        raise VolumeError(
            f"{name} has {' x '.join(str(n) for n in image.shape)} voxels, {size / 1e9:.3g} GB when decoded, but at"
            f" most {BUDGET / 1e9:g} GB are read: resample it to larger voxels, or export it again if its header is"
            " damaged."
        )


def read_voxels(image: SpatialImage, name: str, path: str = "") -> tuple[np.ndarray, tuple[str, ...]]:
    """The voxels in stored order, scaled as the header says, and sentences about what may be wrong with them.

    Args:
        image: as stored, within the budget.
        name: of the scan in messages.
        path: the file that `open_image` opened; empty for an image that nibabel opened.

    Raises:
        VolumeError: the data are truncated, missing, longer than the header says, or their checksum is wrong.
    """
    try:
        with np.errstate(all="ignore"):
            return decode(image, path)
    except Exception as error:  # damaged bytes, as in open_image
        reason = _one_line(error, name)
        raise VolumeError(f"{name} has voxels that cannot be read ({reason}): copy or export it again.") from error


def _one_line(error: Exception, path: str) -> str:
    """A decoder's message as part of a sentence."""
    if isinstance(error, (LookupError, AttributeError, TypeError)):  # "KeyError: 1111638594" is of no use
        return "its header is invalid"
    text = " ".join(str(error).replace(path, os.path.basename(path)).split()).rstrip(".")
    return "".join(letter if letter.isprintable() else "?" for letter in text) or type(error).__name__

"""Open a scan and check its header before reading any voxel. Every problem is reported in one sentence."""

import math
import os

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener
from nibabel.spatialimages import SpatialImage

try:  # optional: decompresses gzip in half the time
    from isal import igzip
except ImportError:
    igzip = None

MAX_VOXELS = 1_000_000_000  # a header with more is damaged; a head at 0.2 mm has a tenth of this
GZIP_RATIO = 1100  # deflate compresses by a factor of 1032 at most


class VolumeError(ValueError):
    """A scan or mask cannot be used. The message is one sentence: what was found, where, and what to do."""


class VolumeWarning(UserWarning):
    """A scan or mask can be used, but something about it is doubtful."""


def open_image(path: str) -> SpatialImage:
    """Open a file and read its header, but not its voxels.

    Raises:
        VolumeError: there is no such file, or it is not a volume in a format that nibabel reads.
    """
    if "://" in path:
        raise VolumeError(f"{path} is a URL: download the scan and give its path.")
    if not os.path.exists(path):
        raise VolumeError(f"{path or 'an empty path'} does not exist: check the path.")
    if not os.path.isfile(path):
        raise VolumeError(f"{path} is a folder or device, not a file: give the path of one scan.")
    try:
        image = nibabel.load(path, mmap=False)
    except nibabel.filebasedimages.ImageFileError as error:
        reason = _one_line(error, path)
        raise VolumeError(f"{path} is not a volume ({reason}): give NIfTI or MGH (dcm2niix converts DICOM).") from error
    except Exception as error:  # damaged bytes can make a decoder raise anything
        reason = _one_line(error, path)
        raise VolumeError(f"{path} cannot be opened ({reason}): copy it again, or convert it to NIfTI.") from error
    if not isinstance(image, SpatialImage):
        raise VolumeError(f"{path} contains a {type(image).__name__}, not a 3D volume: give a NIfTI or MGH scan.")
    return image


def spatial_shape(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """The three spatial lengths of a stored shape. Trailing axes of length 1 are dropped.

    Raises:
        VolumeError: there are several frames, fewer than three axes, a single slice, or more voxels than a scan can
            have.
    """
    found = shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise VolumeError(f"{name} has several frames or channels, shape {found}: give one 3D volume.")
    if len(shape) < 3 or min(shape) < 2:
        raise VolumeError(f"{name} is not a 3D volume, its shape is {found}: give a scan of the whole head.")
    if math.prod(shape) > MAX_VOXELS:
        raise VolumeError(
            f"{name} claims {math.prod(shape):.3g} voxels, shape {found}: its header is damaged; export it again."
        )
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
    header = image.header
    if isinstance(header, nibabel.Nifti1Header):  # NIfTI-2 too
        stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    else:
        stated = not isinstance(header, nibabel.AnalyzeHeader)
    if not stated:
        raise VolumeError(
            f"{name} does not say which side is left ({type(image).__name__} with neither sform nor qform):"
            " convert the original again, or set its orientation."
        )
    affine = np.asarray(image.affine, dtype=np.float64) if image.affine is not None else np.full((4, 4), np.nan)
    with np.errstate(all="ignore"):
        directions = affine[:3, :3] / np.sqrt(np.square(affine[:3, :3]).sum(axis=0))
        volume = abs(np.linalg.det(directions))  # of a unit voxel: 1 without shear
    if not np.isfinite(affine).all() or not volume > 1e-3:
        raise VolumeError(
            f"{name} has an affine that is singular or not finite: its header is damaged; export it again."
        )
    return affine


def read_voxels(image: SpatialImage, name: str) -> np.ndarray:
    """The voxels in stored order, scaled as the header says.

    Raises:
        VolumeError: the data are truncated or missing, or their checksum is wrong.
    """
    try:
        with np.errstate(all="ignore"):
            return _decode(image)
    except Exception as error:  # damaged bytes, as in open_image
        reason = _one_line(error, name)
        raise VolumeError(f"{name} has voxels that cannot be read ({reason}): copy or export it again.") from error


def _decode(image: SpatialImage) -> np.ndarray:
    proxy = image.dataobj
    if type(proxy) is not ArrayProxy or not isinstance(proxy.file_like, str):
        return np.asanyarray(proxy)
    path, claimed = proxy.file_like, proxy.offset + math.prod(proxy.shape) * proxy.dtype.itemsize
    ratio = {".gz": GZIP_RATIO, ".mgz": GZIP_RATIO, ".bz2": math.inf, ".zst": math.inf}
    if claimed > os.path.getsize(path) * ratio.get(os.path.splitext(path)[1].lower(), 1):  # before allocating
        raise OSError(f"its header promises {claimed} bytes, the file has {os.path.getsize(path)}")
    layout = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
    with _open_stream(path) as stream:
        voxels = np.asanyarray(ArrayProxy(stream, layout, mmap=False))
        while stream.read(1 << 20):  # gzip checks its checksum at the end of the file
            pass
    return voxels


def _open_stream(path: str):
    """The decompressed bytes of a file, opened as nibabel does. Gzip is read by isal if it is installed."""
    if igzip is not None and path.lower().endswith((".gz", ".mgz")):
        return igzip.open(path, "rb")
    return ImageOpener(path)


def _one_line(error: Exception, path: str) -> str:
    """A decoder's message as part of a sentence."""
    if isinstance(error, (LookupError, AttributeError, TypeError)):  # "KeyError: 1111638594" is of no use
        return "its header is invalid"
    text = " ".join(str(error).replace(path, os.path.basename(path)).split()).rstrip(".")
    return "".join(letter if letter.isprintable() else "?" for letter in text) or type(error).__name__

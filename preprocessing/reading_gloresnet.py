"""Opening a scan: whatever a header can get wrong is found before a voxel is read, and said in one sentence."""

import math
import os

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener
from nibabel.spatialimages import SpatialImage

try:  # reads gzip in half the time; a model folder must work without it
    from isal import igzip
except ImportError:
    igzip = None

MAX_VOXELS = 1_000_000_000  # a header that claims more is damaged; a 0.2 mm head has a tenth of it
GZIP_RATIO = 1100  # deflate cannot shrink further than 1032 : 1


class VolumeError(ValueError):
    """A scan or mask that cannot be used. The message is one sentence: what was found, where, what to do."""


def open_image(path: str) -> SpatialImage:
    """Open a file and read its header, not yet its voxels.

    Raises:
        VolumeError: no such file, or not a volume in a format nibabel reads.
    """
    if "://" in path:
        raise VolumeError(f"{path} is a URL, which is not opened: download the scan and give its path.")
    if not os.path.exists(path):
        raise VolumeError(f"{path or 'an empty path'} does not exist: check the path.")
    if not os.path.isfile(path):
        raise VolumeError(f"{path} is a folder or device, not a file: give the path of one scan.")
    try:
        image = nibabel.load(path, mmap=False)
    except nibabel.filebasedimages.ImageFileError as error:
        reason = _one_line(error, path)
        raise VolumeError(f"{path} is no volume ({reason}): give NIfTI or MGH (dcm2niix converts DICOM).") from error
    except Exception as error:  # a decoder fed damaged bytes may raise anything
        reason = _one_line(error, path)
        raise VolumeError(f"{path} cannot be opened ({reason}): copy it again, or convert it to NIfTI.") from error
    if not isinstance(image, SpatialImage):
        raise VolumeError(f"{path} holds a {type(image).__name__}, not a 3D volume: give a NIfTI or MGH scan.")
    return image


def spatial_shape(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """The three spatial lengths of a stored shape; axes of length 1 behind them are dropped.

    Raises:
        VolumeError: several frames, fewer than three axes, a single slice, or more voxels than a scan can have.
    """
    found = shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise VolumeError(f"{name} holds several frames or channels, shape {found}: give one 3D volume of them.")
    if len(shape) < 3 or min(shape) < 2:
        raise VolumeError(f"{name} is not a 3D volume, its shape is {found}: give a scan of the whole head.")
    if math.prod(shape) > MAX_VOXELS:
        raise VolumeError(
            f"{name} claims {math.prod(shape):.3g} voxels, shape {found}: its header is damaged, export it again."
        )
    return shape


def check_voxel_type(dtype: np.dtype, name: str) -> None:
    """Raise a VolumeError unless voxels are real numbers."""
    if np.dtype(dtype).kind not in "biuf":
        kind = "complex" if np.dtype(dtype).kind == "c" else "colour or structured"
        raise VolumeError(f"{name} has {kind} voxels ({dtype}): give a grey-scale (magnitude) volume.")


def stated_affine(image: SpatialImage, name: str) -> np.ndarray:
    """The `(4, 4)` affine, voxel indices to RAS millimetres, if the file itself states one (NIfTI: sform, else qform).

    Raises:
        VolumeError: left and right cannot be known, or the matrix is singular or not finite.
    """
    header = image.header
    if isinstance(header, nibabel.Nifti1Header):  # NIfTI-2 too
        stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    else:
        stated = not isinstance(header, nibabel.AnalyzeHeader)
    if not stated:
        raise VolumeError(
            f"{name} does not say which way is left ({type(image).__name__} with neither sform nor qform):"
            " convert it again from the original, or set its orientation."
        )
    affine = np.asarray(image.affine, dtype=np.float64) if image.affine is not None else np.full((4, 4), np.nan)
    with np.errstate(all="ignore"):
        directions = affine[:3, :3] / np.sqrt(np.square(affine[:3, :3]).sum(axis=0))
        volume = abs(np.linalg.det(directions))  # of a unit voxel: 1 unless sheared
    if not np.isfinite(affine).all() or not volume > 1e-3:
        raise VolumeError(
            f"{name} has an affine that is singular or not finite: its header is damaged, export it again."
        )
    return affine


def read_voxels(image: SpatialImage, name: str) -> np.ndarray:
    """The voxels in stored order, scaled as the header says.

    Raises:
        VolumeError: the data are truncated, fail their checksum, or are missing.
    """
    try:
        with np.errstate(all="ignore"):
            return _decode(image)
    except Exception as error:  # damaged bytes again
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
        while stream.read(1 << 20):  # gzip compares its checksum only at the very end
            pass
    return voxels


def _open_stream(path: str):
    """The decompressed bytes of a file, as nibabel opens it; of gzip by isal where that is installed."""
    if igzip is not None and path.lower().endswith((".gz", ".mgz")):
        return igzip.open(path, "rb")
    return ImageOpener(path)


def _one_line(error: Exception, path: str) -> str:
    """A decoder's reason, fit to stand in a sentence."""
    if isinstance(error, (LookupError, AttributeError, TypeError)):  # "KeyError: 1111638594" helps nobody
        return "its header makes no sense"
    text = " ".join(str(error).replace(path, os.path.basename(path)).split()).rstrip(".")
    return "".join(letter if letter.isprintable() else "?" for letter in text) or type(error).__name__

"""Read NIfTI and MGH headers from their raw bytes, where nibabel misreads or refuses what the standard allows.

- A single NIfTI file with `vox_offset` below 352 (NIfTI-2: 544) has its voxels at 352 (544); nibabel reads from 0.
- The quaternion of a qform may be too long by rounding; nibabel refuses it.
- An MGH header can say that it states no orientation (`goodRASFlag`); nibabel hides this.
- A header can contradict itself; nibabel mends it in silence and takes one of the two sides.
- Content decides whether a file is compressed and what it contains; nibabel goes by the extension.
"""

import bz2
import gzip
import io
import math
import os
import shlex
from typing import Any, Literal

import nibabel
import numpy as np
from nibabel.fileholders import FileHolder
from nibabel.openers import ImageOpener
from nibabel.spatialimages import SpatialImage

igzip: Any
try:  # optional: decompresses gzip in half the time
    from isal import igzip
except ImportError:
    igzip = None

HEAD = 544  # bytes of the longest header with its extension flag
QUATERNION_ROUNDING = 1e-5  # b^2 + c^2 + d^2 may exceed 1 by this
LAST_FORM = 5  # sform_code and qform_code: NIFTI_XFORM_TEMPLATE_OTHER
LAST_TAG = 1000  # of MGH: FreeSurfer uses 1 to 45
TAGS_WITHOUT_LENGTH = (1, 2, 20)  # of MGH: old colour table, old use of RAS, old surface geometry
OLD_TRANSFORM = 30  # of MGH: its length has 4 bytes, not 8
COSINES = 1e-2  # direction cosines of MGH may differ from orthonormal ones by this
NIFTI = {348: (nibabel.Nifti1Image, 344), 540: (nibabel.Nifti2Image, 4)}  # header length: class, place of the magic


class ContradictionError(ValueError):
    """A header contradicts itself. The message is part of a sentence."""


def compression(path: str) -> str:
    """How a file is compressed, by its first bytes: `"gzip"`, `"bzip2"`, `"zstd"` or `""`."""
    with open(path, "rb") as file:
        first = file.read(4)
    known = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
    return next((name for magic, name in known.items() if first.startswith(magic)), "")


def open_stream(path: str) -> io.BufferedIOBase | ImageOpener:
    """The decompressed bytes of a file. Gzip is read by isal if it is installed."""
    kind = compression(path)
    if kind == "gzip":
        return igzip.open(path, "rb") if igzip is not None else gzip.open(path, "rb")
    if kind == "bzip2":
        return bz2.open(path, "rb")
    return ImageOpener(path) if kind == "zstd" else open(path, "rb")


def open_by_content(path: str) -> SpatialImage | None:
    """The image in a single NIfTI or MGH file, with a corrected header, or None for other files and pairs.

    The image has no voxels: its `dataobj` says where they are in the decompressed file.

    Raises:
        ContradictionError: the header contradicts itself. Damaged bytes can raise anything else.
    """
    name = path.lower()
    if name.removesuffix(".gz").removesuffix(".bz2").endswith((".hdr", ".img")):
        return None
    with open_stream(path) as stream:
        head = stream.read(HEAD)
    kind: type[SpatialImage]
    if single_nifti(head):
        problem = _nifti_contradiction(head)
        kind, head = NIFTI[_header_length(head)[0]][0], _corrected(head)
    elif head[:4] == b"\0\0\0\1" and name.removesuffix(".gz").endswith((".mgh", ".mgz")):
        problem = _mgh_contradiction(head)
        kind = nibabel.MGHImage
    else:
        return None
    if problem:
        raise ContradictionError(problem)
    return kind.from_file_map({"image": FileHolder(path, io.BytesIO(head))})


def single_nifti(head: bytes) -> int:
    """The first byte that can be a voxel of a NIfTI file with these first bytes; 0 if it is not NIfTI."""
    length, _ = _header_length(head)
    if length not in NIFTI or len(head) < length:
        return 0
    place = NIFTI[length][1]
    return length + 4 if head[place : place + 3] in (b"n+1", b"ni1", b"n+2", b"ni2") else 0


def contradiction(image: SpatialImage) -> str:
    """What contradicts what in the header of an image's file, as part of a sentence; empty if nothing does."""
    head = _first_bytes(image)
    if isinstance(image, nibabel.MGHImage):
        return _mgh_contradiction(head)
    if isinstance(image.header, nibabel.Nifti1Header) and single_nifti(head.ljust(HEAD, b"\0")):
        return _nifti_contradiction(head)
    return ""


def starts_with_extensions(head: bytes) -> bool:
    """Whether the first bytes of a single NIfTI file say that extensions follow."""
    start = single_nifti(head)
    return start > 0 and len(head) >= start and head[start - 4] != 0


def extension_problem(head: bytes, gap: bytes) -> str:
    """What is wrong with the bytes between the header and the voxels, as part of a sentence; empty if nothing is.

    Args:
        head: the first bytes of the file; of a pair, of the file with the voxels.
        gap: what comes after the header and before `vox_offset`.
    """
    place = 0
    if starts_with_extensions(head):
        order: Literal["little", "big"] = "little" if _header_length(head)[1] == "<" else "big"
        while len(gap) - place >= 8 and (size := int.from_bytes(gap[place : place + 4], order, signed=True)):
            if size < 8 or size > len(gap) - place:
                return f"an extension of {size} bytes runs over the first voxel, for which vox_offset leaves {len(gap)}"
            place += size
    if gap[place:].strip(b"\0"):
        return f"vox_offset skips {len(gap) - place} bytes that are neither extensions nor zeros"
    return ""


def mgh_tags_end(tail: bytes) -> int:
    """Where the scan parameters and tags end that may follow the voxels of an MGH file; what is left has to be zeros.

    Source: `mriio.cpp` and `tags.cpp` of FreeSurfer: five floats, then tags of a number, a length and so many bytes.
    """
    parameters = np.frombuffer(tail[: len(tail[:20]) // 4 * 4], ">f4")
    sizes = np.abs(parameters[parameters != 0])  # ms, radians, mm
    if not ((sizes > 1e-4) & (sizes < 1e7)).all():
        return 0
    place = 20
    while len(tail) - place >= 4 and (tag := int.from_bytes(tail[place : place + 4], "big")):
        if tag in TAGS_WITHOUT_LENGTH:  # their content says how long it is
            return len(tail)
        wide = 4 if tag == OLD_TRANSFORM else 8
        length = int.from_bytes(tail[place + 4 : place + 4 + wide], "big")
        if tag > LAST_TAG or place + 4 + wide + length > len(tail):
            return 0
        place += 4 + wide + length
    return 0 if 0 < len(tail) - place < 4 else min(place, len(tail))


def irregular_neighbour(path: str) -> str:
    """A pipe, socket or device that nibabel could open together with a file, because it has the same stem; or empty."""
    folder, name = os.path.split(path)
    stem = name.split(".")[0]
    with os.scandir(folder or ".") as entries:
        for entry in entries:
            other = entry.name.split(".")[0] == stem and not (entry.is_file() or entry.is_dir())
            if other and os.path.exists(entry.path):  # not a link to a missing file
                return entry.path
    return ""


def first_voxel(proxy: Any) -> int:
    """Where the voxels of a nibabel array proxy start, which is not inside the header of a single NIfTI file."""
    try:
        if isinstance(proxy.file_like, str):
            with open_stream(proxy.file_like) as stream:
                head = stream.read(HEAD)
        else:
            proxy.file_like.seek(0)
            head = proxy.file_like.read(HEAD)
    except Exception:  # reading the voxels says why
        return proxy.offset
    return max(proxy.offset, single_nifti(head))


def states_orientation(image: nibabel.MGHImage) -> bool:
    """Whether the file of an MGH image says that its orientation is valid. True for an image that has no file."""
    try:
        with image.file_map["image"].get_prepare_fileobj("rb") as stream:
            head = stream.read(30)
    except Exception:  # it has no file, or a damaged one: reading the voxels says why
        return True
    return len(head) < 30 or int.from_bytes(head[28:30], "big", signed=True) > 0


def missing_content(path: str) -> str | None:
    """The command that fetches a file which git-annex or git-LFS has not fetched yet; None for any other file."""
    get = f"datalad get {shlex.quote(os.path.basename(path))}"
    if not os.path.exists(path):
        link = os.readlink(path) if os.path.islink(path) else ""
        return get if "annex/objects/" in link.replace("\\", "/") else None
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            first = file.read(1024)
    except OSError:  # opening it says why
        return None
    if first.startswith(b"version https://git-lfs.github.com/spec/"):
        return "git lfs pull"
    pointer = first.split(b"\n")[0]
    return get if b"annex/objects/" in pointer and pointer.startswith((b"/annex/", b"../", b".git/")) else None


def _header_length(head: bytes) -> tuple[int, Literal["<", ">"]]:
    """The length that a NIfTI header gives for itself, and its byte order."""
    little = int.from_bytes(head[:4], "little")
    return (little, "<") if little in NIFTI else (int.from_bytes(head[:4], "big"), ">")


def _fields(head: bytes) -> np.ndarray:
    """The fields of a NIfTI header, as a copy."""
    length, order = _header_length(head)
    layout = NIFTI[length][0].header_class.template_dtype.newbyteorder(order)
    return np.ndarray((), layout, bytearray(head[:length]))


def _first_bytes(image: SpatialImage) -> bytes:
    """The first bytes of the file that holds the header of an image; empty if there is no such file."""
    holder = image.file_map.get("header") or image.file_map.get("image")
    try:
        if holder is not None and holder.filename:
            with open_stream(holder.filename) as stream:
                return stream.read(HEAD)
        if holder is not None and holder.fileobj is not None:
            holder.fileobj.seek(0)
            return holder.fileobj.read(HEAD)
    except Exception:  # reading the voxels says why
        return b""
    return b""


def _nifti_contradiction(head: bytes) -> str:
    """What contradicts what in a NIfTI header; nibabel takes one of the two sides in silence."""
    raw = _fields(head)
    axes, code, bits = int(raw["dim"][0]), int(raw["datatype"]), int(raw["bitpix"])
    if not 1 <= axes <= 7:
        return f"dim[0], the number of axes, is {axes}"
    types: Any = nibabel.nifti1.data_type_codes.dtype
    if code in types and bits not in (0, 8 * types[code].itemsize):
        return f"datatype {code} has {8 * types[code].itemsize} bits per voxel, but bitpix is {bits}"
    for form in ("sform_code", "qform_code"):
        if not 0 <= int(raw[form]) <= LAST_FORM:
            return f"{form} is {int(raw[form])}, but there are only 0 to {LAST_FORM}"
    handedness = float(raw["pixdim"][0])
    if int(raw["qform_code"]) > 0 and handedness not in (-1, 0, 1):
        return f"pixdim[0], the handedness of the qform, is {handedness:.3g}, but it is 1 or -1"
    slope, inter = float(raw["scl_slope"]), float(raw["scl_inter"])
    if math.isinf(slope) or not (math.isfinite(inter) or math.isnan(slope) or slope == 0):
        return f"scl_slope is {slope:g} and scl_inter is {inter:g}, so no intensity is finite"
    return ""


def _mgh_contradiction(head: bytes) -> str:
    """What contradicts what in an MGH header that states its orientation."""
    if len(head) < 90 or int.from_bytes(head[28:30], "big", signed=True) <= 0:
        return ""
    edges, cosines = np.frombuffer(head, ">f4", 3, 30), np.frombuffer(head, ">f4", 9, 42).reshape(3, 3)
    if not (edges > 0).all():
        return f"its voxels are {' x '.join(f'{edge:.3g}' for edge in edges)} mm"
    with np.errstate(all="ignore"):
        if not (np.abs(cosines.astype(float) @ cosines.astype(float).T - np.eye(3)) <= COSINES).all():
            return "its direction cosines are not of length 1 and perpendicular"
    return ""


def _corrected(head: bytes) -> bytes:
    """The header of a single NIfTI file with a valid `vox_offset`, a unit quaternion, and no extensions."""
    length, _ = _header_length(head)
    header_class, raw = NIFTI[length][0].header_class, _fields(head)
    if not raw["vox_offset"] >= length + 4:
        raw["vox_offset"] = length + 4
    parts = ("quatern_b", "quatern_c", "quatern_d")
    square = sum(float(raw[part]) ** 2 for part in parts)
    if abs(header_class.quaternion_threshold) <= square - 1 <= QUATERNION_ROUNDING:
        for part in parts:
            raw[part] = float(raw[part]) / np.sqrt(square)
    return raw.tobytes() + bytes(4)

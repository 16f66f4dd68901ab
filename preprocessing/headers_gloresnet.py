"""Read NIfTI and MGH headers from their raw bytes, where nibabel misreads or refuses what the standard allows.

- A single NIfTI file with `vox_offset` below 352 (NIfTI-2: 544) has its voxels at 352 (544); nibabel reads from 0.
- The quaternion of a qform may be too long by rounding; nibabel refuses it.
- An MGH header can say that it states no orientation (`goodRASFlag`); nibabel hides this.
- Content decides whether a file is compressed and what it contains; nibabel goes by the extension.
"""

import bz2
import gzip
import io
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
NIFTI = {348: (nibabel.Nifti1Image, 344), 540: (nibabel.Nifti2Image, 4)}  # header length: class, place of the magic


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

    The image has no voxels: its `dataobj` says where they are in the decompressed file. Damaged bytes can raise
    anything.
    """
    name = path.lower()
    if name.removesuffix(".gz").removesuffix(".bz2").endswith((".hdr", ".img")):
        return None
    with open_stream(path) as stream:
        head = stream.read(HEAD)
    kind: type[SpatialImage]
    if single_nifti(head):
        kind, head = NIFTI[_header_length(head)[0]][0], _corrected(head)
    elif head[:4] == b"\0\0\0\1" and name.removesuffix(".gz").endswith((".mgh", ".mgz")):
        kind = nibabel.MGHImage
    else:
        return None
    return kind.from_file_map({"image": FileHolder(path, io.BytesIO(head))})


def single_nifti(head: bytes) -> int:
    """The first byte that can be a voxel of a NIfTI file with these first bytes; 0 if it is not NIfTI."""
    length, _ = _header_length(head)
    if length not in NIFTI or len(head) < length:
        return 0
    place = NIFTI[length][1]
    return length + 4 if head[place : place + 3] in (b"n+1", b"ni1", b"n+2", b"ni2") else 0


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


def _corrected(head: bytes) -> bytes:
    """The header of a single NIfTI file with a valid `vox_offset`, a unit quaternion, and no extensions."""
    length, order = _header_length(head)
    header_class = NIFTI[length][0].header_class
    raw = np.ndarray((), header_class.template_dtype.newbyteorder(order), bytearray(head[:length]))
    if not raw["vox_offset"] >= length + 4:
        raw["vox_offset"] = length + 4
    parts = ("quatern_b", "quatern_c", "quatern_d")
    square = sum(float(raw[part]) ** 2 for part in parts)
    if abs(header_class.quaternion_threshold) <= square - 1 <= QUATERNION_ROUNDING:
        for part in parts:
            raw[part] = float(raw[part]) / np.sqrt(square)
    return raw.tobytes() + bytes(4)

"""NIfTI and MGH files byte by byte, without nibabel's writers, which mend what a test wants broken."""

import bz2
import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (9, 12, 7)
VOXELS = np.random.default_rng(3).gamma(2, 90, SHAPE).astype(np.int16)
SFORM = ((-0.5, 0, 0, 4), (0, 0.5, 0, 5), (0, 0, 0.75, 6))  # stored from right to left


def nifti(version=1, order="<", offset=None, sform=SFORM, qform=None, units=2, magic=None, extender=0, size=1) -> bytes:
    """A NIfTI file, from the field tables of nifti1.h and nifti2.h.

    `qform` is (code, b, c, d, x, y, z, qfac); `size` multiplies the voxel size of pixdim.
    """
    start = 352 if version == 1 else 544
    offset = start if offset is None else offset
    head = bytearray(start)

    def put(place, form, *values):
        struct.pack_into(order + form, head, place, *values)

    code, b, c, d, x, y, z, qfac = qform or (0,) * 7 + (1,)
    pixdim, dim = (qfac, 0.5 * size, 0.5 * size, 0.75 * size, 0, 0, 0, 0), (3, *SHAPE, 1, 1, 1, 1)
    rows = [number for row in sform or ((0,) * 4,) * 3 for number in row]
    if version == 1:
        put(0, "i", 348)
        put(40, "8h", *dim)
        put(70, "2h", 4, 16)  # datatype int16
        put(76, "8f", *pixdim)
        put(108, "3f", offset, 1, 0)  # vox_offset, slope, intercept
        put(123, "B", units)
        put(252, "2h", code, int(sform is not None))
        put(256, "6f", b, c, d, x, y, z)
        put(280, "12f", *rows)
        head[344:348] = magic or b"n+1\0"
        head[348] = extender
    else:
        put(0, "i", 540)
        head[4:12] = magic or b"n+2\0\r\n\x1a\n"
        put(12, "2h", 4, 16)
        put(16, "8q", *dim)
        put(104, "8d", *pixdim)
        put(168, "q", int(offset))
        put(176, "2d", 1, 0)
        put(344, "2i", code, int(sform is not None))
        put(352, "6d", b, c, d, x, y, z)
        put(400, "12d", *rows)
        put(500, "i", units)
        head[540] = extender
    return bytes(head) + VOXELS.astype(order + "i2").tobytes("F")


def mgh(good_ras: int) -> bytes:
    """An MGH file: big-endian, voxels from byte 284, coronal direction cosines."""
    head = bytearray(284)
    struct.pack_into(">7i", head, 0, 1, *SHAPE, 1, 4, 0)  # version, shape, frames, int16
    struct.pack_into(">h15f", head, 28, good_ras, 0.5, 0.5, 0.75, -1, 0, 0, 0, 0, -1, 0, 1, 0, 1, 2, 3)
    return bytes(head) + VOXELS.astype(">i2").tobytes("F")


def written(path: Path, content: bytes) -> Path:
    """A file, compressed as its name says."""
    name = path.name.lower()
    content = gzip.compress(content) if name.endswith((".gz", ".mgz")) else content
    path.write_bytes(bz2.compress(content) if name.endswith(".bz2") else content)
    return path


def patched(content: bytes, name: str, value, index=()) -> bytes:
    """A NIfTI file with another value in a field of its header, or in one element of it."""
    order = "<" if content[0] else ">"
    kind = nibabel.Nifti1Header if struct.unpack(order + "i", content[:4]) == (348,) else nibabel.Nifti2Header
    raw = np.ndarray((), kind.template_dtype.newbyteorder(order), bytearray(content[: kind.sizeof_hdr]))
    raw[name][index] = value
    return raw.tobytes() + content[kind.sizeof_hdr :]

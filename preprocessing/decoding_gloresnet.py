"""Decode the voxels of a scan: no more bytes than the budget, no float64 copy, and nothing left over in the file.

The bytes of a file are the second witness of its header. What lies before and after the voxels has to be what the
standard allows there: extensions (NIfTI), tags (MGH) or zeros.
"""

import math
import os
from typing import Any

import numpy as np
from nibabel.arrayproxy import ArrayProxy, is_proxy
from nibabel.spatialimages import SpatialImage

from .headers_gloresnet import (
    compression,
    extension_problem,
    first_voxel,
    mgh_tags_end,
    open_stream,
    single_nifti,
    starts_with_extensions,
)

BUDGET = 1_500_000_000  # bytes of decoded voxels: a cube of 216 mm in float32 at 0.3 mm
MGH_START = 284  # the first voxel of an MGH file
EXTENSIONS = 1 << 26  # bytes between the header and the voxels
TAIL = 1 << 20  # bytes after the voxels: zeros, or the tags of MGH
BLOCK = 1 << 20  # bytes that are decoded at a time
GZIP_RATIO = 1100  # deflate compresses by a factor of 1032 at most
FLOAT32_OFFSET = 2**17  # an intercept of at most so many steps of an integer: float32 keeps a hundredth of a step
FLOAT32_SLOPE = 1e20  # a larger slope could overflow float32
SAMPLE = 32768  # neighbouring voxels in the middle, in which a wrong type is looked for
ROUGH = 0.3  # mean difference of neighbours, in standard deviations; noise has 1.1, an image 0.1 to 0.4


def decoded_type(stored: np.dtype, slope: float = 1.0, inter: float = 0.0) -> np.dtype:
    """The type of the decoded voxels: as stored if they are not scaled, else float32 if this keeps their precision."""
    stored = np.dtype(stored)
    if (slope, inter) == (1, 0):
        return stored.newbyteorder("=")
    exact = stored.kind in "iu" and stored.itemsize <= 2 and abs(inter) <= FLOAT32_OFFSET * abs(slope)
    exact |= stored.kind == "f" and stored.itemsize <= 4 and inter == 0
    return np.dtype(np.float32 if exact and abs(slope) < FLOAT32_SLOPE else np.float64)


def decoded_bytes(image: SpatialImage) -> int:
    """How much memory the decoded voxels of a file take; 0 if they are in memory already."""
    proxy: Any = image.dataobj
    if not is_proxy(proxy):
        return 0
    plain = type(proxy) is ArrayProxy
    dtype = decoded_type(proxy.dtype, proxy.slope, proxy.inter) if plain else np.dtype(np.float64)
    return math.prod(int(n) for n in proxy.shape) * dtype.itemsize


def decode(image: SpatialImage, path: str = "") -> tuple[np.ndarray, tuple[str, ...]]:
    """The voxels in stored order, scaled as the header says, in native byte order.

    Args:
        image: as stored; a file has at most `BUDGET` `decoded_bytes`.
        path: the file of an image without voxels, from `open_by_content`; empty for an image that nibabel opened.

    Returns:
        The voxels, and sentences about what may be wrong with them.

    Raises:
        ValueError, OSError: the header contradicts the file. Damaged bytes can raise anything.
    """
    proxy = image.dataobj
    if type(proxy) is not ArrayProxy:
        voxels = np.asanyarray(proxy)
        if isinstance(proxy, ArrayProxy) and isinstance(proxy.file_like, str):  # the .BRIK of AFNI
            with open_stream(proxy.file_like) as stream:
                stream.seek(proxy.offset + math.prod(proxy.shape) * proxy.dtype.itemsize)
                _padding(stream, mgh=False)
        return voxels, ()
    source: Any = proxy.file_like
    if path and not isinstance(source, str):  # open_by_content read the header only
        source, offset = path, int(proxy.offset)
    else:
        offset = int(first_voxel(proxy))
    if not isinstance(source, str):
        source.seek(0)
        return _read(source, proxy, offset)
    claimed = offset + math.prod(int(n) for n in proxy.shape) * proxy.dtype.itemsize
    ratio = {"gzip": GZIP_RATIO, "bzip2": math.inf, "zstd": math.inf}
    if claimed > os.path.getsize(source) * ratio.get(compression(source), 1):  # before allocating
        raise OSError(f"its header promises {claimed} bytes, the file has {os.path.getsize(source)}")
    with open_stream(source) as stream:
        return _read(stream, proxy, offset)


def _read(stream: Any, proxy: ArrayProxy, offset: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a decompressed stream from its first byte to its last."""
    head = stream.read(min(offset, 544)) if offset > 0 else b""
    mgh = offset == MGH_START and head.startswith(b"\0\0\0\1")  # nibabel may have put its voxels into another image
    start = single_nifti(head) or (MGH_START if mgh else 0)  # the voxels of a pair may start at 0
    if offset < start or offset - start > EXTENSIONS:
        raise ValueError(f"its vox_offset, where the voxels start, is {offset}")
    gap = head[start:] + stream.read(offset - len(head))
    if problem := extension_problem(head, gap):
        raise ValueError(problem)
    shape = tuple(int(n) for n in proxy.shape)
    voxels, sample = _decoded(stream, proxy.dtype, math.prod(shape), float(proxy.slope), float(proxy.inter))
    padding = _padding(stream, mgh)
    sentences = _misread(sample) or (_wrapped(voxels) if proxy.dtype.kind == "u" else ())
    if padding >= 16 and not gap and starts_with_extensions(head):
        raise ValueError("its header announces extensions, but its vox_offset leaves no room for them")
    face = math.prod(shape) // max(shape) * proxy.dtype.itemsize
    if padding >= face:
        sentences += (
            f"{padding} zero bytes follow the voxels, as many as {padding / face:.3g} slices: its dimensions may be"
            " too small.",
        )
    return voxels.reshape(shape, order=proxy.order), sentences


def _decoded(stream: Any, stored: np.dtype, count: int, slope: float, inter: float) -> tuple[np.ndarray, np.ndarray]:
    """The voxels, flat, and a sample of them as stored."""
    target = decoded_type(stored, slope, inter)
    voxels = np.empty(count, target)  # takes memory only where it is filled
    native = stored.newbyteorder("=")
    if (slope, inter) == (1, 0):
        _fill(stream, voxels.view(np.uint8), 0)
        if not stored.isnative:
            voxels.byteswap(inplace=True)
        return voxels, voxels[count // 2 : count // 2 + SAMPLE].astype(native, copy=False)
    sample = np.empty(0, native)
    block = np.empty(BLOCK // 8, stored)  # in float64 it fits into the CPU cache
    for start in range(0, count, len(block)):
        part = block[: count - start]
        _fill(stream, part.view(np.uint8), start * stored.itemsize)
        if start <= count // 2 < start + len(part):
            sample = part[count // 2 - start :][:SAMPLE].astype(native)
        scaled = part.astype(np.float64)
        scaled *= slope
        scaled += inter
        voxels[start : start + len(part)] = scaled
    return voxels, sample


def _fill(stream: Any, target: np.ndarray, before: int) -> None:
    """Fill an array of bytes; `before` bytes of the voxels were read before it."""
    done = 0
    while done < len(target):
        count = stream.readinto(target[done : done + BLOCK])
        if not count:
            raise EOFError(f"its header promises more voxels, the data end after {before + done} bytes of them")
        done += count


def _padding(stream: Any, mgh: bool) -> int:
    """Read what follows the voxels, to the end, where gzip checks its checksum. Returns how many zeros there are.

    Raises:
        ValueError: it is neither padding nor, in an MGH file, tags.
    """
    tail = bytearray()
    while len(tail) <= TAIL and (part := stream.read(BLOCK)):
        tail += part
    if len(tail) > TAIL:
        raise ValueError(f"more than {TAIL} bytes follow its voxels, its dimensions or data type are too small")
    padding = bytes(tail[mgh_tags_end(bytes(tail)) :] if mgh else tail)
    if padding.strip(b"\0"):
        raise ValueError(f"{len(padding)} bytes follow its voxels, its dimensions or data type contradict the file")
    return len(padding)


def _misread(sample: np.ndarray) -> tuple[str, ...]:
    """A sentence if voxels look like noise as they are, and like an image in another byte order or type of this width.

    Args:
        sample: neighbouring voxels as stored, flat, in native byte order.
    """
    stored = sample.dtype
    if stored.kind not in "iu" or len(sample) < 100:
        return ()
    if stored.itemsize >= 4 and (sample != 0).any():
        bits = np.abs(sample[sample != 0].astype(np.float64))
        if bits.min() > 2.0 ** (8 * stored.itemsize - 3):
            return (f"The bits of its {stored} voxels are those of floats: its data type may be wrong.",)
    rough = _roughness(sample)
    others = {
        "unsigned" if stored.kind == "i" else "signed": sample.view(f"{'ui'[stored.kind == 'u']}{stored.itemsize}")
    }
    if stored.itemsize > 1:
        others["of the other byte order"] = sample.byteswap()
    for what, other in others.items():
        if rough > ROUGH and _roughness(other) < rough / 2:
            return (f"Its {stored} voxels look like noise, but like an image if they are {what}: its data type or"
                    " byte order may be wrong.",)  # fmt: skip
    return ()


def _wrapped(voxels: np.ndarray) -> tuple[str, ...]:
    """A sentence if unsigned voxels are small numbers and a few huge ones, as those below 0 in a signed type are."""
    if voxels.dtype.kind != "u" or voxels.itemsize == 1 or voxels.max() < 2 ** (8 * voxels.itemsize - 1):
        return ()
    signed = voxels.view(f"i{voxels.itemsize}")
    low, high = int(signed.min()), int(signed.max())
    if high > 0 and 2 * (high - low) < int(voxels.max()):
        return (f"Its {voxels.dtype} voxels go up to {voxels.max()}, but from {low} to {high} if they are signed: its"
                " data type may be wrong.",)  # fmt: skip
    return ()


def _roughness(voxels: np.ndarray) -> float:
    """The mean difference of neighbours in standard deviations."""
    values = voxels.astype(np.float64)
    sd = values.std()
    return float(np.abs(np.diff(values)).mean() / sd) if sd > 0 else 0.0

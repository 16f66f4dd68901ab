"""Decode the pixels of a stack, one slice at a time."""

import io
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from .delivery import MAGIC, MAGIC_AT, File, Opened
from .errors import SeriesError
from .headers import DEFLATED, UNDEFINED, Damaged, Instance, read_meta
from .packages import require
from .stacking import Stack
from .thresholds import MAX_FILE

# every lossless transfer syntax of MR images, and how pydicom decodes it
SYNTAXES = {
    "1.2.840.10008.1.2": "",
    "1.2.840.10008.1.2.1": "",
    "1.2.840.10008.1.2.2": "",
    DEFLATED: "",
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG lossless
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "gdcm",  # JPEG-LS
    "1.2.840.10008.1.2.4.90": "gdcm",  # JPEG 2000
}
PIXEL_KEYWORDS = """
    NumberOfFrames SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit
    PixelRepresentation PixelData ExtendedOffsetTable ExtendedOffsetTableLengths
""".split()
LOSSY = {f"1.2.840.10008.1.2.4.{kind}" for kind in (50, 51, 81, 91, 203)}
END_OF_IMAGE = b"\xff\xd9"


def check_syntaxes(stack: Stack, where: str) -> None:
    """Check that every slice can be decoded exactly.

    Raises:
        SeriesError: it cannot, or a package is missing.
    """
    for syntax in sorted({instance.syntax for instance, _ in stack.slices}):
        if syntax in LOSSY:
            raise SeriesError(f"{where}: the T2-weighted series was compressed with loss: export the original series.")
        if syntax not in SYNTAXES:
            raise SeriesError(
                f"{where}: the T2-weighted series is stored in an unknown way: export it uncompressed (Explicit VR"
                " Little Endian)."
            )
        if SYNTAXES[syntax] == "gdcm":
            require(where, "gdcm")
            silence_gdcm()


def silence_gdcm() -> None:
    """Keep the decoder from printing, which may quote the file."""
    import gdcm

    for silence in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff, gdcm.Trace.DebugOff):
        silence()


def decode(stack: Stack, opened: Opened, where: str) -> np.ndarray:
    """The voxels `(columns, rows, slices)`: as stored if no slice is scaled, else float32.

    Raises:
        SeriesError: pixels are missing or damaged.
    """
    first = stack.slices[0][0]
    scaled = any((frame.slope, frame.intercept) != (1, 0) for _, frame in stack.slices)
    places: dict[File, dict[int, int]] = {}
    for place, (instance, frame) in enumerate(stack.slices):
        places.setdefault(instance.file, {})[frame.place] = place
    instances = {instance.file: instance for instance, _ in stack.slices}
    planes: np.ndarray | None = None
    problem = ""
    for file, instance in instances.items():
        try:
            for index, plane in enumerate(frames_of(instance, opened)):
                place = places[file][index]
                if planes is None:
                    shape = len(stack.slices), first.rows, first.columns
                    planes = np.empty(shape, np.float32 if scaled else plane.dtype)
                frame = stack.slices[place][1]
                if scaled:
                    planes[place] = plane * np.float64(frame.slope) + frame.intercept
                elif plane.dtype == planes.dtype:
                    planes[place] = plane
                else:
                    raise Damaged("has signed and unsigned pixels")
        except Damaged as error:
            problem = str(error)
        except Exception as error:  # damaged bytes can make a decoder raise anything
            problem = f"has pixels that cannot be decoded ({type(error).__name__})"
        if problem:
            break
    if problem or planes is None:
        raise SeriesError(f"{where}: a slice of the T2-weighted series {problem}: copy or export it again.")
    return planes.transpose(2, 1, 0)


def frames_of(instance: Instance, opened: Opened) -> Iterator[np.ndarray]:
    """The stored values of each frame `(rows, columns)`, int16 or uint16, in the order of the file.

    Raises:
        Damaged: there are fewer or other pixels than the header says.
    """
    from pydicom import dcmread
    from pydicom.pixels import iter_pixels

    count, plane = len(instance.frames), 2 * instance.rows * instance.columns
    if instance.file.size > MAX_FILE:
        raise Damaged("is too large")
    file: Any = instance.file.path
    if instance.syntax == DEFLATED:
        file = io.BytesIO(inflated(opened.read(instance.file)))
    elif instance.file.member >= 0:
        file = io.BytesIO(opened.read(instance.file))
    decoder = SYNTAXES[instance.syntax]
    if not decoder and instance.pixel_bytes < count * plane:
        raise Damaged("has fewer pixels than its header says")
    if decoder and instance.pixel_bytes != UNDEFINED:
        raise Damaged("has compressed pixels of a fixed length")
    dataset: Any = dcmread(file, specific_tags=PIXEL_KEYWORDS)
    if decoder:
        _check_fragments(dataset.PixelData, instance, count, plane)
    elif len(dataset.PixelData) < count * plane:
        raise Damaged("is truncated")
    found = 0
    for pixels in iter_pixels(dataset, raw=True, decoding_plugin=decoder):
        found += 1
        if found > count or pixels.shape != (instance.rows, instance.columns) or pixels.dtype.itemsize > 2:
            raise Damaged("has other pixels than its header says")
        yield pixels.astype(np.int16 if pixels.dtype.kind == "i" else np.uint16, copy=False)
    if found < count:
        raise Damaged("has fewer pixels than its header says")


def inflated(content: bytes) -> bytes:
    """A deflated file as an Explicit VR Little Endian file.

    Raises:
        Damaged: it is truncated, or far larger than a scan.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import ExplicitVRLittleEndian

    stream = io.BytesIO(content)
    meta = FileMetaDataset(read_meta(stream))
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflate.decompress(stream.read(), MAX_FILE)
    if not inflate.eof:
        raise Damaged("is truncated")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = DicomBytesIO()
    write_file_meta_info(out, meta)
    return bytes(MAGIC_AT) + MAGIC + out.getvalue() + data


def _check_fragments(encoded: bytes, instance: Instance, count: int, plane: int) -> None:
    """Check compressed frames before a decoder sees them: a few bytes can promise an image that fills the memory.

    Raises:
        Damaged: a frame is truncated, or of another size than the header says.
    """
    from pydicom.encaps import generate_frames

    for frame in generate_frames(encoded, number_of_frames=count):
        if len(frame) > 2 * plane + 4096:
            raise Damaged("has compressed pixels that are too long")
        if SYNTAXES[instance.syntax] != "gdcm":
            continue
        if not frame.rstrip(b"\0").endswith(END_OF_IMAGE):
            raise Damaged("is truncated")
        if image_size(frame) != (instance.rows, instance.columns, 1):
            raise Damaged("has compressed pixels of another size than its header says")


def image_size(frame: bytes) -> tuple[int, int, int]:
    """Rows, columns and colours that a JPEG, JPEG-LS or JPEG 2000 stream states; zeros if it states none."""

    def number(at: int, length: int) -> int:
        return int.from_bytes(frame[at : at + length], "big")

    if frame[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: Xsiz, Ysiz, XOsiz, YOsiz, ..., Csiz
        return number(12, 4) - number(20, 4), number(8, 4) - number(16, 4), number(40, 2)
    at = 2
    while frame[at : at + 1] == b"\xff" and at + 10 <= len(frame):
        marker = frame[at + 1]
        if marker == 0xF7 or 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the frame header
            return number(at + 5, 2), number(at + 7, 2), frame[at + 9]
        at += 2 + number(at + 2, 2)
    return 0, 0, 0

"""The header of one DICOM file as plain values. Memory is bounded by the bytes read, whatever the header claims."""

import io
import math
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO, NamedTuple

from .delivery import MAGIC, MAGIC_AT, File, Opened
from .thresholds import HEADER_BYTES, MAX_FRAMES, MAX_HEADERS, MAX_ITEMS

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR, which lists the files of a CD or USB stick
ENHANCED = ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")  # Enhanced MR, Legacy Converted
IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
PIXELS = 0x7FE00008  # the first tag of pixel data, of any kind
UNDEFINED = 0xFFFFFFFF  # length of compressed pixel data
PHILIPS_SCALE, PHILIPS_FRAME = 0x2005100E, 0x2005140F  # private
KEYWORDS = """
    SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID SeriesNumber InstanceNumber FrameOfReferenceUID
    PatientID PatientBirthDate PatientAge StudyDate
    ImageType ComplexImageComponent BurnedInAnnotation LossyImageCompression BodyPartExamined DiffusionBValue
    SeriesDescription ProtocolName SequenceName PulseSequenceName
    ScanningSequence EchoPulseSequence EchoPlanarPulseSequence AcquisitionContrast
    EchoTime RepetitionTime InversionTime ImagesInAcquisition InConcatenationTotalNumber
    Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit
    PixelRepresentation RescaleSlope RescaleIntercept ModalityLUTSequence
    ImagePositionPatient ImageOrientationPatient PixelSpacing
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
""".split()
NAMES = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
# where Enhanced MR keeps the values of a frame; Legacy Converted MR keeps the rest under the classic names
GROUPS = {
    "FrameType": ("MRImageFrameTypeSequence", "FrameType"),
    "ComplexImageComponent": ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    "AcquisitionContrast": ("MRImageFrameTypeSequence", "AcquisitionContrast"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "ImagePositionPatient": ("PlanePositionSequence", "ImagePositionPatient"),
    "ImageOrientationPatient": ("PlaneOrientationSequence", "ImageOrientationPatient"),
    "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
    "RescaleSlope": ("PixelValueTransformationSequence", "RescaleSlope"),
    "RescaleIntercept": ("PixelValueTransformationSequence", "RescaleIntercept"),
}
UNASSIGNED = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")


class Damaged(Exception):
    """A file cannot be used. The message is part of a sentence, and holds nothing that the file says."""


class Frame(NamedTuple):
    """One slice.

    Attributes:
        place: of the slice in its file.
        types: all values of ImageType, FrameType and ComplexImageComponent, in capital letters.
        echo_time, repetition_time, inversion_time: ms.
        contrast: AcquisitionContrast; empty if the header does not have it.
        position, orientation, spacing: as in the standard, mm, rows first.
        philips: the private scale factor, as text.
    """

    place: int
    types: tuple[str, ...]
    echo_time: float | None
    repetition_time: float | None
    inversion_time: float | None
    contrast: str
    diffusion: bool
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    slope: float
    intercept: float
    philips: str


class Instance(NamedTuple):
    """One file with one or several slices of an MR image.

    Attributes:
        names: the words of its description, in capital letters; for choosing only, never for a message.
        sequence: ScanningSequence, or what Enhanced MR says instead: SE, GR, EP, IR.
        expected, parts: how many images the acquisition has, and how many files a concatenation.
        pixel_bytes: length of the stored pixel data; `UNDEFINED` if compressed.
    """

    file: File
    uid: str
    study: str
    series: str
    number: int | None
    instance_number: int | None
    patient: str
    born: str
    age: str
    study_date: str
    names: str
    body_part: str
    sequence: tuple[str, ...]
    burned_in: bool
    lossy: bool
    reference: str
    expected: int | None
    parts: int | None
    syntax: str
    rows: int
    columns: int
    pixel_problem: str
    pixel_bytes: int
    frames: tuple[Frame, ...]


class Header(NamedTuple):
    """What a DICOM file says: patient and study, the instance if it is an MR image, and whether it is a DICOMDIR."""

    patient: str
    study: str
    instance: Instance | None
    directory: bool = False


class Headers:
    """Reads headers, and counts their frames and the bytes of long ones.

    Args:
        opened: opens the files.
    """

    def __init__(self, opened: Opened):
        self.opened, self.left, self.frames_left = opened, MAX_HEADERS, MAX_FRAMES

    def read(self, file: File) -> Header | None:
        """The header of a file; None if it is not DICOM.

        Raises:
            Damaged: it is DICOM and cannot be read.
        """
        problem, syntax = "", ""
        for count in HEADER_BYTES:
            try:
                start = self.opened.read(file, count)
            except Exception as error:  # damaged zips can make a decoder raise anything
                raise Damaged(f"cannot be read ({type(error).__name__})") from None
            if start[MAGIC_AT : MAGIC_AT + len(MAGIC)] != MAGIC:
                return None
            if count > HEADER_BYTES[0]:
                self.left -= len(start)
                if self.left < 0:
                    raise Damaged("has, with the others, more header than scans have")
            dataset: Any = None
            try:
                dataset, syntax, pixels = parse(start, count)
                problem = "ends before its pixels"
                if pixels is not None:
                    self.frames_left -= frames_claimed(dataset)
                    if self.frames_left < 0:
                        raise Damaged("has, with the others, more frames than scans have")
                    return _header(dataset, file, syntax, pixels)
                if str(dataset.get("SOPClassUID", "")) not in ("", MR_IMAGE, *ENHANCED):
                    return _header(dataset, file, syntax, 0)
            except Damaged:
                raise
            except Exception as error:  # damaged bytes can make pydicom raise anything, RecursionError too
                problem = f"has a damaged header ({type(error).__name__})"
            if len(start) < count and syntax != DEFLATED:
                break
        raise Damaged(problem)


def parse(start: bytes, limit: int) -> tuple[Any, str, int | None]:
    """Parse the beginning of a file.

    Args:
        start: its first bytes.
        limit: of the bytes that a deflated header may inflate to.

    Returns:
        A dataset of `KEYWORDS`, the transfer syntax, and the length of the pixel data; None if they were not reached.
    """
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset

    stream = io.BytesIO(start)
    meta = read_meta(stream)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if meta.get("MediaStorageSOPClassUID") == DIRECTORY:  # its list of files may be long
        meta.SOPClassUID = DIRECTORY
        return meta, syntax, None
    if syntax == DEFLATED:
        stream = io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(), limit))
    if stream.getvalue().count(b"\xff\xfe\xe0\x00" if syntax == BIG_ENDIAN else b"\xfe\xff\x00\xe0") > MAX_ITEMS:
        raise Damaged("has more header than scans have")
    reached: list[int] = []

    def at_pixels(tag: int, _vr: str | None, length: int) -> bool:
        if tag >= PIXELS:
            reached.append(length)
        return tag >= PIXELS

    tags: list[Any] = [tag_for_keyword(keyword) for keyword in KEYWORDS]
    dataset = read_dataset(
        stream, syntax == IMPLICIT, syntax != BIG_ENDIAN, stop_when=at_pixels, specific_tags=[*tags, PHILIPS_SCALE]
    )
    return dataset, syntax, reached[0] if reached else None


def frames_claimed(dataset: Any) -> int:
    """NumberOfFrames of an image; 1 if it has none."""
    return max(1, _whole(dataset.get("NumberOfFrames")) or 1)


def read_meta(stream: BinaryIO) -> Any:
    """The dataset of file meta information. The stream is then at the first byte after it."""
    from pydicom.filereader import read_dataset

    stream.seek(MAGIC_AT + len(MAGIC))
    return read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)


def _header(dataset: Any, file: File, syntax: str, pixels: int) -> Header:
    patient, study = str(dataset.get("PatientID", "")), str(dataset.get("StudyInstanceUID", ""))
    sop_class = str(dataset.get("SOPClassUID", ""))
    if sop_class != MR_IMAGE and sop_class not in ENHANCED:
        return Header(patient, study, None, sop_class == DIRECTORY)
    groups: list[tuple[Any, Any]] = [({}, {})]
    if sop_class in ENHANCED:
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
        groups = [(own, shared) for own in dataset.get("PerFrameFunctionalGroupsSequence") or []]
        if len(groups) != _whole(dataset.get("NumberOfFrames")):
            raise Damaged("does not have the number of frames that it claims")
    elif frames_claimed(dataset) != 1:
        raise Damaged("claims several frames, which its kind cannot have")
    frames = tuple(_frame(index, *both, dataset) for index, both in enumerate(groups))
    instance = Instance(
        file=file,
        uid=str(dataset.get("SOPInstanceUID", "")),
        study=study,
        series=str(dataset.get("SeriesInstanceUID", "")),
        number=_whole(dataset.get("SeriesNumber")),
        instance_number=_whole(dataset.get("InstanceNumber")),
        patient=patient,
        born=str(dataset.get("PatientBirthDate") or ""),
        age=str(dataset.get("PatientAge") or ""),
        study_date=str(dataset.get("StudyDate") or ""),
        names=" ".join(word for keyword in NAMES for word in _texts(dataset.get(keyword))),
        body_part=" ".join(_texts(dataset.get("BodyPartExamined"))),
        sequence=_sequence(dataset, *(groups[0] if groups else ({}, {}))),
        burned_in=_texts(dataset.get("BurnedInAnnotation")) == ("YES",),
        lossy=_texts(dataset.get("LossyImageCompression")) == ("01",),
        reference=str(dataset.get("FrameOfReferenceUID") or ""),
        expected=_whole(dataset.get("ImagesInAcquisition")),
        parts=_whole(dataset.get("InConcatenationTotalNumber")),
        syntax=syntax,
        rows=_whole(dataset.get("Rows")) or 0,
        columns=_whole(dataset.get("Columns")) or 0,
        pixel_problem=_pixel_problem(dataset),
        pixel_bytes=pixels,
        frames=frames,
    )
    return Header(patient, study, instance)


def _frame(place: int, own: Any, shared: Any, dataset: Any) -> Frame:
    def value(name: str) -> Any:
        """Of this frame, else of all frames, else of the file."""
        if own or shared:
            sequence, keyword = GROUPS[name]
            places = [(sequence, keyword), *((unassigned, name) for unassigned in UNASSIGNED)]
            for group, word in places:
                for holder in (own, shared):
                    if (items := holder.get(group)) and (found := items[0].get(word)) is not None:
                        return found
        return dataset.get(name)

    types = [*_texts(dataset.get("ImageType")), *_texts(value("FrameType")), *_texts(value("ComplexImageComponent"))]
    philips = dataset.get(PHILIPS_SCALE)
    for holder in (own, shared):
        if holder and PHILIPS_FRAME in holder and holder[PHILIPS_FRAME].value:
            philips = holder[PHILIPS_FRAME].value[0].get(PHILIPS_SCALE)
    slope, intercept = _numbers(value("RescaleSlope")), _numbers(value("RescaleIntercept"))
    return Frame(
        place=place,
        types=tuple(types),
        echo_time=_first(value("EchoTime")),
        repetition_time=_first(value("RepetitionTime")),
        inversion_time=_first(value("InversionTime")),
        contrast=" ".join(_texts(value("AcquisitionContrast"))),
        diffusion=(_first(value("DiffusionBValue")) or 0) > 0,
        position=_numbers(value("ImagePositionPatient")),
        orientation=_numbers(value("ImageOrientationPatient")),
        spacing=_numbers(value("PixelSpacing")),
        slope=slope[0] if slope else 1.0,
        intercept=intercept[0] if intercept else 0.0,
        philips="" if philips is None else str(getattr(philips, "value", philips)),
    )


def _sequence(dataset: Any, own: Any, shared: Any) -> tuple[str, ...]:
    """ScanningSequence, of classic, Legacy Converted or Enhanced MR."""
    for holder in (dataset, *(items[0] for name in UNASSIGNED for g in (own, shared) if (items := g.get(name)))):
        if found := _texts(holder.get("ScanningSequence")):
            return found
    kinds = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}
    found = kinds.get(" ".join(_texts(dataset.get("EchoPulseSequence"))), ())
    return (*found, "EP") if _texts(dataset.get("EchoPlanarPulseSequence")) == ("YES",) else found


def _pixel_problem(dataset: Any) -> str:
    """Why the pixels cannot be used, from their description; empty if they can."""
    stored = _whole(dataset.get("BitsStored")) or 0
    if _whole(dataset.get("SamplesPerPixel")) not in (None, 1) or dataset.get("ModalityLUTSequence"):
        return "colour pixels or a lookup table"
    if _texts(dataset.get("PhotometricInterpretation")) not in ((), ("MONOCHROME2",)):
        return "pixels that are not plain grey values (MONOCHROME2)"
    if _whole(dataset.get("BitsAllocated")) != 16 or not 8 <= stored <= 16:
        return "pixels that are not stored in 16 bits"
    if _whole(dataset.get("HighBit")) not in (None, stored - 1):
        return "pixels that are not in the lowest bits"
    return ""


def _texts(value: Any) -> tuple[str, ...]:
    """The values of an element, as words in capital letters."""
    if value is None or value == "":
        return ()
    values: Iterable = [value] if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") else value
    return tuple(str(item).strip().upper() for item in values)


def _numbers(value: Any) -> tuple[float, ...]:
    """The finite numbers of an element; empty if it has none. Raises: ValueError."""
    if value is None or value == "":
        return ()
    found = tuple(float(item) for item in (value if hasattr(value, "__iter__") else [value]))
    if not all(map(math.isfinite, found)):
        raise ValueError
    return found


def _first(value: Any) -> float | None:
    return next(iter(_numbers(value)), None)


def _whole(value: Any) -> int | None:
    return None if value is None or value == "" else int(value)

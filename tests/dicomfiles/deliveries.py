"""Make DICOM deliveries from a volume, with recognisable private text in every place that may hold it."""

import copy
import datetime
from pathlib import Path

import nibabel
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

PRIVATE = ("ZPHI", "19991231", "20260203", "20260210", "1.2.826.0.1.3680043.8.498")  # names, dates, UIDs
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# columns, rows, slices; an oblique axial stack
AFFINE = np.array([[-0.8, 0.05, 0.1, 12.0], [0.04, -0.9, 0.2, 18.0], [0.05, 0.1, 1.5, -9.0], [0, 0, 0, 1.0]])


def volume(seed: int = 0, shape=(20, 24, 10), affine=AFFINE) -> nibabel.Nifti1Image:
    """A smooth head with detail, int16; its axes are at right angles."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    head = 900 * (sum(axis**2 for axis in grid) < 0.8)
    data = head * (1 + 0.3 * grid[0]) + np.random.default_rng(seed).gamma(2, 40, shape)
    axes, _ = np.linalg.qr(affine[:3, :3])
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    right_angled = affine.copy()
    right_angled[:3, :3] = axes * np.sign(np.diag(axes.T @ affine[:3, :3])) * sizes
    return nibabel.Nifti1Image(data.astype(np.int16), right_angled)


def turned(image, plane: str) -> nibabel.Nifti1Image:
    """The same volume with its slices in another plane."""
    axes = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}[plane]
    orientation = np.column_stack([np.argsort(axes), [1, 1, 1]])
    return image.as_reoriented(orientation)


def uid(*words) -> str:
    """The same UID for the same words."""
    return generate_uid(entropy_srcs=list(map(str, words)))


def header(study="a", series=5) -> Dataset:
    """What all slices of a series share."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SpecificCharacterSet = "ISO_IR 192"
    found.SOPClassUID, found.Modality = MRImageStorage, "MR"
    found.PatientName, found.PatientID, found.PatientSex = "ZPHINAME^JANÉ", "ZPHIID7", "F"
    found.PatientBirthDate, found.StudyDate, found.StudyTime = "20260203", "20260210", "101112"
    found.AccessionNumber, found.InstitutionName, found.ReferringPhysicianName = "ZPHIACC", "ZPHIHOSPITAL", "ZPHIDR^X"
    found.StudyDescription, found.SeriesDescription, found.ProtocolName = "ZPHISTUDY", "ZPHISERIES t2_tse", "ZPHIPROT"
    found.StudyID, found.StationName, found.Manufacturer = "ZPHI1", "ZPHISTATION", "ZPHIMAKER"
    found.StudyInstanceUID, found.SeriesInstanceUID = uid("study", study), uid("series", study, series)
    found.FrameOfReferenceUID, found.SeriesNumber, found.AcquisitionNumber = uid("frame", study), series, 1
    found.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
    found.ScanningSequence, found.SequenceVariant, found.ScanOptions = "SE", "SK", ""
    found.EchoTime, found.RepetitionTime, found.EchoTrainLength = 120, 6000, 16
    found.PatientPosition, found.SliceThickness, found.MRAcquisitionType = "HFS", 1.2, "2D"
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 16, 15, 1
    found.BurnedInAnnotation, found.BodyPartExamined, found.PositionReferenceIndicator = "NO", "BRAIN", ""
    block = found.private_block(0x0029, "ZPHI PRIVATE", create=True)
    block.add_new(0x10, "LO", "ZPHIPRIVATE")
    return found


def directions(image) -> tuple[np.ndarray, list[float], list[float]]:
    """The affine in LPS, ImageOrientationPatient and PixelSpacing."""
    lps = RAS_TO_LPS @ image.affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    cosines = lps[:3, :2] / sizes[:2]
    return lps, [round(float(x), 10) for x in cosines.T.ravel()], [float(sizes[1]), float(sizes[0])]


def slices_of(image, **words) -> list[Dataset]:
    """Classic MR: one dataset for each slice, with their instance numbers in another order than their positions."""
    shared = header(**words)
    data = np.asanyarray(image.dataobj)
    lps, cosines, spacing = directions(image)
    found = []
    for number in range(data.shape[2]):
        one = copy.deepcopy(shared)
        one.SOPInstanceUID = uid("instance", one.SeriesInstanceUID, number)
        one.InstanceNumber = (7 * number) % data.shape[2] + 1 if data.shape[2] % 7 else number + 1
        position = lps @ [0, 0, number, 1]
        one.ImagePositionPatient = [f"{x:.8g}" for x in position[:3]]
        one.ImageOrientationPatient = [f"{x:.10g}" for x in cosines]
        one.PixelSpacing = [f"{x:.8g}" for x in spacing]
        one.Columns, one.Rows = data.shape[:2]
        one.PixelData = np.ascontiguousarray(data[:, :, number].T).astype("<i2").tobytes()
        found.append(one)
    return found


def group(**values) -> Sequence:
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return Sequence([found])


def enhanced(image, order=None, **words) -> Dataset:
    """Enhanced MR: one dataset, its frames in any order."""
    found = header(**words)
    for keyword in ("EchoTime", "RepetitionTime", "ScanningSequence", "SequenceVariant", "SliceThickness"):
        delattr(found, keyword)
    data = np.asanyarray(image.dataobj)
    order = list(range(data.shape[2])) if order is None else order
    lps, cosines, spacing = directions(image)
    found.SOPClassUID, found.SOPInstanceUID = EnhancedMRImageStorage, uid("enhanced", found.SeriesInstanceUID)
    found.InstanceNumber, found.NumberOfFrames = 1, len(order)
    found.ImageType = ["ORIGINAL", "PRIMARY", "BRAIN", "NONE"]
    found.EchoPulseSequence, found.EchoPlanarPulseSequence = "SPIN", "NO"
    found.ContentDate = found.ContentTime = ""
    shared = Dataset()
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=cosines)
    shared.PixelMeasuresSequence = group(PixelSpacing=spacing, SliceThickness=1.2)
    shared.PixelValueTransformationSequence = group(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")
    shared.MREchoSequence = group(EffectiveEchoTime=120.0)
    shared.MRTimingAndRelatedParametersSequence = group(RepetitionTime=6000.0, EchoTrainLength=16)
    frame_type = {"FrameType": ["ORIGINAL", "PRIMARY", "BRAIN", "NONE"], "ComplexImageComponent": "MAGNITUDE"}
    shared.MRImageFrameTypeSequence = group(**frame_type, PixelPresentation="MONOCHROME", AcquisitionContrast="T2")
    found.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for number in order:
        frame = Dataset()
        position = (lps @ [0, 0, number, 1])[:3]
        frame.PlanePositionSequence = group(ImagePositionPatient=[round(float(x), 8) for x in position])
        frame.FrameContentSequence = group(StackID="1", InStackPositionNumber=number + 1, DimensionIndexValues=[1])
        frames.append(frame)
    found.PerFrameFunctionalGroupsSequence = Sequence(frames)
    found.Columns, found.Rows = data.shape[:2]
    found.PixelData = b"".join(np.ascontiguousarray(data[:, :, n].T).astype("<i2").tobytes() for n in order)
    return found


def parts(image, orders, **words) -> list[Dataset]:
    """A concatenation: Enhanced MR in several files. Each frame states its orientation and pixel spacing."""
    found = []
    for number, order in enumerate(orders, start=1):
        one = enhanced(image, order, **words)
        one.SOPInstanceUIDOfConcatenationSource = one.SOPInstanceUID
        one.ConcatenationUID, one.SOPInstanceUID = uid("whole", one.SOPInstanceUID), uid(number, one.SOPInstanceUID)
        one.InConcatenationNumber, one.InConcatenationTotalNumber = number, len(orders)
        one.ConcatenationFrameOffsetNumber = sum(map(len, orders[: number - 1]))
        shared = one.SharedFunctionalGroupsSequence[0]
        for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
            for frame in one.PerFrameFunctionalGroupsSequence:
                setattr(frame, keyword, copy.deepcopy(shared[keyword].value))
            delattr(shared, keyword)
        found.append(one)
    return found


def legacy(image, **words) -> Dataset:
    """Legacy Converted Enhanced MR, made by highdicom."""
    from highdicom.legacy import LegacyConvertedEnhancedMRImage

    old = slices_of(image, **words)
    for number, one in enumerate(old):
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.ContentDate, one.ContentTime = "20260210", "101112"
        one.AcquisitionDate, one.AcquisitionTime, one.InstanceNumber = "20260210", "101112", number + 1
    return LegacyConvertedEnhancedMRImage(
        old,
        series_instance_uid=uid("legacy", old[0].SeriesInstanceUID),
        series_number=5,
        sop_instance_uid=uid("legacy instance", old[0].SeriesInstanceUID),
        instance_number=1,
    )


def save(datasets, folder: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write datasets under names that hold private text, in a transfer syntax that needs no compression."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(datasets):
        one = copy.deepcopy(one)
        one.file_meta.TransferSyntaxUID = syntax
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        if syntax.endswith(".1.2.2"):
            one.PixelData = np.frombuffer(one.PixelData, "<i2").astype(">i2").tobytes()
        name = f"ZPHIFILE-{one.SOPInstanceUID[-12:]}-{number:03}.dcm"
        implicit, little = syntax == "1.2.840.10008.1.2", not syntax.endswith(".1.2.2")
        one.save_as(folder / name, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return folder


def compressed(folder: Path, kind: str) -> Path:
    """Compress the files of a folder: `rle`, `jpeg57`, `jpeg70`, `jpegls` or `j2k`."""
    import gdcm

    kinds = {
        "rle": gdcm.TransferSyntax.RLELossless,
        "jpeg57": gdcm.TransferSyntax.JPEGLosslessProcess14,
        "jpeg70": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        "jpegls": gdcm.TransferSyntax.JPEGLSLossless,
        "j2k": gdcm.TransferSyntax.JPEG2000Lossless,
    }
    for path in sorted(folder.iterdir()):
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(kinds[kind]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    return folder


def edit(folder: Path, change, which=None) -> Path:
    """Apply `change(dataset, number)` to files of a folder, in the order of their names."""
    for number, path in enumerate(sorted(folder.iterdir())):
        if which is None or number in which:
            one = dcmread(path)
            change(one, number)
            one.save_as(path)
    return folder


def years_before(date: str, days: int) -> str:
    then = datetime.datetime.strptime(date, "%Y%m%d") - datetime.timedelta(days)
    return then.strftime("%Y%m%d")

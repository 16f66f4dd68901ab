"""A synthetic DICOM study, for demonstrations and measurements. It is of no patient."""

from pathlib import Path
from typing import Any


def write_study(image: Any, folder: Path, patient: str = "synthetic") -> int:
    """Write a scan as axial slices of classic MR, and return their number.

    Args:
        image: path of a NIfTI, or a nibabel image.
        folder: to create.
        patient: its PatientID.
    """
    import nibabel
    import numpy as np
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    image = nibabel.load(image) if isinstance(image, str) else image
    to_lps = nibabel.orientations.axcodes2ornt("LPS")
    image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), to_lps))
    data = image.get_fdata(dtype=np.float32)
    data = np.round(data * (4095 / data.max())).astype(np.int16)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    folder.mkdir(parents=True)
    for number in range(data.shape[2]):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID = MRImageStorage, generate_uid()
        one.Modality, one.ImageType, one.InstanceNumber = "MR", ["ORIGINAL", "PRIMARY", "M"], number + 1
        one.PatientID, one.PatientName, one.PatientSex = patient, "Synthetic^Phantom", "O"
        one.PatientBirthDate, one.StudyDate, one.StudyTime = "20260101", "20260110", "120000"
        one.StudyDescription, one.StudyID, one.AccessionNumber = "Synthetic phantom", "1", ""
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID, one.SeriesNumber = study, series, frame, 1
        one.ReferringPhysicianName = one.PositionReferenceIndicator = one.ScanOptions = ""
        one.Manufacturer, one.BodyPartExamined, one.PatientPosition = "synthetic", "BRAIN", "HFS"
        one.MRAcquisitionType, one.SequenceVariant, one.EchoTrainLength = "2D", "SK", 16
        one.SliceThickness = f"{sizes[2]:.6g}"
        one.ScanningSequence, one.EchoTime, one.RepetitionTime = "SE", 156, 12000
        one.ImagePositionPatient = [f"{x:.8g}" for x in (lps @ [0, 0, number, 1])[:3]]
        one.ImageOrientationPatient = [f"{x:.8g}" for x in (lps[:3, :2] / sizes[:2]).T.ravel()]
        one.PixelSpacing = [f"{sizes[1]:.8g}", f"{sizes[0]:.8g}"]
        one.Columns, one.Rows = data.shape[:2]
        one.SamplesPerPixel, one.PhotometricInterpretation, one.PixelRepresentation = 1, "MONOCHROME2", 0
        one.BitsAllocated, one.BitsStored, one.HighBit = 16, 12, 11
        one.PixelData = np.ascontiguousarray(data[:, :, number].T).astype("<u2").tobytes()
        one.save_as(folder / f"{number:04}.dcm", enforce_file_format=True)
    return data.shape[2]

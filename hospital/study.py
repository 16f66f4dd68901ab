"""One screened study: its series, the answer of the model, and where the model looked, slice by slice."""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel
import numpy as np

from dicomfiles import Series, read
from preprocessing import Volume
from screening.model import ScreeningModel
from screening.one_scan import prepare_scan, screen_scan

from .software import make_uid

MAX_DS = 16  # letters of a decimal string
MAY_BE_EMPTY = """
    PatientName PatientID PatientBirthDate PatientSex StudyID StudyDate StudyTime AccessionNumber ReferringPhysicianName
""".split()  # but not missing, in what is written (type 2 of the standard)
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class ScreenedStudy(NamedTuple):
    """What the documents of a study are made of.

    Attributes:
        answer: of `screen_scan`.
        sources: the headers of the files that hold the series, in the order of its slices.
        plane: of the slices.
        voxels: `(slices, rows, columns)`, in the order of the slices along their normal.
        heat: where the model looked, of the same shape, 0 to 1; None for a model without maps.
        affine: `(4, 4)`, from (slice, row, column) to LPS millimetres.
        frames: of each slice, an index of `sources` and its frame there, from 0.
    """

    answer: dict[str, Any]
    sources: list[Any]
    plane: str
    voxels: np.ndarray
    heat: np.ndarray | None
    affine: np.ndarray
    frames: tuple[tuple[int, int], ...]


def screen_study(
    model: ScreeningModel, processor: Any, source: Any, series: int | str | None = None, found: Series | None = None
) -> ScreenedStudy:
    """Screen the T2w series of a DICOM delivery.

    Args:
        model, processor: from `load_model`. Maps need a model that was not prepared for speed.
        source, series: see `dicomfiles.read`.
        found: what `dicomfiles.read` returned for them, if it was called before.

    Raises:
        ValueError: the delivery does not give one T2w volume, or the model cannot use it. The message is one sentence
            that names the delivery as `source` does, and nothing inside it.
    """
    found = read(source, series) if found is None else found
    answer = screen_scan(model, processor, found.image, name="the study")
    map_ = None
    if model.networks:
        from explanation.gradcam import explain, scan_image

        volume, pixel_values = prepare_scan(processor, found.image, name="the study")
        heat = explain(model.networks, pixel_values.to(model.device))[0].cpu()
        map_ = np.asarray(scan_image(heat, volume).dataobj, np.float32).transpose(2, 1, 0)
    slices, affine = on_slices(found.image)
    sources = headers(found.sources)
    for header in sources:  # what highdicom asks for, and scanners may leave out
        if not header.get("SliceThickness"):
            header.SliceThickness = f"{np.linalg.norm(affine[:3, 0]):.6g}"
        if not header.get("FrameOfReferenceUID"):
            header.FrameOfReferenceUID = make_uid("frame", header.SeriesInstanceUID)
    return ScreenedStudy(
        answer,
        sources,
        found.plane,
        slices,
        map_,
        affine,
        found.frames,
    )


def on_slices(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """The voxels of a DICOM series as `(slices, rows, columns)`, and their affine to LPS millimetres."""
    codes = nibabel.orientations.axcodes2ornt
    stored = nibabel.orientations.ornt_transform(codes(("R", "A", "S")), codes(tuple(volume.stored_orientation)))
    image = nibabel.Nifti1Image(volume.data, volume.affine).as_reoriented(stored)
    affine = RAS_TO_LPS @ image.affine
    return np.asarray(image.dataobj).transpose(2, 1, 0), affine[:, [2, 1, 0, 3]]


def headers(files: Sequence[Any]) -> list[Any]:
    """The headers of files, without pixels, with decimal strings as short as the standard asks for."""
    from pydicom import dcmread

    found = []
    for file in files:
        header = dcmread(io.BytesIO(file.read()), stop_before_pixels=True)
        shorten(header)
        use_known_characters(header)
        share_geometry(header)
        for keyword in MAY_BE_EMPTY:
            if keyword not in header or not copies(keyword, header.get(keyword)):
                setattr(header, keyword, "")
        found.append(header)
    return found


def share_geometry(header: Any) -> None:
    """State orientation and pixel spacing once for all frames, as highdicom asks for.

    Scanners may repeat them in each frame. Those of a series that was read are the same in all frames.
    """
    from pydicom import Dataset

    if not is_multi_frame(header):
        return
    if not header.get("SharedFunctionalGroupsSequence"):
        header.SharedFunctionalGroupsSequence = [Dataset()]
    shared, first = header.SharedFunctionalGroupsSequence[0], header.PerFrameFunctionalGroupsSequence[0]
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if keyword not in shared and keyword in first:
            setattr(shared, keyword, first[keyword].value)


def use_known_characters(header: Any) -> None:
    """Turn names into UTF-8 if their characters have code extensions, as in Japan, or are not declared or unknown."""
    from highdicom import SpecificCharacterSetValues
    from pydicom.multival import MultiValue

    found = header.get("SpecificCharacterSet")
    known = {value.value for value in SpecificCharacterSetValues}
    if not found and all(str(header.get(keyword, "")).isascii() for keyword in MAY_BE_EMPTY):
        return
    if found and not isinstance(found, MultiValue) and found in known:
        return
    header.decode()
    header.SpecificCharacterSet = "ISO_IR 192"


def copies(keyword: str, value: Any) -> bool:
    """Whether a value of a patient or study can be copied: old or careless software writes 10:11:12 or FEMALE."""
    text = str(value or "")
    if keyword.endswith("Date"):
        return re.fullmatch(r"(\d{8})?", text) is not None
    if keyword.endswith("Time"):
        return re.fullmatch(r"(\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?)?", text) is not None
    return keyword != "PatientSex" or text in ("", "M", "F", "O")


def shorten(dataset: Any) -> None:
    """Round every decimal string of more than 16 letters: a copy of it would break the standard."""
    from pydicom.multival import MultiValue

    def change(_dataset: Any, element: Any) -> None:
        if element.VR != "DS" or element.value in (None, ""):
            return
        several = isinstance(element.value, MultiValue)
        values = list(element.value) if several else [element.value]
        if any(len(str(value)) > MAX_DS for value in values):
            rounded = [f"{float(value):.9g}" for value in values]
            element.value = rounded if several else rounded[0]

    dataset.walk(change)


def slice_source(study: ScreenedStudy, index: int) -> tuple[Any, int | None]:
    """The header of the file that holds a slice, and the number of its frame, from 1; None for classic MR."""
    file, frame = study.frames[index]
    header = study.sources[file]
    return header, frame + 1 if is_multi_frame(header) else None


def is_multi_frame(header: Any) -> bool:
    """Whether a file is of a kind with several frames: Enhanced or Legacy Converted MR."""
    return "PerFrameFunctionalGroupsSequence" in header

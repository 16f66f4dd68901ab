"""A few slices as colour pictures, for viewers that show neither reports nor maps: Secondary Captures."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from screening.modalities import missing_and_doubts
from screening.one_scan import intensity_window

from .report import description, spoke_locally
from .software import MAKER, NAME, Software
from .study import ScreenedStudy, slice_source

COUNT = 9  # pictures of a study
EDGE = 640  # pixels, the longer edge of the slice
BAND, MARGIN, LINE = 78, 8, 22  # pixels, above and below the slice
OPACITY = 0.5  # of the map where it is 1
HEAD = 0.2  # slices with less head than this share of the largest cross-section are not shown
SIDES = ("L", "R"), ("P", "A"), ("H", "F")  # towards positive and negative x, y, z of LPS
NOTICE = "For research use only. Not a medical device, not for any decision about a patient."


def make_pictures(study: ScreenedStudy, software: Software, uids: dict[str, str], number: int) -> Iterator[Any]:
    """
    Args:
        study: from `screen_study`.
        software: which model answered.
        uids: `picture series`, `picture 1`, `picture 2` ...
        number: of the new series.

    Yields:
        Datasets in RGB, one for each chosen slice, with the notice, the probability and the sides in their pixels.
    """
    import highdicom as hd
    from pydicom.dataset import Dataset

    window = intensity_window(study.voxels.astype(np.float32))
    columns, rows = study.affine[:3, 2], study.affine[:3, 1]  # towards the next column, the next row
    for place, index in enumerate(choose_slices(study.voxels, study.heat), start=1):
        header, frame = slice_source(study, index)
        picture = hd.sc.SCImage.from_ref_dataset(
            header,
            draw(study, index, window, software),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            series_instance_uid=uids["picture series"],
            series_number=number,
            sop_instance_uid=uids[f"picture {place}"],
            instance_number=place,
            manufacturer=MAKER,
            manufacturer_model_name=NAME,
            software_versions=software.version,
            device_serial_number=software.digest,
            patient_orientation=(side(columns), side(rows)),
            series_description=description("pictures", software),
            transfer_syntax_uid="1.2.840.10008.1.2.1",
        )
        picture.BurnedInAnnotation = "YES"
        picture.BodyPartExamined = "BRAIN"  # which has no side, so no Laterality is asked for
        picture.ImageType = ["DERIVED", "SECONDARY"]
        picture.ImageComments = NOTICE
        source = Dataset()
        source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        if frame is not None:
            source.ReferencedFrameNumber = frame
        picture.SourceImageSequence = [source]
        picture.DerivationDescription = "A slice with the map of where the model looked, and text"
        yield picture


def choose_slices(voxels: np.ndarray, heat: np.ndarray | None) -> list[int]:
    """At most `COUNT` slices, evenly over the head, and the one with the maximum of the map in place of its neighbour.

    Args:
        voxels: `(slices, rows, columns)`.
        heat: of the same shape, or None.
    """
    low, high = intensity_window(voxels.astype(np.float32))
    area = (voxels > low + 0.15 * (high - low)).mean(axis=(1, 2))
    inside = np.flatnonzero(area >= HEAD * area.max())
    steps = np.linspace(inside[0], inside[-1], min(COUNT, len(inside)) * 2 + 1)[1::2]  # the middles of equal parts
    chosen = sorted({int(round(step)) for step in steps})
    if heat is not None and heat.any():
        peak = int(heat.max(axis=(1, 2)).argmax())
        nearest = min(chosen, key=lambda index: abs(index - peak))
        chosen[chosen.index(nearest)] = peak
    return sorted(set(chosen))


def draw(study: ScreenedStudy, index: int, window: list[float], software: Software) -> np.ndarray:
    """One picture, `(rows, columns, 3)` uint8: the slice as the source stores it, the map, text above and below."""
    low, high = window
    grey = np.clip((study.voxels[index].astype(np.float32) - low) / (high - low), 0, 1)
    colours = np.repeat(grey[..., None], 3, axis=-1)
    if study.heat is not None:
        import matplotlib

        heat = np.clip(study.heat[index], 0, 1)
        opacity = OPACITY * heat[..., None]
        colours = (1 - opacity) * colours + opacity * matplotlib.colormaps["inferno"](heat)[..., :3]
    height, width = picture_size(study)
    image = Image.fromarray(np.round(255 * colours).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (max(width, EDGE), height + 2 * BAND))
    left = (canvas.width - width) // 2
    canvas.paste(image, (left, BAND))
    pen = ImageDraw.Draw(canvas)
    label_sides(pen, study, (left, BAND, left + width, BAND + height))
    answer = study.answer
    doubt = f"{software.doubt_in_short}: the number says nothing about any patient." if software.doubt else ""
    warned = len(missing_and_doubts(answer)[1])
    write_lines(
        pen, MARGIN, [(NOTICE, "yellow"), (doubt, "red"), (
            f"Probability of injury {answer['p_injury']:.3f}, threshold {answer['threshold']:.3f}"
            f"{'' if answer['calibrated'] else ', not calibrated'}", "white")],
    )  # fmt: skip
    write_lines(
        pen, BAND + height + MARGIN, [
            (f"{NAME} {software.version}, slice {index + 1} of {len(study.voxels)}, {study.plane}", "white"),
            ((("Colour: global stream, not an outline of a lesion. Local stream: see the report."
               if spoke_locally(answer) else "Colour: where the model looked, not an outline of a lesion.")
              if study.heat is not None else "This kind of model gives no map."), "white"),
            (f"{warned} warning(s), see the report: do not rely on this." if warned else "", "red")],
    )  # fmt: skip
    return np.asarray(canvas)


def picture_size(study: ScreenedStudy) -> tuple[int, int]:
    """Rows and columns of an enlarged slice with square pixels; the longer edge has `EDGE`."""
    lengths = np.linalg.norm(study.affine[:3, 1:3], axis=0) * study.voxels.shape[1:]
    rows, columns = np.maximum(1, np.round(EDGE * lengths / lengths.max())).astype(int)
    return int(rows), int(columns)


def label_sides(pen: ImageDraw.ImageDraw, study: ScreenedStudy, box: tuple[int, int, int, int]) -> None:
    """Write the patient's sides at the four edges of the slice."""
    left, top, right, bottom = box
    columns, rows = study.affine[:3, 2], study.affine[:3, 1]
    across, down = (left + right) // 2, (top + bottom) // 2
    for x, y, anchor, towards in (
        (right - MARGIN, down, "rm", columns),
        (left + MARGIN, down, "lm", -columns),
        (across, bottom - MARGIN, "mb", rows),
        (across, top + MARGIN, "mt", -rows),
    ):
        pen.text((x, y), side(towards), fill="cyan", font=font(28), anchor=anchor, stroke_width=2, stroke_fill="black")


def side(direction: np.ndarray) -> str:
    """The side of the patient that a direction in LPS mostly points to."""
    axis = int(np.abs(direction).argmax())
    return SIDES[axis][0 if direction[axis] > 0 else 1]


def write_lines(pen: ImageDraw.ImageDraw, top: int, lines: list[tuple[str, str]]) -> None:
    for text, colour in lines:
        if text:
            pen.text((MARGIN, top), text, fill=colour, font=font(16))
            top += LINE


def font(size: int) -> Any:
    return ImageFont.load_default(size)

"""A visitor's uploads become scans. MGH and DICOM are written as NIfTI too, because the browser draws nothing else."""

import logging
import os
import re
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import nibabel

from dicomfiles.delivery import is_delivery, is_dicom
from preprocessing import Volume, read_volume
from preprocessing.reading_gloresnet import open_image
from screening.modalities import placed
from screening.model import ScreeningModel
from screening.one_scan import open_scan, screen_scan

from .turns import LineIsFull
from .workspace import Workspace

NIFTI, MGH, DICOM = (".nii", ".gz"), (".mgh", ".mgz"), (".dcm", ".ima", ".zip")  # endings of files
STUDY = "DICOM study"  # what loose DICOM files are called; their own names may be those of patients
SERIES = "Series"  # the label of the field where a visitor chooses one
IN_FIELD = f"in the field {SERIES}, and upload the study again"
log = logging.getLogger(__name__)


class UploadError(Exception):
    """Uploads that are not taken. The message is one sentence."""


def endings(needs_mask: bool) -> list[str]:
    """Of the files that the page takes. A mask belongs to the voxel grid of one file, so then there is no DICOM."""
    return [*NIFTI, *MGH] if needs_mask else [*NIFTI, *MGH, *DICOM]


def check_endings(uploads: list[dict], needs_mask: bool) -> None:
    """
    Raises:
        UploadError: a file is of no kind that the page takes.
    """
    for path in (upload["path"] for upload in uploads):
        if not (path.lower().endswith((*endings(needs_mask), *DICOM)) or is_dicom(path)):
            name = Path(path).name
            raise UploadError(f"{name} is none of {', '.join(endings(needs_mask))}. Convert it to NIfTI.")


def take_scans(uploads: list[dict], needs_mask: bool, visitor: str, workspace: Workspace) -> list[str]:
    """Move uploads into the visitor's folders.

    Returns:
        A path per scan: a file, or the folder of all loose DICOM files, which are one study.

    Raises:
        UploadError: a file is gone, or DICOM is sent to a model that needs a mask.
    """
    scans, study = [], None
    if needs_mask and any(is_delivery(upload["path"]) for upload in uploads):
        raise UploadError("This model needs a brain mask, so it takes no DICOM. Convert it, and give both as NIfTI.")
    for number, upload in enumerate(uploads):
        path = upload["path"]
        if not (is_dicom(path) or path.lower().endswith((".dcm", ".ima"))):
            scans.append(take(upload, visitor, workspace))
            continue
        if study is None:
            study = workspace.folder(visitor) / STUDY
            study.mkdir(mode=0o700)
            scans.append(str(study))
        try:
            os.replace(path, study / f"{number:04}.dcm")
        except FileNotFoundError:
            sentence = "A DICOM file was used already, or has been deleted. Upload the study again."
            raise UploadError(sentence) from None
    return scans


def take(upload: dict, visitor: str, workspace: Workspace) -> str:
    """Move one upload into a folder of the visitor. Returns its new path. Raises UploadError."""
    try:
        return str(workspace.take(upload["path"], visitor))
    except FileNotFoundError:
        sentence = f"{Path(upload['path']).name} was used already, or has been deleted. Upload it again."
        raise UploadError(sentence) from None


def asks_for_series(entry: dict) -> bool:
    """Whether a scan of an entry (see `entries.py`) was refused because its visitor must choose a series."""
    return IN_FIELD in entry["problem"]


def open_upload(scan: str, series: str | None = None) -> str | Volume:
    """The path of a NIfTI file. The volume of anything else, with its warnings.

    Args:
        scan: from `take_scans`.
        series: number or UID of the series of a DICOM study; other scans have none.

    Raises:
        ValueError: it does not give one volume. The message is a sentence without a folder name.
    """
    try:
        if is_delivery(scan):
            return open_scan(scan, series)
        return scan if isinstance(open_image(scan), (nibabel.Nifti1Image, nibabel.Nifti2Image)) else read_volume(scan)
    except ValueError as error:
        sentence = str(error).replace(scan, Path(scan).name)
        raise ValueError(sentence.replace("(--series)", IN_FIELD)) from error


def place_further(further: dict[str, list], scan: str) -> dict[str, Any]:
    """The further images of a scan in its world space, see `placed`.

    Args:
        further: from `FurtherFields.take`.
        scan: path of the T2w scan.

    Raises:
        ValueError: one cannot be placed. The message is a sentence without a folder name.
    """
    try:
        if is_delivery(scan) and any(matrix for _, matrix in further.values()):
            raise ValueError("A transform belongs to a T2w scan in NIfTI. Convert the DICOM study, and upload that.")
        return {name: placed(image, matrix, scan) for name, (image, matrix) in further.items()}
    except ValueError as error:
        sentence = str(error)
        for path in (scan, *(path for paths in further.values() for path in paths if path)):
            sentence = sentence.replace(path, Path(path).name)
        raise ValueError(sentence) from error


def write_drawn(volume: Volume, scan: str) -> str:
    """Write the voxels and positions of a volume, and nothing else of its file, as NIfTI next to a scan.

    Returns:
        The path of the new file.
    """
    path = Path(scan)
    drawn = path.with_name(re.sub(r"\.(zip|mgh|mgz)$", "", path.name, flags=re.IGNORECASE) + ".nii.gz")
    nibabel.save(nibabel.Nifti1Image(volume.data, volume.affine), drawn)
    return str(drawn)


def delete_delivery(scan: str) -> None:
    """Delete a folder or zip of DICOM files. They name the patient, and nothing needs them once they are read."""
    if os.path.isdir(scan):
        shutil.rmtree(scan, ignore_errors=True)
    elif is_delivery(scan):
        Path(scan).unlink(missing_ok=True)


def screen_upload(
    model: ScreeningModel,
    processor,
    scan: str,
    mask: str | None,
    turn: AbstractContextManager[None],
    drawn: bool,
    series: str | None = None,
    further: dict[str, list] | None = None,
) -> dict:
    """Screen one scan. An error becomes the entry's problem, so that the other scans are still screened.

    Args:
        model, processor: see `screen_scan`.
        scan: from `take_scans`. A delivery of DICOM files is deleted.
        mask: path of its brain mask.
        turn: lasts while the scan is read.
        drawn: whether the browser will draw it.
        series: see `open_upload`.
        further: its further images, from `FurtherFields.take`.

    Returns:
        An entry, see `entries.py`.
    """
    entry = {"scan": Path(scan).name, "path": scan, "mask": mask, "answer": None, "problem": ""}
    entry |= {"further": further or {}, "uploaded": scan}
    try:
        with turn:
            opened = open_upload(scan, series)
            others = place_further(entry["further"], scan)
            answer = screen_scan(model, processor, opened, mask, entry["scan"], others=others)
            if drawn and not isinstance(opened, str):
                entry["path"] = write_drawn(opened, scan)
            entry["answer"] = answer
    except (ValueError, LineIsFull) as error:
        entry["problem"] = str(error)
    except (MemoryError, RuntimeError, OSError) as error:
        if not Path(scan).exists():  # the visitor has left
            raise
        log.exception("a scan could not be screened")
        reason = type(error).__name__
        entry["problem"] = f"The server could not screen this scan ({reason}). Try again later or use a smaller scan."
    finally:
        delete_delivery(scan)
    return entry

"""The documents of DICOM studies on disk, without a server: `predict.py --report`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dicomfiles import is_delivery
from preprocessing import VolumeError
from run_folder.files import InputError, WriteError
from screening.model import ScreeningModel

from .documents import REPORT, write_documents
from .packages import quiet, require
from .software import describe_software
from .study import screen_study

OURS = ("report.dcm", "map.dcm", "picture-*.dcm")


def report_folders(scans: Iterable[str], folder: Path) -> dict[str, Path]:
    """Where the documents of each DICOM study go: the folder itself for one study, else a folder in it for each.

    Raises:
        InputError: there is no DICOM study, a package is missing, or a folder holds other files.
    """
    require("pydicom", "highdicom")
    studies = [scan for scan in scans if is_delivery(scan)]
    if not studies:
        raise InputError("--report is for DICOM studies, and none was given: leave it out, or give the DICOM files")
    found: dict[str, Path] = {studies[0]: folder}
    if len(studies) > 1:
        taken: dict[str, str] = {}
        for study in studies:
            stem = Path(study).resolve().name.removesuffix(".zip") or "study"
            names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(studies) + 1))
            taken[next(name for name in names if name not in taken)] = study
        found = {study: folder / name for name, study in taken.items()}
    for place in found.values():
        if place.is_dir() and any(not any(path.match(name) for name in OURS) for path in place.iterdir()):
            raise InputError(f"--report {place} holds other files, which would be lost: give a new or empty folder")
        if place.exists() and not place.is_dir():
            raise InputError(f"--report {place} is a file: give a new or empty folder")
    return found


def write_reports(
    folders: dict[str, Path], model: ScreeningModel, processor: Any, name: str, series: str | None
) -> dict[str, str]:
    """Write the documents of studies.

    Args:
        folders: from `report_folders`.
        model, processor: from `load_model`, not prepared for speed.
        name: what the model was loaded from.
        series: see `dicomfiles.read`.

    Returns:
        Why a study has no documents; none of these sentences holds what is in a header.

    Raises:
        WriteError: the disk is full.
    """
    problems = {}
    software = describe_software(model, name)
    for scan, folder in folders.items():
        try:
            with quiet():
                write_documents(screen_study(model, processor, scan, series), software, folder)
        except WriteError:
            raise
        except VolumeError as error:
            problems[scan] = str(error) if scan in str(error) else f"{scan}: {error}"
        except Exception as error:
            # of any library; only its type is free of what the header says
            kind = type(error).__name__
            problems[scan] = f"{scan}: no {REPORT} could be made ({kind}): does its header break the standard?"
    return problems

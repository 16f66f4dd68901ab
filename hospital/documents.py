"""All files of one screened study: a report, a map and pictures."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from run_folder.files import replacing_folder, writing

from .parametric_map import make_map
from .pictures import COUNT, make_pictures
from .report import make_report
from .software import Software, make_uid
from .study import ScreenedStudy, shorten

FIRST_NUMBER = 9000  # of our series, above those of scanners
REPORT = "report.dcm"  # its name in the folder


def write_documents(study: ScreenedStudy, software: Software, folder: Path, previous: Sequence[Any] = ()) -> list[Path]:
    """Write the files of a study to a folder, which appears when it is complete and on the disk.

    The same study, model and version give the same UIDs.

    Args:
        study: from `screen_study`.
        software: which model answered.
        folder: to write; an existing one is replaced.
        previous: see `make_report`.

    Returns:
        The files, the report first.

    Raises:
        WriteError: the disk is full.
    """
    uids = document_uids(study.sources, software)
    names = []
    with replacing_folder(folder) as partial:
        for name, dataset in documents(study, software, uids, previous):
            shorten(dataset)
            with writing(folder / name), open(partial / name, "wb") as file:
                dataset.save_as(file, enforce_file_format=True)
                file.flush()
                os.fsync(file.fileno())
            names.append(name)
        sync_folder(partial)
    sync_folder(folder.parent)
    return [folder / name for name in names]


def documents(study: ScreenedStudy, software: Software, uids: dict[str, str], previous: Sequence[Any]):
    """Yield the name and the dataset of each file, one at a time."""
    yield REPORT, make_report(study, software, uids, FIRST_NUMBER, previous)
    if study.heat is not None:
        yield "map.dcm", make_map(study, software, uids, FIRST_NUMBER + 1)
    for place, picture in enumerate(make_pictures(study, software, uids, FIRST_NUMBER + 2), start=1):
        yield f"picture-{place}.dcm", picture


def document_uids(sources: Sequence[Any], software: Software) -> dict[str, str]:
    """The UIDs of all documents, from those of the sources and the model.

    Archives keep the first object of a UID and drop later ones without an error. So other slices, another model or
    another version must have other UIDs.
    """
    first = sources[0]
    words = first.StudyInstanceUID, first.SeriesInstanceUID, hash_uids(sources), software.digest, software.version
    kinds = ["report series", "report", "map series", "map", "picture series"]
    kinds += [f"picture {place}" for place in range(1, COUNT + 1)]
    return {what: make_uid(*words, what) for what in kinds}


def hash_uids(sources: Sequence[Any]) -> str:
    """Of the SOPInstanceUIDs, in any order."""
    uids = sorted(str(source.SOPInstanceUID) for source in sources)
    return hashlib.sha256("\n".join(uids).encode()).hexdigest()


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

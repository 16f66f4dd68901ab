"""From the received files of a study to its T2w series, and to what the queue calls it."""

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

from dicomfiles import Series, read
from dicomfiles.choice import find_series, is_derived, slices
from dicomfiles.contrast import judge
from dicomfiles.delivery import Opened, list_files
from dicomfiles.packages import quiet
from dicomfiles.stacking import plane_of
from dicomfiles.thresholds import MIN_SLICES

from .queue import Key
from .spool import Delivery, tag
from .study import headers

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
CUT_OFF = "The transfer of the study was cut off: slices may be missing."
PART = (
    "the T2-weighted series was reported before with slices that are not here now: send the whole series again, so that"
    " one report can replace the other."
)


def read_series(delivery: Delivery, plane: str | None) -> Series:
    """Read the T2w series of a study.

    Args:
        delivery: its files.
        plane: which series to use if several fit.

    Raises:
        VolumeError: there is not one T2w series, or it cannot be used.
    """
    paths = [str(path) for path in delivery.files.values()]
    return read(paths, series_in_plane(paths, plane) if plane else None)


def series_in_plane(paths: list[str], plane: str) -> str | None:
    """The SeriesInstanceUID of the only T2w series in a plane; None if there is none, or several.

    As without a plane, series that are too short do not count, and derived ones only if there is no original one.

    Raises:
        VolumeError: the files cannot be used.
    """
    where = f"the delivery of {len(paths)} file(s)"
    with Opened() as opened, quiet():
        series = find_series(list_files(paths, opened, where), opened, where)
        fitting = {
            uid: found for uid, found in series.items() if judge(found).t2w == "yes" and slices(found) >= MIN_SLICES
        }
    in_plane = [uid for uid, found in fitting.items() if plane_of(found[0].frames[0].orientation) == plane]
    chosen = [uid for uid in in_plane if not is_derived(fitting[uid])] or in_plane
    return chosen[0] if len(fitting) > 1 and len(chosen) == 1 else None


def tags_of(series: Series) -> list[str]:
    """The tags of the instances of a series: the names of their files in the spool."""
    return sorted(Path(file.path).stem for file in series.sources)


def key_for(delivery: Delivery, series: Series | None, model: str) -> Key:
    """What a report, or without a series the refusal of a study, is called in the queue."""
    tags = sorted(delivery.files) if series is None else tags_of(series)
    name = "" if series is None else tag(headers(series.sources[:1])[0].SeriesInstanceUID)
    return Key(delivery.study, name, hashlib.sha256("\n".join(tags).encode()).hexdigest()[:16], model)


def predecessor(row: sqlite3.Row, series: Series) -> Any:
    """The UIDs of an earlier report, as highdicom takes them."""
    from pydicom import Dataset

    found = Dataset()
    found.SOPClassUID, found.SOPInstanceUID = COMPREHENSIVE_3D_SR, row["report"]
    found.StudyInstanceUID = headers(series.sources[:1])[0].StudyInstanceUID
    found.SeriesInstanceUID = row["report_series"]
    return found

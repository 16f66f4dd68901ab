"""Which folders below a folder are deliveries of their own: one per study."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .delivery import File, Opened, common_folder, is_dicom
from .errors import SeriesError
from .headers import Headers
from .packages import quiet, require


class Study(NamedTuple):
    """A folder that holds one study, or the sentence why a folder cannot be told apart into studies."""

    folder: Path
    problem: str = ""


def find_studies(folder: Path, paths: Iterable[Path]) -> list[Study]:
    """The study folders below a folder, sorted.

    One file of each folder that holds DICOM files tells its study. A DICOMDIR has none. A study's folder is the deepest
    one above all of them; it is the given folder itself if that holds one study, or if the packages for DICOM are not
    installed.

    Args:
        folder: in which to look.
        paths: the files below it.
    """
    files: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(paths):
        files[path.parent].append(path)
    if not any(is_dicom(path) for several in files.values() for path in several):
        return []
    studies: dict[str, list[Path]] = defaultdict(list)
    try:
        require(str(folder), "pydicom")
    except SeriesError:
        return [Study(folder)]  # reading it says what is missing
    with Opened() as opened, quiet():
        headers = Headers(opened)
        for parent, several in files.items():
            study = _study(headers, several)
            if study is not None:
                studies[study].append(parent)
    unknown = studies.pop("", [])
    if len(studies) <= 1:
        return [Study(folder)]
    found = [common_folder(parents) for parents in studies.values()]
    found += [parent for parent in unknown if not any(_within(parent, upper) for upper in found)]
    for upper in found:
        if sum(_within(other, upper) for other in found) > 1:
            problem = f"{folder} holds {len(studies)} DICOM studies with mixed files: give each its own folder."
            return [Study(folder, problem)]
    return [Study(path) for path in sorted(_highest(path, folder, found) for path in found)]


def _study(headers: Headers, paths: Iterable[Path]) -> str | None:
    """The study of the first DICOM file that names one; empty if none does, None if there is nothing but DICOMDIRs."""
    found = None
    for path in filter(is_dicom, paths):
        try:
            header = headers.read(File(str(path), path.stat().st_size))
        except Exception:  # reading the delivery says why
            header = None
        if header and header.study:
            return header.study
        if header is None or not header.directory:
            found = ""
    return found


def _within(path: Path, upper: Path) -> bool:
    return path == upper or upper in path.parents


def _highest(path: Path, folder: Path, found: list[Path]) -> Path:
    """The highest folder around a study, inside the given one, that holds no other study."""
    for upper in path.parents:
        if upper == folder or not _within(upper, folder) or sum(_within(other, upper) for other in found) > 1:
            return path
        path = upper
    return path

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

    One file of each folder that holds DICOM files tells its study. A study's folder is the deepest one above all of
    them; it is the given folder itself if that holds one study, or if the packages for DICOM are not installed.

    Args:
        folder: in which to look.
        paths: the files below it.
    """
    samples: dict[Path, Path] = {}
    for path in sorted(paths):
        if path.parent not in samples and is_dicom(path):
            samples[path.parent] = path
    if not samples:
        return []
    studies: dict[str, list[Path]] = defaultdict(list)
    try:
        require(str(folder), "pydicom")
    except SeriesError:
        return [Study(folder)]  # reading it says what is missing
    with Opened() as opened, quiet():
        headers = Headers(opened)
        for parent, sample in samples.items():
            try:
                header = headers.read(File(str(sample), sample.stat().st_size))
            except Exception:  # reading the delivery says why
                header = None
            studies[header.study if header else ""].append(parent)
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


def _within(path: Path, upper: Path) -> bool:
    return path == upper or upper in path.parents


def _highest(path: Path, folder: Path, found: list[Path]) -> Path:
    """The highest folder around a study, inside the given one, that holds no other study."""
    for upper in path.parents:
        if upper == folder or not _within(upper, folder) or sum(_within(other, upper) for other in found) > 1:
            return path
        path = upper
    return path

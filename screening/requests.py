"""Which scans were asked for: files, folders, BIDS trees, DICOM and glob patterns become a list of requests."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from cohort.images import CohortError, mask_names, mask_of, session_images
from dicomfiles import find_studies, is_delivery
from machine.programs import one_line

from .errors import NoScansError

EXTENSIONS = (".nii", ".nii.gz", ".mgz", ".mgh")  # in upper or lower case
LISTED = 3  # problems named if there is no scan


class Request(NamedTuple):
    """One row of the future table.

    Attributes:
        scan: the path of a scan, of a DICOM study (a folder or a zip), or of the folder where no scan could be chosen.
        problem: why no scan could be chosen; empty for a scan.
    """

    scan: str
    problem: str = ""


def find_requests(sources: Iterable[str], *, acquisition: str | None = None, run: str | None = None) -> list[Request]:
    """The scans that the sources name, in their order, each scan once.

    Args:
        sources: scans, folders, BIDS trees, DICOM studies and glob patterns; see `expand`.
        acquisition, run: which T2w image to use in a BIDS session that has several; see `session_images`.

    Raises:
        NoScansError: there is no scan among them.
    """
    requests: dict[str, Request] = {}
    for source in sources:
        found = expand(source, acquisition, run)
        for request in found or [Request(source, problem=f"{source} holds no scans: check the path.")]:
            requests.setdefault(os.path.abspath(request.scan), request)
    problems = [request.problem for request in requests.values()]
    if all(problems):
        more = f" and {len(problems) - LISTED} more like these." if len(problems) > LISTED else ""
        problem = " ".join(problems[:LISTED]) + more
        raise NoScansError(f"no scans found: {problem} Give {', '.join(EXTENSIONS)} files, DICOM, or their folder")
    return list(requests.values())


def expand(source: str, acquisition: str | None = None, run: str | None = None) -> list[Request]:
    """The requests of one source, sorted by path.

    A file is one scan. A BIDS tree, or a subject, session or `anat` folder of one, gives one request per session: its
    T2w image, its DICOM studies, or the reason why there is none. Any other folder gives all the scans below it, and
    one request per DICOM study. A pattern gives those of every match.
    """
    if glob.has_magic(source) and not os.path.lexists(source):
        matches = sorted(glob.glob(source, recursive=True))
        return [request for match in matches for request in expand(match, acquisition, run)]
    if not os.path.isdir(source):
        return [Request(source)]  # also a file that does not exist: its row will say so
    folder = Path(source)
    sessions = bids_sessions(folder)
    if sessions or (folder / "dataset_description.json").is_file():
        return [request for session in sessions for request in of_session(session, acquisition, run)]
    files = sorted(files_below(folder))
    found = [(path, Request(str(path))) for path in files if is_scan(path.name)]
    for path, problem in find_studies(folder, [path for path in files if not is_scan(path.name)]):
        found.append((path, Request(source if path == folder else str(path), problem)))
    return [request for _, request in sorted(found)]


def of_session(session: Path, acquisition: str | None = None, run: str | None = None) -> list[Request]:
    """The request of a BIDS session. One without `anat`, as in `sourcedata`, may hold DICOM studies instead."""
    if session.resolve().name != "anat" and not (session / "anat").is_dir():
        if studies := find_studies(session, files_below(session)):
            return [Request(str(path), problem) for path, problem in studies]
    return [choose_image(session, acquisition, run)]


def bids_sessions(folder: Path) -> list[Path]:
    """The session folders of a BIDS tree or of a part of it, and the subject folders of a tree without sessions.

    An `anat` folder has the session above it. Empty if the folder is not part of a BIDS tree.
    """
    if folder.resolve().name == "anat":
        return [folder]
    subjects = [folder] if any(folder.glob("ses-*/")) or (folder / "anat").is_dir() else []
    found = []
    for subject in [*subjects, *sorted(folder.glob("sub-*/"))]:
        sessions = sorted(subject.glob("ses-*/"))
        found += [subject] if (subject / "anat").is_dir() or not sessions else []
        found += sessions
    return found


def choose_image(session: Path, acquisition: str | None = None, run: str | None = None) -> Request:
    """The T2w image of a BIDS session, the bias-corrected one if it exists, or why there is none.

    Args:
        session: a session folder, a subject folder without sessions, or their `anat` folder.
        acquisition, run: see `find_requests`.
    """
    anat = session if session.resolve().name == "anat" else session / "anat"
    if not anat.is_dir():
        advice = (
            "" if any(session.iterdir()) else " It is empty: if it is a DataLad dataset, run `datalad get -n` on it."
        )
        return Request(str(session), f"{session} has no T2-weighted image: it has no folder anat.{advice}")
    try:
        found = session_images(anat, acquisition=acquisition, run=run)
    except CohortError as error:
        return Request(str(anat), one_line(error))
    return Request(str(anat), found.problem) if found.image is None else Request(str(anat / Path(found.image).name))


def files_below(folder: Path) -> Iterator[Path]:
    """The files below a folder, also in folders that are links. A folder that several links lead to is read once."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(parent, name) for name in names)


def is_scan(name: str) -> bool:
    """Whether a file name is that of a scan. macOS leaves hidden shadow files named `._scan.nii.gz`."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def find_mask(scan: str) -> str:
    """The brain mask next to a scan in a BIDS `anat` folder.

    Raises:
        CohortError: there is none, or there are several.
    """
    if is_delivery(scan):
        raise CohortError(f"{scan} is DICOM, and this model needs a brain mask: convert it, and give both as NIfTI.")
    mask = mask_of(scan)
    if mask is None:
        raise CohortError(
            f"{scan} has no brain mask next to it, and this model needs one: add {mask_names()} to its anat folder."
        )
    return mask

"""Which scans were asked for: files, folders, BIDS trees and glob patterns become a list of requests."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cohort.images import CohortError, mask_names, mask_of, session_images
from machine.programs import one_line

from .errors import NoScansError

EXTENSIONS = (".nii", ".nii.gz", ".mgz", ".mgh")


class Request(NamedTuple):
    """One row of the future table.

    Attributes:
        scan: the path of a scan, or of the folder where no scan could be chosen.
        problem: why no scan could be chosen; empty for a scan.
    """

    scan: str
    problem: str = ""


def find_requests(sources: Iterable[str]) -> list[Request]:
    """The scans that the sources name, in their order, each scan once.

    Args:
        sources: scans, folders, BIDS trees and glob patterns; see `expand`.

    Raises:
        NoScansError: there is no scan among them.
    """
    requests: dict[str, Request] = {}
    for source in sources:
        for request in expand(source) or [Request(source, problem=f"{source} holds no scans: check the path.")]:
            requests.setdefault(os.path.abspath(request.scan), request)
    if all(request.problem for request in requests.values()):
        problems = " ".join(request.problem for request in requests.values())
        raise NoScansError(f"no scans found: {problems} Give {', '.join(EXTENSIONS)} files, or their folder")
    return list(requests.values())


def expand(source: str) -> list[Request]:
    """The requests of one source, sorted by path.

    A file is one scan. A BIDS tree, or a subject, session or `anat` folder of one, gives one T2w image per session.
    Any other folder gives all the scans below it. A pattern gives those of every match.
    """
    if glob.has_magic(source) and not os.path.lexists(source):
        return [request for match in sorted(glob.glob(source, recursive=True)) for request in expand(match)]
    if not os.path.isdir(source):
        return [Request(source)]  # also a file that does not exist: its row will say so
    folder = Path(source)
    if (folder / "dataset_description.json").is_file() or any(folder.glob("sub-*/")) or any(folder.glob("ses-*/")):
        patterns = ("ses-*/anat", "sub-*/anat", "sub-*/ses-*/anat")
        anats = sorted(anat for pattern in patterns for anat in folder.glob(pattern))
        return [request for anat in anats for request in choose_image(anat)]
    if (folder / "anat").is_dir() or folder.resolve().name == "anat":
        return choose_image(folder / "anat" if (folder / "anat").is_dir() else folder)
    files = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    return [Request(str(path)) for path in sorted(files) if path.name.endswith(EXTENSIONS) and path.name[0] != "."]


def choose_image(anat: Path) -> list[Request]:
    """The T2w image of a BIDS session, the bias-corrected one if it exists. Empty if there is no T2w image."""
    try:
        image = session_images(anat).image
    except CohortError as error:
        return [Request(str(anat), one_line(error))]
    return [Request(str(anat / Path(image).name))] if image else []


def find_mask(scan: str) -> str:
    """The brain mask next to a scan in a BIDS `anat` folder.

    Raises:
        CohortError: there is none, or there are several.
    """
    mask = mask_of(scan)
    if mask is None:
        raise CohortError(
            f"{scan} has no brain mask next to it, and this model needs one: add {mask_names()} to its anat folder."
        )
    return mask

"""The images of a BIDS tree: one T2-weighted volume per session, with its brain mask and tissue labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

EXTENSIONS = (".nii.gz", ".nii")

# (desc, space, suffix), best first. A name must match all three: desc-biasfield_T2w is not a plain T2w.
IMAGE_NAMES = (("restore", "", "T2w"), ("", "", "T2w"))
MASK_NAMES = (("brain", "", "mask"), ("bet", "T2w", "brainmask"), ("drawem", "T2w", "brainmask"))
SEGMENTATION_NAMES = (("drawem9", "", "dseg"), ("drawem9", "T2w", "dseg"))


class CohortError(ValueError):
    """A cohort that cannot be used. The message says what was found, where, and what to do."""


@dataclass(frozen=True)
class SessionImages:
    """The files of one `anat` folder. Ids have no `sub-` or `ses-` prefix, paths are absolute, None means no file."""

    participant_id: str
    session_id: str  # "" in a tree without sessions
    image: str | None
    mask: str | None
    segmentation: str | None  # DrawEM's nine tissues


def find_images(data_dir: str | os.PathLike[str]) -> list[SessionImages]:
    """List the sessions of a BIDS tree that have a T2-weighted image, labelled or not, sorted by id.

    Args:
        data_dir: a folder with `sub-X/ses-Y/anat/` or `sub-X/anat/`.

    Raises:
        CohortError: the folder is missing, has no `sub-` folder or no image, or a session has several images.
    """
    found = [session for session in list_sessions(data_dir) if session.image is not None]
    if not found:
        raise CohortError(
            f"No T2-weighted image in {data_dir}: looked in sub-*/ses-*/anat and sub-*/anat for {_wanted(IMAGE_NAMES)}."
        )
    return found


def list_sessions(data_dir: str | os.PathLike[str]) -> list[SessionImages]:
    """List every `anat` folder of a BIDS tree, with or without an image, sorted by id. Raises like `find_images`."""
    root = Path(os.path.abspath(Path(data_dir).expanduser()))
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise CohortError(f"{root} {what}: give the folder that holds the sub-* folders.")
    sessions = [
        session_images(anat)
        for subject in subject_folders(root)
        for anat in (subject / "anat", *(folder / "anat" for folder in _folders(subject, "ses-")))
        if anat.is_dir()
    ]
    return sorted(sessions, key=lambda session: (session.participant_id, session.session_id))


def subject_folders(root: Path) -> list[Path]:
    """The `sub-*` folders of a tree. Raises CohortError if there are none; the message names any found deeper down."""
    subjects = _folders(root, "sub-")
    if not subjects:
        below = sorted({path.parent for pattern in ("*/sub-*", "*/*/sub-*") for path in root.glob(pattern)})
        below = [folder for folder in below if not folder.name.startswith(("sub-", "ses-"))]
        hint = f"found some in {below[0]}, give that folder" if below else "give the folder that holds them"
        raise CohortError(f"{root} {'is empty' if not any(root.iterdir()) else 'has no sub-* folder'}: {hint}.")
    return subjects


def session_images(anat: str | os.PathLike[str]) -> SessionImages:
    """Find the image, brain mask and segmentation in one `anat` folder. No file is opened.

    The parent folders name the participant and session. The image is the bias-corrected `desc-restore_T2w`, or else
    the `T2w` without `desc` and `space`. Masks and segmentations have the names of dHCP releases 2 and 3.

    Raises:
        CohortError: several files match equally well, or an image is named after another subject or session.
    """
    anat = Path(os.path.abspath(anat))
    above = [folder.name for folder in (anat.parent, anat.parent.parent)]
    session = above.pop(0).removeprefix("ses-") if above[0].startswith("ses-") else ""
    participant = above[0].removeprefix("sub-")
    home = {"sub": participant, "ses": session}
    files = []
    for name in sorted(os.listdir(anat)):
        entities = parse_name(name)
        if entities is None:
            continue
        if all(entities.get(key, home[key]) == home[key] for key in home):
            files.append((name, entities))
        elif _identity(entities) in IMAGE_NAMES:
            raise CohortError(
                f"{anat / name} is named after another subject or session than its folder: rename the file, or move it."
            )
    scan = f"sub-{participant}" + (f" ses-{session}" if session else "")
    image, entities = _choose(files, IMAGE_NAMES, None, anat, f"{scan} has several T2-weighted images")
    mask, _ = _choose(files, MASK_NAMES, entities, anat, f"{scan} has several brain masks")
    segmentation, _ = _choose(files, SEGMENTATION_NAMES, entities, anat, f"{scan} has several segmentations")
    return SessionImages(participant, session, image, mask, segmentation)


def parse_name(name: str) -> dict[str, str] | None:
    """Split a BIDS file name into its entities; the last part is the `suffix`. Other file names give None.

    >>> parse_name("sub-01_desc-restore_T2w.nii.gz")
    {'sub': '01', 'desc': 'restore', 'suffix': 'T2w'}
    """
    extension = next((end for end in EXTENSIONS if name.endswith(end)), None)
    if extension is None or not name.startswith("sub-"):
        return None
    *pairs, suffix = name.removesuffix(extension).split("_")
    if "-" in suffix or not all("-" in pair for pair in pairs):
        return None
    return dict(pair.split("-", 1) for pair in pairs) | {"suffix": suffix}


def mask_names() -> str:
    """The file names that count as a brain mask, for messages."""
    return _wanted(MASK_NAMES)


def _choose(
    files: list[tuple[str, dict[str, str]]],
    names: tuple[tuple[str, str, str], ...],
    image: dict[str, str] | None,
    anat: Path,
    complaint: str,
) -> tuple[str | None, dict[str, str] | None]:
    """Choose the file with the best name. A mask or segmentation of another run or acquisition does not count."""
    for wanted in names:
        fitting = [(name, entities) for name, entities in files if _identity(entities) == wanted]
        if image is not None:
            fitting = [(name, entities) for name, entities in fitting if _details(entities) <= _details(image)]
            # a mask for this run is better than one that names no run
            closest = max((len(_details(entities)) for _, entities in fitting), default=0)
            fitting = [(name, entities) for name, entities in fitting if len(_details(entities)) == closest]
        if len(fitting) > 1:
            listed = ", ".join(name for name, _ in fitting)
            raise CohortError(f"{complaint}: {listed} in {anat}; keep only one of them.")
        if fitting:
            return str(anat / fitting[0][0]), fitting[0][1]
    return None, None


def _identity(entities: dict[str, str]) -> tuple[str, str, str]:
    return entities.get("desc", ""), entities.get("space", ""), entities["suffix"]


def _details(entities: dict[str, str]) -> set[tuple[str, str]]:
    """The entities that distinguish images of one session, such as run and acquisition."""
    return {pair for pair in entities.items() if pair[0] not in ("sub", "ses", "desc", "space", "suffix")}


def _folders(parent: Path, prefix: str) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.name.startswith(prefix) and path.is_dir())


def _wanted(names: tuple[tuple[str, str, str], ...]) -> str:
    forms = [
        "*_" + "".join(f"{key}-{value}_" for key, value in (("desc", desc), ("space", space)) if value) + suffix
        for desc, space, suffix in names
    ]
    return f"{', '.join(forms[:-1])} or {forms[-1]} (.nii.gz or .nii)"

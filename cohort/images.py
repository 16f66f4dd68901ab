"""The images of a BIDS tree: one T2-weighted volume per session, with its brain mask and tissue labels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from preprocessing.headers_gloresnet import missing_content

EXTENSIONS = (".nii.gz", ".nii")

# (desc, space, suffix), best first. A name must match all three: desc-biasfield_T2w is not a plain T2w.
IMAGE_NAMES = (("restore", "", "T2w"), ("", "", "T2w"), ("preproc", "", "T2w"))
MASK_NAMES = (("brain", "", "mask"), ("bet", "T2w", "brainmask"), ("drawem", "T2w", "brainmask"))
SEGMENTATION_NAMES = (("drawem9", "", "dseg"), ("drawem9", "T2w", "dseg"))
SUFFIXES = {names[2].lower(): names[2] for names in (*IMAGE_NAMES, *MASK_NAMES, *SEGMENTATION_NAMES)}
FLAGS = {"acq": "acquisition", "run": "run"}  # entity -> flag of train.py and predict.py
HOW_TO_CHOOSE = "choose one with --acquisition or --run, or keep only one of them."


class CohortError(ValueError):
    """A cohort that cannot be used. The message says what was found, where, and what to do."""


@dataclass(frozen=True)
class SessionImages:
    """The files of one session. Ids have no `sub-` or `ses-` prefix, paths are absolute, None means no file."""

    participant_id: str
    session_id: str  # "" in a tree without sessions
    image: str | None
    mask: str | None
    segmentation: str | None  # DrawEM's nine tissues
    anat: str | None = None  # the folder that was searched; None if the session has none
    status: str = ""  # why there is no image: no image or several images; "" if there is one
    problem: str = ""  # the same as a sentence
    mask_problem: str = ""  # a sentence if there is no mask because several match


def list_sessions(
    data_dir: str | os.PathLike[str], *, acquisition: str | None = None, run: str | None = None
) -> list[SessionImages]:
    """List every session of a BIDS tree, sorted by id. Without a usable T2-weighted image, `problem` says why.

    Args:
        data_dir: a folder with `sub-X/ses-Y/anat/` or `sub-X/anat/`.
        acquisition, run: which image to use in a session that has several; see `session_images`.

    Raises:
        CohortError: the folder is missing or has no `sub-` folder, or an image is named after another session.
    """
    root = Path(os.path.abspath(Path(data_dir).expanduser()))
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise CohortError(f"{root} {what}: give the folder that holds the sub-* folders.")
    sessions = []
    for subject in subject_folders(root):
        of_subject = _folders(subject, "ses-")
        for folder in (subject, *of_subject):
            if (folder / "anat").is_dir():
                sessions.append(_search(folder / "anat", acquisition, run))
            elif folder != subject or not of_subject:
                sessions.append(_without_anat(folder))
    return sorted(sessions, key=lambda session: (session.participant_id, session.session_id))


def no_image_at_all(sessions: list[SessionImages], data_dir: str | os.PathLike[str]) -> str:
    """The message for a tree in which no session has an image that can be used."""
    ambiguous = [session for session in sessions if session.status == "several images"]
    if ambiguous:
        return f"No session of {data_dir} has a T2-weighted image that can be used. {ambiguous[0].problem}"
    looked = f"looked in sub-*/ses-*/anat and sub-*/anat for {_wanted(IMAGE_NAMES)}."
    first = next((session.problem for session in sessions if session.anat), "")
    return f"No T2-weighted image in {data_dir}: {looked}" + (f" {first}" if first else "")


def subject_folders(root: Path) -> list[Path]:
    """The `sub-*` folders of a tree. Raises CohortError if there are none; the message names any found deeper down."""
    subjects = _folders(root, "sub-")
    if not subjects:
        below = sorted({path.parent for pattern in ("*/sub-*", "*/*/sub-*") for path in root.glob(pattern)})
        below = [folder for folder in below if not folder.name.startswith(("sub-", "ses-"))]
        hint = f"found some in {below[0]}, give that folder" if below else "give the folder that holds them"
        raise CohortError(f"{root} {'is empty' if not any(root.iterdir()) else 'has no sub-* folder'}: {hint}.")
    return subjects


def session_images(
    anat: str | os.PathLike[str], *, acquisition: str | None = None, run: str | None = None
) -> SessionImages:
    """Find the image, brain mask and segmentation in one `anat` folder. No file is opened.

    The parent folders name the participant and session. The image is the bias-corrected `desc-restore_T2w`, or else
    the `T2w` without `desc` and `space`, or else the `desc-preproc_T2w`. Masks and segmentations have the names of dHCP
    releases 2 and 3. Extensions and suffixes may be in upper case.

    Args:
        anat: the folder.
        acquisition: the `acq` entity to use if several images match equally well, with or without `acq-`. An image
            with another `acq` is never used then; one without `acq` is used if no other matches.
        run: the same for the entity `run`; `1` and `01` are equal.

    Returns:
        The files. Without an image, `problem` says what was found instead.

    Raises:
        CohortError: several images match equally well, or an image is named after another subject or session.
    """
    found = _search(Path(os.path.abspath(anat)), acquisition, run)
    if found.status == "several images":
        raise CohortError(found.problem)
    return found


def mask_of(image: str | os.PathLike[str]) -> str | None:
    """The brain mask of an image in its BIDS `anat` folder, None if there is none.

    In a session with several images, it is the mask of this image's run and acquisition.

    Raises:
        CohortError: several masks match equally well.
    """
    image = Path(os.path.abspath(image))
    entities = parse_name(image.name)
    if image.parent.name != "anat" or entities is None:
        return None
    files = [(file, of_file) for file in sorted(os.listdir(image.parent)) if (of_file := parse_name(file))]
    mask, masks = _choose(files, MASK_NAMES, entities)
    if len(masks) > 1:
        raise CohortError(f"{image} has several brain masks: {', '.join(masks)}; keep only one of them.")
    return str(image.parent / mask) if mask else None


def not_fetched(path: str | os.PathLike[str]) -> str:
    """A sentence if a file is a broken link, or a pointer of git-annex or git LFS instead of its content; else ""."""
    path = Path(path)
    if command := missing_content(str(path)):
        return f"{path} has not been fetched: run `{command}` in its folder."
    if path.is_symlink() and not path.exists():
        return f"{path} is a broken link to {os.readlink(path)}: restore that file, or remove the link."
    return ""


def parse_name(name: str) -> dict[str, str] | None:
    """Split a BIDS file name into its entities; the last part is the `suffix`. Other file names give None.

    Extension and suffix may be in upper or lower case; the suffix is returned as BIDS spells it.

    >>> parse_name("sub-01_desc-restore_T2w.nii.gz")
    {'sub': '01', 'desc': 'restore', 'suffix': 'T2w'}
    >>> parse_name("sub-01_T2W.NII.GZ")
    {'sub': '01', 'suffix': 'T2w'}
    """
    extension = next((end for end in EXTENSIONS if name.lower().endswith(end)), None)
    if extension is None or not name.startswith("sub-"):
        return None
    *pairs, suffix = name[: -len(extension)].split("_")
    if "-" in suffix or not all("-" in pair for pair in pairs):
        return None
    return dict(pair.split("-", 1) for pair in pairs) | {"suffix": SUFFIXES.get(suffix.lower(), suffix)}


def scan_name(participant_id: str, session_id: str) -> str:
    """A scan's name in messages, such as `sub-01 ses-2`."""
    return f"sub-{participant_id}" + (f" ses-{session_id}" if session_id else "")


def scan_names(keys: Iterable[tuple[str, str]]) -> str:
    """The names of the first three scans, by participant and session, and how many others there are."""
    scans = sorted(keys)
    return ", ".join(scan_name(*key) for key in scans[:3]) + (f" and {len(scans) - 3} others" if len(scans) > 3 else "")


def mask_names() -> str:
    """The file names that count as a brain mask, for messages."""
    return _wanted(MASK_NAMES)


def _without_anat(folder: Path) -> SessionImages:
    """Report a subject or session folder that has no `anat` folder."""
    participant, session = _ids(folder)
    advice = "" if any(folder.iterdir()) else " It is empty: if it is a DataLad dataset, run `datalad get -n` on it."
    problem = (
        f"{scan_name(participant, session)} has no T2-weighted image: there is no folder anat in {folder}.{advice}"
    )
    return SessionImages(participant, session, None, None, None, status="no image", problem=problem)


def _ids(folder: Path) -> tuple[str, str]:
    """Participant and session of a subject or session folder."""
    if folder.name.startswith("ses-"):
        return folder.parent.name.removeprefix("sub-"), folder.name.removeprefix("ses-")
    return folder.name.removeprefix("sub-"), ""


def _search(anat: Path, acquisition: str | None, run: str | None) -> SessionImages:
    """Search an `anat` folder; see `session_images`."""
    participant, session = _ids(anat.parent)
    scan = scan_name(participant, session)
    home = {"sub": participant, "ses": session}
    files = []
    for file in sorted(os.listdir(anat)):
        entities = parse_name(file)
        if entities is None:
            continue
        if all(entities.get(key, home[key]) == home[key] for key in home):
            files.append((file, entities))
        elif _identity(entities) in IMAGE_NAMES:
            raise CohortError(
                f"{anat / file} is named after another subject or session than its folder: rename the file, or move it."
            )
    image, status, problem = _choose_image(files, {"acq": acquisition, "run": run}, scan, anat)
    entities = dict(files)[image] if image else None
    mask, masks = _choose(files, MASK_NAMES, entities)
    segmentation, _ = _choose(files, SEGMENTATION_NAMES, entities)
    several = f"{scan} has several brain masks: {', '.join(masks)} in {anat}; keep only one of them."
    return SessionImages(
        participant,
        session,
        image=str(anat / image) if image else None,
        mask=str(anat / mask) if mask else None,
        segmentation=str(anat / segmentation) if segmentation else None,
        anat=str(anat),
        status=status,
        problem=problem,
        mask_problem=several if len(masks) > 1 else "",
    )


def _choose_image(
    files: list[tuple[str, dict[str, str]]], wanted: dict[str, str | None], scan: str, anat: Path
) -> tuple[str | None, str, str]:
    """Choose the image: its file name, or None with a status and a sentence that says why there is none."""
    images = [(name, entities) for name, entities in files if _identity(entities) in IMAGE_NAMES]
    for kind in IMAGE_NAMES:
        scores = {name: _matches(entities, wanted) for name, entities in images if _identity(entities) == kind}
        # an image with the entity asked for is better than one without it
        best = max(scores.values(), default=-1)
        names = [name for name, score in scores.items() if score == best >= 0]
        if len(names) == 1:
            return names[0], "", ""
        if names:
            several = f"{scan} has several T2-weighted images: {', '.join(names)} in {anat}; {HOW_TO_CHOOSE}"
            return None, "several images", several
    if images:
        options = " and ".join(f"--{flag} {wanted[key]}" for key, flag in FLAGS.items() if wanted[key])
        listed = ", ".join(name for name, _ in images)
        return None, "no image", f"{scan} has no T2-weighted image for {options}: found {listed} in {anat}."
    volumes = [name for name in sorted(os.listdir(anat)) if name.lower().endswith(EXTENSIONS) and name[0] != "."]
    listed = ", ".join(volumes[:3]) + (f" and {len(volumes) - 3} others" if len(volumes) > 3 else "")
    return None, "no image", f"{scan} has no T2-weighted image: found {listed or 'no NIfTI file'} in {anat}."


def _matches(entities: dict[str, str], wanted: dict[str, str | None]) -> int:
    """How many of the wanted entities an image has, -1 if it has one of them with another value."""
    score = 0
    for key, value in wanted.items():
        if not value or key not in entities:
            continue
        if _plain(entities[key]) != _plain(value.removeprefix(f"{key}-")):
            return -1
        score += 1
    return score


def _plain(value: str) -> str:
    """An entity's value for comparison: numbers without leading zeros."""
    return str(int(value)) if value.isdecimal() else value


def _choose(
    files: list[tuple[str, dict[str, str]]],
    names: tuple[tuple[str, str, str], ...],
    image: dict[str, str] | None,
) -> tuple[str | None, list[str]]:
    """Choose a mask or segmentation of the image's run and acquisition.

    Returns:
        The file, None if none or several match, and the files that match equally well.
    """
    for wanted in names:
        fitting = [
            (name, entities)
            for name, entities in files
            if _identity(entities) == wanted and (image is None or _details(entities) <= _details(image))
        ]
        # a mask for this run is better than one that names no run
        closest = max((len(_details(entities)) for _, entities in fitting), default=0)
        matches = [name for name, entities in fitting if len(_details(entities)) == closest]
        if matches:
            return (matches[0] if len(matches) == 1 else None), matches
    return None, []


def _identity(entities: dict[str, str]) -> tuple[str, str, str]:
    """(desc, space, suffix), as in `IMAGE_NAMES`."""
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

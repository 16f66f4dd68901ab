"""The images of a session besides T2w: T1w in T2w space, and the diffusion maps FA and MD, with their transforms.

dHCP release 3 keeps diffusion in another root than the anatomy, so a cohort has one or more roots. Names match by BIDS
entities. A session that lacks a modality is the normal case; an image that cannot be used is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from preprocessing.modalities_gloresnet import MODALITIES

from .images import CohortError, not_fetched, parse_name, scan_name, subject_folders
from .transforms import LARGEST_FILE

if TYPE_CHECKING:
    from .scans import Scan

# modality -> folder, and names (desc, space, model, suffix), best first
NAMES: dict[str, tuple[str, tuple[tuple[str, str, str, str], ...]]] = {
    # dHCP's notes also name the restored T1w image in T2w space without `space`
    "T1w": ("anat", (("restore", "T2w", "", "T1w"), ("", "T2w", "", "T1w"), ("restore", "", "", "T1w"))),
    "FA": ("dwi", (("", "T2w", "DTI", "FA"), ("", "", "DTI", "FA"))),
    "MD": ("dwi", (("", "T2w", "DTI", "MD"), ("", "", "DTI", "MD"))),
}
TRANSFORM = {"from": "dwi", "to": "T2w", "mode": "image"}
TRANSFORM_NAME = "xfm/*_from-dwi_to-T2w_mode-image.mat"


class Channel(NamedTuple):
    """One image of a session besides T2w. Paths are absolute."""

    modality: str
    image: str
    transform: str | None
    """FLIRT's matrix to the T2w scan; None if the image lies in its world"""


def with_channels(
    scans: list[Scan], folders: Iterable[str | os.PathLike[str]], modalities: Sequence[str]
) -> list[Scan]:
    """The same scans; those in use with their images of the modalities, searched in the folders.

    Raises:
        CohortError: see `find_channels` and `check_channels`; or a folder is not a BIDS folder.
    """
    roots = _checked_roots(folders)
    scans = [
        replace(s, channels=find_channels(s.participant_id, s.session_id, roots, modalities, s.image))
        if s.status == "used"
        else s
        for s in scans
    ]
    used = {scan_name(s.participant_id, s.session_id): s.channels for s in scans if s.status == "used"}
    check_channels(used, modalities, roots)
    return scans


def _checked_roots(roots: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The folders as absolute paths, each once."""
    found = list(dict.fromkeys(Path(os.path.realpath(Path(root).expanduser())) for root in roots))
    for root in found:
        if not root.is_dir():
            raise CohortError(f"{root} is not a folder: give a folder that holds sub-* folders.")
        subject_folders(root)
    return found


def find_channels(
    participant: str, session: str, roots: Sequence[Path], modalities: Sequence[str], image: str | None = None
) -> tuple[Channel, ...]:
    """The images of one session, in the order of `MODALITIES`, without those that it lacks.

    Args:
        participant, session: ids without `sub-` and `ses-`; the session may be "".
        roots: BIDS folders, searched in `sub-X/ses-Y/anat` and `dwi`, or `sub-X/anat` and `dwi`.
        modalities: which; T2w is left out.
        image: the T2w scan in use; a T1w image of another run or acquisition is not used.

    Raises:
        CohortError: several images match equally well, one is named after another session, has not been fetched, or
            lacks its transform.
    """
    scan = scan_name(participant, session)
    entities_of_t2w = (image and parse_name(Path(image).name)) or {}
    of_t2w = _details(entities_of_t2w) if image else None
    if image:
        _check_owner(Path(image), entities_of_t2w, participant, session)
    channels = []
    for modality in (name for name in NAMES if name in modalities):
        datatype, names = NAMES[modality]
        ranked: dict[int, list[Path]] = {}
        for root in roots:
            folder = _folder(root, participant, session)
            for file, entities in _files(folder / datatype, modality, participant, session):
                identity = tuple(entities.get(key, "") for key in ("desc", "space", "model", "suffix"))
                if identity in names and (datatype != "anat" or of_t2w is None or _details(entities) <= of_t2w):
                    ranked.setdefault(names.index(identity), []).append(file)
        if not ranked:
            continue
        best = ranked[min(ranked)]
        if len(best) > 1:
            raise CohortError(
                f"{scan} has several {modality} images: {' and '.join(map(str, best))}; keep only one of them."
            )
        in_t2w_world = datatype == "anat" or names[min(ranked)][1] == "T2w"
        transform = None if in_t2w_world else _transform(best[0], modality, participant, session)
        for path in filter(None, (str(best[0]), transform)):
            if problem := not_fetched(path):
                raise CohortError(problem)
        channels.append(Channel(modality, str(best[0]), transform))
    return tuple(channels)


def check_channels(found: Mapping[str, Sequence[Channel]], modalities: Sequence[str], roots: Sequence[Path]) -> None:
    """Check the images of all scans in use together.

    Args:
        found: name of a scan -> its images.
        modalities: those that were asked for.
        roots: where they were searched.

    Raises:
        CohortError: no scan has one of the modalities; or two scans have the same image, or the same transform, so that
            one of them belongs to another session.
    """
    for modality in modalities:
        if modality != "T2w" and not any(c.modality == modality for channels in found.values() for c in channels):
            datatype, names = NAMES[modality]
            forms = [
                "*_" + "".join(f"{k}-{v}_" for k, v in (("desc", d), ("space", s), ("model", m)) if v) + suffix
                for d, s, m, suffix in names
            ]
            listed = ", ".join(map(str, roots))
            raise CohortError(
                f"No scan in use has {modality}: looked for {datatype}/{' or '.join(forms)} (.nii.gz or .nii) in "
                f"{listed}. Name its root with --also, or leave {modality} out of --modalities."
            )
    owners: dict[tuple[str, str], tuple[str, str]] = {}
    for scan, channels in found.items():
        for path, what in {c.image: "image" for c in channels}.items():
            _refuse_second(owners, ("file", os.path.realpath(path)), scan, path, what)
        for path in {c.transform for c in channels if c.transform}:
            with open(path, encoding="ascii", errors="replace") as file:
                text = file.read(LARGEST_FILE)
            if not _is_identity(text):
                _refuse_second(owners, ("transform", " ".join(text.split())), scan, path, "transform")


def _refuse_second(
    owners: dict[tuple[str, str], tuple[str, str]], key: tuple[str, str], scan: str, path: str, what: str
) -> None:
    other, first = owners.setdefault(key, (scan, path))
    if other != scan:
        raise CohortError(
            f"{path} is the same {what} as {first}: {scan} and {other} cannot share it; restore the right one, or "
            "remove it with its images."
        )


def channel_counts(scans: Iterable[Sequence[Channel]]) -> dict[str, int]:
    """Modality -> how many of the scans have it; empty if none has any."""
    each = [{channel.modality for channel in channels} for channels in scans]
    counts = {modality: sum(modality in held for held in each) for modality in MODALITIES}
    return {modality: count for modality, count in counts.items() if count}


def further_files(channels: Sequence[Channel]) -> list[str]:
    """The paths of the images and, after each, of its matrix if it has one."""
    return [path for channel in channels for path in (channel.image, channel.transform) if path]


COLUMNS = tuple(f"{modality}{end}" for modality in NAMES for end in ("", "_transform"))  # of `cohort.csv`


def channel_cells(channels: Sequence[Channel]) -> dict[str, str]:
    """Cells of `COLUMNS`: the image of each modality, and its transform if it has one."""
    cells = {channel.modality: channel.image for channel in channels}
    return cells | {f"{channel.modality}_transform": channel.transform for channel in channels if channel.transform}


def channels_of_cells(row: Mapping[str, str]) -> tuple[Channel, ...]:
    """The inverse of `channel_cells`."""
    held = [modality for modality in MODALITIES if row.get(modality)]
    return tuple(Channel(modality, row[modality], row.get(f"{modality}_transform") or None) for modality in held)


def _folder(root: Path, participant: str, session: str) -> Path:
    return root / f"sub-{participant}" / f"ses-{session}" if session else root / f"sub-{participant}"


def _files(folder: Path, modality: str, participant: str, session: str) -> list[tuple[Path, dict[str, str]]]:
    """The images of a modality in a folder, and their entities. Raises CohortError: one is named after another scan."""
    if not folder.is_dir():
        return []
    found = []
    for file in sorted(os.listdir(folder)):
        entities = parse_name(file)
        if entities is None or entities["suffix"].lower() != modality.lower():
            continue
        _check_owner(folder / file, entities, participant, session)
        found.append((folder / file, entities | {"suffix": modality}))
    return found


def _transform(image: Path, modality: str, participant: str, session: str) -> str:
    """The matrix of an image, in the folder `xfm` next to its own. Raises CohortError: there is none, or several."""
    folder = image.parent.parent / "xfm"
    found = []
    for file in sorted(os.listdir(folder)) if folder.is_dir() else []:
        parts = file.removesuffix(".mat").split("_")
        if not file.endswith(".mat") or not all("-" in part for part in parts):
            continue
        entities = dict(part.split("-", 1) for part in parts)
        if all(entities.get(key) == value for key, value in TRANSFORM.items()):
            _check_owner(folder / file, entities, participant, session)
            found.append(folder / file)
    if len(found) != 1:
        how_many = f"has several: {', '.join(map(str, found))}" if found else "is missing"
        raise CohortError(
            f"The transform of {image} to the T2w scan {how_many}. Put one {TRANSFORM_NAME} into "
            f"{image.parent.parent}, or remove the {modality} image."
        )
    return str(found[0])


def _check_owner(path: Path, entities: Mapping[str, str], participant: str, session: str) -> None:
    home = {"sub": participant, "ses": session}
    if any(entities.get(key, home[key]) != home[key] for key in home):
        raise CohortError(f"{path} is named after another subject or session than its folder: rename it, or move it.")


def _details(entities: Mapping[str, str]) -> set[tuple[str, str]]:
    left_out = ("sub", "ses", "desc", "space", "model", "suffix")
    return {pair for pair in entities.items() if pair[0] not in left_out}


def _is_identity(text: str) -> bool:
    try:
        matrix = np.array([float(number) for number in text.split()])
    except ValueError:
        return False
    return matrix.size == 16 and bool(np.allclose(matrix.reshape(4, 4), np.eye(4), atol=1e-6))

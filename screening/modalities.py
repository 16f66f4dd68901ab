"""Which modalities a model takes, which of them a scan has, and where its further images are.

Importing this module does not import torch or nitransforms.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preprocessing.modalities_gloresnet import missing_modalities
from preprocessing.reading_gloresnet import VolumeError

if TYPE_CHECKING:
    from preprocessing import Volume


def modalities_of(settings: Any) -> list[str]:
    """What each channel shows, of a configuration or a processor. Both may be of a class from before there were any."""
    return list(getattr(settings, "modalities", ["T2w"]))


def presence_arrays(scans: list[np.ndarray | None]) -> dict[str, np.ndarray]:
    """The input `presence` (B, C) for a batch of scans; none for a model that takes T2w alone."""
    known = [presence for presence in scans if presence is not None]
    return {"presence": np.stack(known)} if known else {}


def used_and_missing(settings: Any, presence: np.ndarray | None) -> dict[str, list[str]]:
    """The entries of an answer that say which images it rests on, and which the model would take besides them."""
    taken = modalities_of(settings)
    there = [True] * len(taken) if presence is None else presence.tolist()
    return {
        "modalities": [name for name, present in zip(taken, there, strict=True) if present],
        "missing_modalities": [name for name, present in zip(taken, there, strict=True) if not present],
    }


def missing_and_doubts(answer: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The warnings of an answer in two parts.

    Args:
        answer: of `screen_scan`.

    Returns:
        The sentence about the modalities that the scan lacks, empty if there are none, which is no doubt about the
        scan; and the other warnings, which are.
    """
    used, absent = answer["modalities"], answer["missing_modalities"]
    missing = missing_modalities([*used, *absent], [True] * len(used) + [False] * len(absent))
    return missing, [sentence for sentence in answer["warnings"] if sentence != missing]


class FurtherImages:
    """Finds the images of a scan besides T2w: those that were named, and those of its BIDS session.

    Args:
        modalities: those that the model takes.
        named: modality -> path, for a single scan.
        transforms: modality -> path of FLIRT's matrix from that image to the T2w scan.
        roots: further BIDS folders, besides the one of the scan.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        named: Mapping[str, str] | None = None,
        transforms: Mapping[str, str] | None = None,
        roots: Sequence[str | os.PathLike[str]] = (),
    ):
        self.modalities = list(modalities)
        self.named, self.transforms = dict(named or {}), dict(transforms or {})
        self.roots = [Path(root) for root in roots]

    def __call__(self, scan: str) -> dict[str, Any]:
        """The images of a scan by modality, in its world space.

        Raises:
            CohortError, VolumeError: several images match, one is given twice, one cannot be read, or a transform
            cannot be right.
        """
        if len(self.modalities) == 1:
            return {}
        from cohort.modalities import find_channels

        wanted = [name for name in self.modalities if name not in self.named]
        home = _session(scan)
        found = {}
        if home is not None:
            root, participant, session = home
            roots = list(dict.fromkeys(Path(os.path.realpath(each)) for each in (root, *self.roots)))
            channels = find_channels(participant, session, roots, wanted, scan)
            found = {channel.modality: (channel.image, channel.transform) for channel in channels}
        found |= {name: (path, self.transforms.get(name)) for name, path in self.named.items()}
        owner = {os.path.realpath(scan): "T2w"}
        for name, (path, _) in found.items():
            if (other := owner.setdefault(os.path.realpath(path), name)) != name:
                raise VolumeError(f"{path} is given as {other} and as {name}: give each modality its own image.")
        return {name: placed(path, matrix, scan) for name, (path, matrix) in found.items()}


def placed(image: str, matrix: str | None, scan: str) -> str | Volume:
    """An image in the world space of its T2w scan: its path, or the volume that FLIRT's matrix moves there.

    Args:
        image, matrix, scan: paths; no matrix if the image lies there already.

    Raises:
        CohortError, VolumeError: see `cohort.transforms.in_t2w_space`.
    """
    if matrix is None:
        return image
    from cohort.transforms import in_t2w_space

    return in_t2w_space(image, matrix, scan)


def _session(scan: str) -> tuple[Path, str, str] | None:
    """The BIDS folder, participant and session of a scan in `sub-X/ses-Y/anat` or `sub-X/anat`; None for others."""
    folder = Path(os.path.abspath(scan)).parent
    if folder.name != "anat":
        return None
    folder, session = folder.parent, ""
    if folder.name.startswith("ses-"):
        folder, session = folder.parent, folder.name.removeprefix("ses-")
    return (folder.parent, folder.name.removeprefix("sub-"), session) if folder.name.startswith("sub-") else None

"""The files of a run's scans: their hashes are recorded in `splits.json`, and a changed or doubled file is noticed."""

from __future__ import annotations

from typing import Any

from .images import CohortError, scan_names
from .labels import name
from .modalities import further_files
from .scans import Scan


def scan_record(scan: Scan, file_hashes: dict[str, str] | None) -> dict[str, Any]:
    """The record of a scan in `splits.json`: its label and, if hashes are given, those of its files."""
    if file_hashes is None:
        return {"label": scan.label}
    record: dict[str, Any] = {"label": scan.label, "sha256": _hash(str(scan.image), file_hashes)}
    return record | ({"further_sha256": further} if (further := _further(scan, file_hashes)) else {})


def check_files(
    recorded: dict[tuple[str, str], dict[str, Any]],
    present: dict[tuple[str, str], Scan],
    file_hashes: dict[str, str],
    advice: str,
) -> None:
    """Check that no file is used twice, and that the files are those that were recorded.

    Args:
        recorded, present: record and scan by participant and session.
        file_hashes: image path -> SHA-256.
        advice: the end of the message.

    Raises:
        CohortError: they are not. The message names the scans.
    """
    owner: dict[str, tuple[str, str]] = {}
    changed = []
    for key, scan in present.items():
        sha256, further = _hash(str(scan.image), file_hashes), _further(scan, file_hashes)
        # even within one fold, a file used twice would count an infant twice; a further one is that of another infant
        for image in (str(scan.image), *(channel.image for channel in scan.channels)):
            if owner.setdefault(_hash(image, file_hashes), key) != key:
                other = owner[file_hashes[image]]
                raise CohortError(
                    f"{name(*other)} and {name(*key)} have the same image file ({image}): remove one of them."
                )
        if recorded[key].get("sha256", sha256) != sha256 or recorded[key].get("further_sha256", further) != further:
            changed.append(key)
    if changed:
        raise CohortError(f"Image files have changed since the cohort was split ({scan_names(changed)}): {advice}")


def _further(scan: Scan, file_hashes: dict[str, str]) -> list[str]:
    """The hashes of the images and transforms of the scan's further modalities."""
    return [_hash(path, file_hashes) for path in further_files(scan.channels)]


def _hash(path: str, file_hashes: dict[str, str]) -> str:
    if path not in file_hashes:
        raise CohortError(f"No file hash was given for {path}: give hashes for every scan in use, or for none.")
    return file_hashes[path]

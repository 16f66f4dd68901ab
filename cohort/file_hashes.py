"""The files of a run's scans: their hashes are recorded in `splits.json`, and a changed or doubled file is noticed."""

from __future__ import annotations

from typing import Any

from .images import CohortError, scan_names
from .labels import name
from .scans import Scan


def scan_record(scan: Scan, file_hashes: dict[str, str] | None) -> dict[str, Any]:
    """The record of a scan in `splits.json`: its label and, if hashes are given, that of its file."""
    return {"label": scan.label, **({"sha256": _hash(scan, file_hashes)} if file_hashes is not None else {})}


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
        sha256 = _hash(scan, file_hashes)
        # even within one fold, a file used twice would count an infant twice
        if owner.setdefault(sha256, key) != key:
            raise CohortError(
                f"{name(*owner[sha256])} and {name(*key)} have the same image file ({scan.image}): remove one of them."
            )
        if recorded[key].get("sha256", sha256) != sha256:
            changed.append(key)
    if changed:
        raise CohortError(f"Image files have changed since the cohort was split ({scan_names(changed)}): {advice}")


def _hash(scan: Scan, file_hashes: dict[str, str]) -> str:
    if scan.image not in file_hashes:
        raise CohortError(f"No file hash was given for {scan.image}: give hashes for every scan in use, or for none.")
    return file_hashes[scan.image]

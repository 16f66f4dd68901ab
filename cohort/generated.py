"""What the two generated cohorts, phantoms and painted scans, have in common: their description, lock and tables."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from run_folder.files import read_json

DESCRIPTION = "dataset_description.json"
# these mark a phantom or a painted cohort, and tell its truth
ROOT_FILES = (DESCRIPTION, "truth.tsv", "lesions.tsv")


def generated_by(folder: str | Path, generator: str) -> dict[str, Any] | None:
    """The settings and version with which a generator made a cohort, None if it did not make this folder."""
    try:
        content = read_json(Path(folder) / DESCRIPTION)
        for entry in content.get("GeneratedBy", []):
            if entry.get("Name") == generator:
                return dict(entry["Parameters"], version=entry["Version"])
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        pass
    return None


def is_complete(folder: Path) -> bool:
    """Whether the description of a generated cohort says that nothing is missing."""
    with contextlib.suppress(OSError, ValueError):
        return bool(read_json(folder / DESCRIPTION).get("Complete"))
    return False


def is_unused(folder: Path) -> bool:
    """Whether a folder is missing or empty. A process killed while it wrote its first file leaves a temporary file."""
    return not folder.exists() or all(path.name.endswith(".part") for path in folder.iterdir())


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders of a process that was killed."""
    for pattern in ("sub-*/.ses-*", "*/sub-*/.ses-*"):  # of the cohort, and of a second tree in its folder
        for left in folder.glob(pattern):
            shutil.rmtree(left)
    for pattern in (".*.part", "sub-*/.*.part"):
        for file in folder.glob(pattern):
            file.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time write the folder. The system releases the lock when the process ends."""
    try:
        import fcntl
    except ImportError:  # Windows: no lock; the user must not start two processes
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # file systems without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def tsv(rows: list[dict[str, Any]]) -> str:
    """A table with the columns of its first row."""
    buffer = io.StringIO()
    buffer.write("\t".join(rows[0]) + "\n")
    for row in rows:
        buffer.write("\t".join(str(value) for value in row.values()) + "\n")
    return buffer.getvalue()

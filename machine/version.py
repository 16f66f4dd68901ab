"""Which version of this project is running."""

import importlib.metadata
import subprocess
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def project_version(project: Path = PROJECT) -> dict[str, str | None]:
    """The version and the Git commit of this project.

    Args:
        project: the folder that holds the code, and `.git` if it is a checkout.

    Returns:
        `version`: of the installed distribution `gloresnet`, else from `pyproject.toml`, else None.
        `commit`: the commit of the checkout, with `-dirty` if tracked files were changed since; None outside a
        checkout or without Git.
    """
    return {"version": _version(project), "commit": _commit(project)}


def _version(project: Path) -> str | None:
    try:
        return importlib.metadata.version("gloresnet")
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
        return str(settings["project"]["version"])
    except (OSError, ValueError, KeyError):
        return None


def _commit(project: Path) -> str | None:
    if not (project / ".git").exists():  # otherwise Git would find a repository around this folder
        return None
    commit = _git(project, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(project, "status", "--porcelain", "--untracked-files=no")
    return commit + ("-dirty" if changed else "")


def _git(project: Path, *arguments: str) -> str | None:
    """What Git prints, or None if it is missing or fails."""
    try:
        # --no-optional-locks: reading must not write to the index, which another process may be using
        call = ["git", "--no-optional-locks", "-C", str(project), *arguments]
        result = subprocess.run(call, capture_output=True, text=True, timeout=30)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() if result.returncode == 0 else None

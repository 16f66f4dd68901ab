"""The version and commit that a run records."""

import subprocess

import pytest

from machine import version
from machine.version import project_version


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one committed file. The distribution `gloresnet` is not installed."""

    def missing(name):
        raise version.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(version.importlib.metadata, "version", missing)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "gloresnet"\nversion = "1.2.3"\n')
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "pyproject.toml")
    git(tmp_path, "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "first")
    return tmp_path


def git(folder, *arguments):
    result = subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True)
    return result.stdout.strip()


def test_commit_and_version_of_a_checkout(project):
    commit = git(project, "rev-parse", "HEAD")
    assert project_version(project) == {"version": "1.2.3", "commit": commit}
    (project / "untracked.txt").touch()
    assert project_version(project)["commit"] == commit
    with (project / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert project_version(project)["commit"] == f"{commit}-dirty"


def test_the_installed_distribution_names_the_version(project, monkeypatch):
    monkeypatch.setattr(version.importlib.metadata, "version", lambda name: {"gloresnet": "2.0.0"}[name])
    assert project_version(project)["version"] == "2.0.0"


def test_a_copy_without_git_has_no_commit(project, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert project_version(project) == {"version": "1.2.3", "commit": None}


def test_a_folder_inside_another_repository_is_not_a_checkout(project):
    (project / "copy").mkdir()
    assert project_version(project / "copy") == {"version": None, "commit": None}


def test_a_checkout_without_a_commit(tmp_path):
    git(tmp_path, "init", "-q")
    assert project_version(tmp_path)["commit"] is None

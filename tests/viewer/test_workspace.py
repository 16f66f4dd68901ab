"""The files of visitors: separate, in folders nobody can guess, and deleted in the end."""

import os
import tempfile
import time

import pytest
from filelock import FileLock

from viewer.workspace import FORGET_AFTER, PREFIX, Workspace


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    workspace = Workspace()
    yield workspace
    workspace.close()


def upload(workspace, name="scan.nii.gz"):
    folder = workspace.root / "hash"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"voxels")
    return str(folder / name)


def test_clearing_one_visitor_keeps_the_same_upload_of_another(workspace):
    path = upload(workspace)
    one, two = workspace.take(path, "one"), workspace.take(path, "two")
    workspace.clear("one")
    assert not one.exists() and two.read_bytes() == b"voxels" and two.name == "scan.nii.gz"
    workspace.clear("two")
    workspace.clear("two")
    assert not two.exists()


def test_two_scans_with_the_same_name_get_separate_folders(workspace):
    path = upload(workspace)
    assert workspace.take(path, "one") != workspace.take(path, "one")


def test_an_upload_is_copied_if_hard_links_are_unavailable(workspace, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert workspace.take(upload(workspace), "one").read_bytes() == b"voxels"


def test_clearing_a_visitor_removes_empty_files_left_by_gradio(workspace):
    (workspace.root / "tmpabc").touch()
    workspace.clear("nobody")
    assert not (workspace.root / "tmpabc").exists()


def test_a_visitor_without_activity_is_forgotten(workspace):
    path = workspace.take(upload(workspace), "silent")
    long_ago = time.time() - FORGET_AFTER - 1
    os.utime(path.parent.parent, (long_ago, long_ago))
    workspace.folder("another")
    assert not path.exists()


def test_closing_deletes_everything_and_a_new_page_deletes_what_a_killed_page_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = tmp_path / f"{PREFIX}killed"
    killed.mkdir()
    (killed / "scan.nii.gz").touch()
    (killed / ".lock").touch()
    running = tmp_path / f"{PREFIX}running"
    running.mkdir()
    with FileLock(running / ".lock"):
        workspace = Workspace()
        assert not killed.exists() and running.exists()
    workspace.take(upload(workspace), "one")
    workspace.close()
    assert not workspace.root.exists()

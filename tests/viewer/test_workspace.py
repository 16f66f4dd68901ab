"""The files of visitors: separate, in folders nobody can guess, and deleted in the end."""

import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from viewer import workspace as module
from viewer.workspace import FORGET_AFTER, PREFIX, Workspace


def upload(workspace, name="scan.nii.gz"):
    with workspace.receive_upload() as folder:
        (folder / name).write_bytes(b"voxels")
    return str(folder / name)


def long_absent(path):
    long_ago = time.time() - FORGET_AFTER - 1
    os.utime(path, (long_ago, long_ago))


def test_clearing_one_visitor_keeps_everything_of_others(workspace):
    one, two = workspace.take(upload(workspace), "one"), workspace.take(upload(workspace), "two")
    waiting = upload(workspace)
    with workspace.receive_upload() as arriving:
        (arriving / "tmpabc").touch()  # empty, because the first bytes are still on their way
        workspace.clear("one")
        workspace.sweep()
        assert (arriving / "tmpabc").exists()
    assert not one.exists() and two.read_bytes() == b"voxels" and two.name == "scan.nii.gz"
    assert workspace.holds_upload(waiting)
    workspace.clear("two")
    workspace.clear("two")
    assert not two.exists()


def test_two_scans_with_the_same_name_get_separate_folders(workspace):
    paths = {workspace.take(upload(workspace), "one") for _ in range(3)}
    assert len(paths) == 3 and all(path.read_bytes() == b"voxels" for path in paths)


def test_half_an_upload_does_not_stay(workspace):
    with pytest.raises(ConnectionError), workspace.receive_upload() as folder:
        (folder / "tmpabc").write_bytes(b"vox")
        raise ConnectionError
    assert not folder.exists()


def test_a_complete_upload_that_nobody_asks_about_is_deleted_but_not_one_that_arrives(workspace, monkeypatch):
    now = time.monotonic()
    forgotten = upload(workspace)
    with workspace.receive_upload() as arriving:
        # only for this module: event loops of other tests would sleep for an hour
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now + 3600, time=time.time))
        workspace.sweep()
        assert not Path(forgotten).exists() and arriving.is_dir()
    workspace.sweep()
    assert arriving.is_dir()


@pytest.mark.parametrize("path", ["", "/", "/etc/passwd", "{root}", "{root}/.lock", "{folder}", "{file}/", "{file}\0"])
def test_only_a_waiting_upload_is_an_upload(workspace, path):
    file = upload(workspace)
    assert workspace.holds_upload(file)
    path = path.format(root=workspace.root, folder=Path(file).parent, file=file)
    assert not workspace.holds_upload(path) and not workspace.holds_upload(f"{Path(file).parent}/../x")
    os.symlink("/etc/passwd", Path(file).with_name("link"))
    assert not workspace.holds_upload(str(Path(file).with_name("link")))
    assert not workspace.holds_upload(str(workspace.take(file, "one"))) and not workspace.holds_upload(file)


def test_a_visitor_who_is_away_for_long_is_forgotten_but_not_one_who_is_present(workspace):
    away, back, here = (workspace.take(upload(workspace), name) for name in ("away", "back", "here"))
    for path in (away, back, here):
        long_absent(path.parent.parent)
    with workspace.present("here"), workspace.present("here"):
        with workspace.present("back"):
            pass  # counts from the end
        workspace.sweep()
        assert not away.exists() and back.exists() and here.exists()
    long_absent(here.parent.parent)
    workspace.sweep()
    assert not here.exists()


def test_the_folder_of_an_idle_page_never_looks_old(workspace):
    paths = (workspace.root, workspace.root / ".lock")
    for path in paths:
        os.utime(path, (0, 0))
    workspace.sweep()
    for path in paths:
        state = path.stat()
        assert min(state.st_atime, state.st_mtime) > time.time() - 60


def test_the_sweep_is_repeated_until_the_page_is_closed(workspace, monkeypatch):
    monkeypatch.setattr(module, "SWEEP_EVERY", 0.01)
    path = workspace.take(upload(workspace), "away")
    long_absent(path.parent.parent)
    workspace.sweep_until_closed()
    deadline = time.monotonic() + 20
    while path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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

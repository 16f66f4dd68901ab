"""Where the scans of visitors are kept: one folder per visitor, deleted when the visitor leaves."""

import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "gloresnet-page-"
FORGET_AFTER = 6 * 3600  # seconds; for visitors whose browser did not report that they left


class Workspace:
    """A temporary folder for the files of the page. It also holds the uploads that gradio receives."""

    def __init__(self):
        remove_leftovers()
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.lock = FileLock(self.root / ".lock")
        self.lock.acquire()
        self.folders: dict[str, Path] = {}

    def folder(self, visitor: str) -> Path:
        """Create a folder for one scan of a visitor. Other visitors cannot guess its name."""
        self._forget_silent_visitors()
        home = self.folders.setdefault(visitor, self.root / f"visitor-{secrets.token_urlsafe(16)}")
        folder = home / secrets.token_urlsafe(8)
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def take(self, upload: str, visitor: str) -> Path:
        """Link an upload into the visitor's own folder.

        It is not moved, because gradio stores identical uploads of several visitors only once. Gradio deletes its own
        file soon afterwards.
        """
        own = self.folder(visitor) / Path(upload).name
        try:
            os.link(upload, own)
        except OSError:  # a file system without hard links
            shutil.copyfile(upload, own)
        return own

    def clear(self, visitor: str) -> None:
        """Delete everything that belongs to one visitor."""
        if (home := self.folders.pop(visitor, None)) is not None:
            shutil.rmtree(home, ignore_errors=True)
        for stray in self.root.glob("tmp*"):  # gradio's file input leaves an empty file behind for every upload
            if stray.is_file() and stray.stat().st_size == 0:
                stray.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete everything."""
        self.lock.release()
        shutil.rmtree(self.root, ignore_errors=True)

    def _forget_silent_visitors(self) -> None:
        now = time.time()
        for visitor, home in list(self.folders.items()):
            if home.is_dir() and now - home.stat().st_mtime > FORGET_AFTER:
                self.clear(visitor)


def remove_leftovers() -> None:
    """Delete the folders of pages that were killed. A running page holds the lock of its folder."""
    for root in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        lock = FileLock(root / ".lock")
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):  # it belongs to a running page or to another user
            continue
        lock.release()
        shutil.rmtree(root, ignore_errors=True)

"""Where scans lie while somebody looks at them: a folder for each visitor, gone when the visitor is."""

import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "gloresnet-page-"
FORGET_AFTER = 6 * 3600  # seconds: for a visitor whose browser never said good-bye


class Workspace:
    """A temporary folder for the page's files. The uploads that gradio receives lie in it too."""

    def __init__(self):
        remove_leftovers()
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.lock = FileLock(self.root / ".lock")
        self.lock.acquire()
        self.folders: dict[str, Path] = {}

    def folder(self, visitor: str) -> Path:
        """A new folder for one scan of a visitor; its name cannot be guessed by another."""
        self._forget_the_silent()
        home = self.folders.setdefault(visitor, self.root / f"visitor-{secrets.token_urlsafe(16)}")
        folder = home / secrets.token_urlsafe(8)
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def take(self, upload: str, visitor: str) -> Path:
        """An upload as the visitor's own file.

        Two visitors who send the same bytes share one upload, so it is linked here, not moved; gradio deletes it soon.
        """
        own = self.folder(visitor) / Path(upload).name
        try:
            os.link(upload, own)
        except OSError:  # a file system without links
            shutil.copyfile(upload, own)
        return own

    def clear(self, visitor: str) -> None:
        """Delete everything of one visitor."""
        if (home := self.folders.pop(visitor, None)) is not None:
            shutil.rmtree(home, ignore_errors=True)
        for stray in self.root.glob("tmp*"):  # gradio's file input leaves an empty one behind for every upload
            if stray.is_file() and stray.stat().st_size == 0:
                stray.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete everything."""
        self.lock.release()
        shutil.rmtree(self.root, ignore_errors=True)

    def _forget_the_silent(self) -> None:
        now = time.time()
        for visitor, home in list(self.folders.items()):
            if home.is_dir() and now - home.stat().st_mtime > FORGET_AFTER:
                self.clear(visitor)


def remove_leftovers() -> None:
    """Delete the folders of pages that were killed; a running page holds the lock of its own."""
    for root in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        lock = FileLock(root / ".lock")
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):  # another page's, or another user's
            continue
        lock.release()
        shutil.rmtree(root, ignore_errors=True)

"""Where the files of visitors are kept: uploads, and one folder per visitor, deleted when the visitor leaves."""

import math
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "gloresnet-page-"
UPLOADS = "upload-"
KEEP_UPLOADS = 20  # seconds until an upload that no visitor asks about is deleted
FORGET_AFTER = 120  # seconds until the files of a visitor without a connection are deleted
SWEEP_EVERY = 5  # seconds


class Workspace:
    """A temporary folder for the files of the page.

    Every upload request gets a folder of its own, so that nothing of another request can be deleted with it.
    """

    def __init__(self):
        remove_leftovers()
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.lock = FileLock(self.root / ".lock")
        self.lock.acquire()
        self.keep_uploads = KEEP_UPLOADS
        self._changing = threading.Lock()
        self._homes: dict[str, Path] = {}
        self._present: Counter[str] = Counter()
        self._uploads: dict[Path, float] = {}  # when each has arrived, in seconds of the monotonic clock
        self._closed = threading.Event()

    # ----------------------------------------------------------------------------------------------------- uploads

    @contextmanager
    def receive_upload(self) -> Iterator[Path]:
        """A new folder for the files of one request. An exception deletes it, so half an upload never stays."""
        folder = self.root / f"{UPLOADS}{secrets.token_urlsafe(16)}"
        folder.mkdir(mode=0o700)
        self._uploads[folder] = math.inf  # still arriving, however long it takes
        try:
            yield folder
        except BaseException:
            self._uploads.pop(folder)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._uploads[folder] = time.monotonic()

    def holds_upload(self, path: str) -> bool:
        """Whether `path` is a file that has been uploaded and not been taken yet."""
        file = Path(path)
        try:
            return (
                os.path.normpath(path) == path
                and file.is_relative_to(self.root)
                and file.relative_to(self.root).parts[0].startswith(UPLOADS)
                and file.is_file()
                and not file.is_symlink()
            )
        except (OSError, ValueError, IndexError):  # too long a name, a null byte, the folder itself
            return False

    # ---------------------------------------------------------------------------------------------------- visitors

    def folder(self, visitor: str) -> Path:
        """Create a folder for one scan of a visitor. Other visitors cannot guess its name."""
        with self._changing:
            home = self._homes.setdefault(visitor, self.root / f"visitor-{secrets.token_urlsafe(16)}")
            folder = home / secrets.token_urlsafe(8)
            folder.mkdir(parents=True, mode=0o700)
        return folder

    def take(self, upload: str, visitor: str) -> Path:
        """Move an upload into the visitor's own folder."""
        own = self.folder(visitor) / Path(upload).name
        os.replace(upload, own)
        return own

    @contextmanager
    def present(self, visitor: str) -> Iterator[None]:
        """While this lasts, the visitor's files stay. Afterwards they are deleted soon, if not at once by `clear`."""
        with self._changing:
            self._present[visitor] += 1
        try:
            yield
        finally:
            with self._changing:
                self._present[visitor] -= 1
                if not self._present[visitor]:
                    del self._present[visitor]
                if home := self._homes.get(visitor):
                    with suppress(FileNotFoundError):
                        os.utime(home)  # `sweep` counts from here

    def clear(self, visitor: str) -> None:
        """Delete everything that belongs to one visitor, and nothing else."""
        with self._changing:
            home = self._homes.pop(visitor, None)
        if home is not None:
            shutil.rmtree(home, ignore_errors=True)

    # ---------------------------------------------------------------------------------------------------- deletion

    def sweep(self) -> None:
        """Delete complete uploads that nobody asked about, and the files of visitors who have been away for long."""
        for path in (self.root, self.lock.lock_file):
            with suppress(FileNotFoundError):
                os.utime(path)  # systems delete what is old in their temporary folder
        now = time.monotonic()
        for folder, arrived in list(self._uploads.items()):
            if now - arrived > self.keep_uploads:
                shutil.rmtree(folder, ignore_errors=True)
                self._uploads.pop(folder, None)
        for visitor, home in list(self._homes.items()):
            with suppress(FileNotFoundError):
                if visitor not in self._present and time.time() - home.stat().st_mtime > FORGET_AFTER:
                    self.clear(visitor)

    def sweep_until_closed(self) -> None:
        """Call `sweep` every few seconds, in a thread."""

        def repeat() -> None:
            while not self._closed.wait(SWEEP_EVERY):
                self.sweep()

        threading.Thread(target=repeat, name="sweep", daemon=True).start()

    def close(self) -> None:
        """Delete everything."""
        self._closed.set()
        self.lock.release()
        shutil.rmtree(self.root, ignore_errors=True)


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

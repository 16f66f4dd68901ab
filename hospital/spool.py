"""The private folder of the service: received files, written documents, the queue. Nothing in it is named by a UID."""

import fcntl
import filecmp
import hashlib
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from run_folder.files import WriteError

from .documents import sync_folder
from .fingerprint import fingerprint

HEADERS = ".headers-"  # how temporary folders with headers begin
LOCK = "lock"  # also says that a folder is a spool
CUT = ".cut-"  # how a file in the folder of a study begins while a series is received; also after a death in between


class SpoolFull(Exception):
    """A limit of the service or the disk is reached: the sender must try again later."""


class StudyFull(SpoolFull):
    """A study has as many files as one may have. Others can be received."""


class OtherImage(Exception):
    """A file has the SOPInstanceUID of an image that came before, and shows something else."""


class Delivery(NamedTuple):
    """The received files of a study.

    Attributes:
        study: tag of its StudyInstanceUID.
        files: by the tag of their SOPInstanceUID.
        content: changes if a file is added or received again, or the transfer ends.
        newest: when the last one came, seconds since 1970.
        cut: tags of the series whose last transfer has not ended, or was cut off.
    """

    study: str
    files: dict[str, Path]
    content: str
    newest: float
    cut: frozenset[str]


def tag(uid: str) -> str:
    """What a UID is called on disk and in lines: the start of its SHA-256."""
    return hashlib.sha256(str(uid).encode()).hexdigest()[:16]


class Spool:
    """
    Args:
        folder: created if needed; only this user may read it. What is in it may be deleted.
        max_studies, max_instances: studies that may wait, and files of one study.
        min_free: bytes of the disk that stay free.

    Raises:
        WriteError: another service uses the folder, or it is no spool and not empty.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, max_studies: int, max_instances: int, min_free: int):
        self.folder, self.limits, self.min_free = folder, (max_studies, max_instances), min_free
        self.received, self.reports = folder / "received", folder / "reports"
        self.lock = threading.Lock()  # between the threads that receive and the one that deletes
        self.replacing = threading.Lock()  # between two that receive the same instance
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(path.name != "lost+found" for path in folder.iterdir()) and not (folder / LOCK).exists():
            raise WriteError(f"{folder} holds other files, which could be lost: give a new or empty --spool.")
        self._claim = open(folder / LOCK, "w")  # held until the process ends
        try:
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._claim.close()
            raise WriteError(f"{folder} is in use by another service: stop it, or give another --spool.") from None
        for path in (folder, self.received, self.reports):
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(0o700)
        # by a service that was killed
        for left in [*self.received.glob("*/.*.part"), *self.reports.glob(".*"), *folder.glob(f"{HEADERS}*")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        for study in self.received.iterdir():
            if study.is_dir() and not any(study.glob("*.dcm")):  # it would count as a study that waits
                shutil.rmtree(study)

    def close(self) -> None:
        self._claim.close()

    def keep(self, study: str, instance: str, data: bytes, known: str = "", again: bool = True) -> None:
        """Store one received file. When this returns, it is on the disk.

        Args:
            study, instance: UIDs.
            data: the whole file.
            known: fingerprint of the instance when it was reported; empty if it was not.
            again: whether the same file, if it is there already, counts as received now.

        Raises:
            SpoolFull: a limit is reached, for `StudyFull` that of files of one study. Nothing is left of this file.
            OtherImage: an earlier file of this instance shows something else. That one stays.
        """
        folder, name = self.received / tag(study), f"{tag(instance)}.dcm"
        part = folder / f".{name}.{threading.get_ident()}.part"
        try:
            if shutil.disk_usage(self.received).free < self.min_free + len(data):
                raise SpoolFull("the disk is full")
            with self.lock:
                if not folder.is_dir() and sum(1 for _ in self.received.iterdir()) >= self.limits[0]:
                    raise SpoolFull("too many studies wait")
                folder.mkdir(mode=0o700, exist_ok=True)
                if not (folder / name).exists() and len(list(folder.glob("*.dcm"))) >= self.limits[1]:
                    raise StudyFull("the study has too many files")
                file = open(part, "wb")  # from now on the folder is not empty, and not removed
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with self.replacing:
                if is_other(part, folder / name, known):
                    raise OtherImage
                if not again and (folder / name).exists() and filecmp.cmp(part, folder / name, shallow=False):
                    return
                os.replace(part, folder / name)
            sync_folder(folder)
            sync_folder(self.received)
        except OSError as error:
            raise SpoolFull(type(error).__name__) from None
        finally:
            with self.lock, suppress(OSError):
                part.unlink(missing_ok=True)
                folder.rmdir()  # if nothing of the study was kept; if something was, this fails

    def mark_cut(self, study: str, series: str, cut: bool) -> None:
        """Remember whether the last transfer of a series was cut off.

        Args:
            study, series: tags of their UIDs.
        """
        path = self.received / study / f"{CUT}{series}"
        try:
            path.touch() if cut else path.unlink(missing_ok=True)
        except OSError:
            pass  # the study is gone, or the disk is full: then its own checks must find what is missing

    def deliveries(self) -> list[Delivery]:
        """The studies that were received, the oldest first."""
        found = []
        for folder in self.received.iterdir():
            with suppress(FileNotFoundError):  # `keep` removed it meanwhile, because nothing of the study was kept
                found.append(self.delivery(folder))
        return sorted((delivery for delivery in found if delivery.files), key=lambda delivery: delivery.newest)

    def delivery(self, folder: Path) -> Delivery:
        """What is in a folder of received files."""
        files, words, newest = {}, [], 0.0
        for path in sorted(folder.glob("*.dcm")):
            status = path.stat()
            files[path.stem] = path
            words.append(f"{path.stem} {status.st_size} {status.st_mtime_ns}")
            newest = max(newest, status.st_mtime)
        cut = frozenset(path.name.removeprefix(CUT) for path in folder.glob(f"{CUT}*"))
        content = hashlib.sha256("\n".join([*words, *sorted(cut)]).encode()).hexdigest()[:16]
        return Delivery(folder.name, files, content, newest, cut)

    def clear(self, delivery: Delivery) -> bool:
        """Delete the files of a study, unless something was received meanwhile. Returns whether they were deleted."""
        folder = self.received / delivery.study
        with self.lock:
            if not folder.is_dir():
                return True
            if any(folder.glob(".*.part")) or self.delivery(folder).content != delivery.content:
                return False
            shutil.rmtree(folder)
            return True


def is_other(new: Path, before: Path, known: str) -> bool:
    """Whether a file shows another image than an earlier one of its name, or than what is known of it.

    Nothing is known of a file that cannot be decoded, so any other one may take its place.
    """
    if before.exists():
        if filecmp.cmp(new, before, shallow=False):
            return False
        known = known or fingerprint(before)
    return bool(known) and fingerprint(new) != known

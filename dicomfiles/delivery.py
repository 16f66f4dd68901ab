"""The files of a delivery: a folder, a zip, one file, or a list of these. Nothing is written to disk."""

import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import SeriesError
from .thresholds import MAX_DIRECTORY, MAX_FILES, MAX_RATIO, MAX_UNPACKED, RATIO_FROM

MAGIC, MAGIC_AT = b"DICM", 128  # Part 10 of the standard
ZIP_MAGIC = b"PK\x03\x04"
FOLDER_ADVICE = "give the folder of the T2-weighted series alone"
Source = str | os.PathLike[str]


class File(NamedTuple):
    """One file of a delivery. Its name may be that of a patient: it never enters a message.

    Attributes:
        path: of the file, or of the zip that holds it.
        size: in bytes, unpacked.
        member: its place in the list of the zip; -1 for a file on disk.
    """

    path: str
    size: int
    member: int = -1

    def read(self) -> bytes:
        """Its bytes, read again, for example as evidence for a report."""
        with Opened() as opened:
            return opened.read(self)


class Opened:
    """Reads files, and keeps the zips open meanwhile."""

    def __init__(self) -> None:
        self.zips: dict[str, zipfile.ZipFile] = {}

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_error) -> None:
        for archive in self.zips.values():
            archive.close()

    def zip(self, path: str) -> zipfile.ZipFile:
        if path not in self.zips:
            self.zips[path] = zipfile.ZipFile(path)
        return self.zips[path]

    def read(self, file: File, count: int = -1) -> bytes:
        """The first `count` bytes of a file, or all."""
        if file.member < 0:
            with open(file.path, "rb") as stream:
                return stream.read(count)
        archive = self.zip(file.path)
        with archive.open(archive.infolist()[file.member]) as stream:
            return stream.read(count)


def is_dicom(path: Source) -> bool:
    """Whether a file is DICOM, by its content. Opens regular files only: a pipe would block."""
    return _begins(path, MAGIC, MAGIC_AT)


def is_delivery(path: Source) -> bool:
    """Whether `read` is meant for a path: a folder, a DICOM file or a zip."""
    return os.path.isdir(path) or is_dicom(path) or _begins(path, ZIP_MAGIC, 0)


def _begins(path: Source, magic: bytes, at: int) -> bool:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            return file.read(at + len(magic))[at:] == magic
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return False


def list_files(source: Source | Sequence[Source], opened: Opened, where: str) -> list[File]:
    """The regular files of a delivery, sorted by path. Zips inside folders and zips are left out.

    Args:
        source: see `read`.
        opened: keeps the zips.
        where: what to call the delivery in messages.

    Raises:
        SeriesError: it is missing, has too many files, or a zip is damaged or hostile; a file is a link to nothing.
    """
    given = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    files: list[File] = []
    for path in map(os.fsdecode, given):
        if os.path.isdir(path):
            found: Iterator[File] = _below(path, where)
        elif _begins(path, ZIP_MAGIC, 0):
            found = iter(_members(path, opened, where))
        else:
            found = _one(path, where)
        for file in found:
            files.append(file)
            if len(files) > MAX_FILES:
                raise SeriesError(f"{where} has more than {MAX_FILES} files: {FOLDER_ADVICE}.")
    return files


def _one(path: str, where: str) -> Iterator[File]:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        kind = type(error).__name__
    else:
        if stat.S_ISREG(status.st_mode):
            yield File(path, status.st_size)
            return
        kind = "a device or pipe"
    raise SeriesError(f"{where} cannot be read ({kind}): check the path.")


def _below(folder: str, where: str) -> Iterator[File]:
    """The regular files below a folder. Links are followed, each real file and folder once."""
    seen: set[tuple[int, int]] = set()
    unreadable: list[OSError] = []
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=unreadable.append):
        folders.sort()
        folders[:] = [name for name in folders if _new(os.path.join(parent, name), seen)]
        for name in sorted(names):
            path = os.path.join(parent, name)
            if not os.path.exists(path):  # a slice may be missing
                raise SeriesError(f"{where} contains a link to a missing file: fetch its content, or remove the link.")
            if os.path.isfile(path) and _new(path, seen):
                yield File(path, os.path.getsize(path))
    if unreadable:
        raise SeriesError(f"{where} contains a folder that cannot be read: allow this user to read it.")


def _new(path: str, seen: set[tuple[int, int]]) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    key = status.st_dev, status.st_ino
    new = key not in seen
    seen.add(key)
    return new


def _members(path: str, opened: Opened, where: str) -> list[File]:
    """The files of a zip, after the checks that need no unpacking."""
    size = os.path.getsize(path)
    problem = ""
    try:
        if _directory_bytes(path, size) > MAX_DIRECTORY:
            problem = f"is a zip whose list of files is longer than {MAX_DIRECTORY / 1e6:g} MB: {FOLDER_ADVICE}"
        else:
            members = opened.zip(path).infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        problem = f"is a damaged zip ({type(error).__name__}): pack or copy it again"
    if not problem:
        problem = _hostile(members, size)
    if problem:
        raise SeriesError(f"{where} {problem}.")
    return [File(path, member.file_size, index) for index, member in enumerate(members) if not member.is_dir()]


def _hostile(members: list[zipfile.ZipInfo], size: int) -> str:
    """Why a zip is refused, from its list of files; empty if it is not."""
    if len(members) > MAX_FILES:
        return f"has more than {MAX_FILES} files: {FOLDER_ADVICE}"
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or parts[0].endswith(":"):
            return "is a zip with a file outside its folder (an absolute path or ..): pack it again"
        if member.flag_bits & 1:
            return "is an encrypted zip: unpack it, and give the folder"
        if stat.S_ISLNK(member.external_attr >> 16):
            return "is a zip with links instead of files: pack the files themselves"
    total = sum(member.file_size for member in members)
    if total > MAX_UNPACKED:
        return f"is a zip that unpacks to {total / 1e9:.3g} GB: {FOLDER_ADVICE}"
    if total > RATIO_FROM and total > MAX_RATIO * size:
        return f"is a zip compressed {total / size:.0f} times, as no scan is: pack it again"
    return ""


def _directory_bytes(path: str, size: int) -> int:
    """How many bytes the list of files in a zip takes. zipfile reads it whole, so its length is checked before."""
    with open(path, "rb") as file:
        start = max(0, size - 65_557)  # the end record of 22 bytes, and a comment of up to 65,535
        file.seek(start)
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0:
            raise zipfile.BadZipFile
        length = int.from_bytes(tail[at + 12 : at + 16], "little")
        locator = tail[at - 20 : at] if at >= 20 else b""
        if locator.startswith(b"PK\x06\x07"):  # zip64; versions of zipfile look for its record at either place
            for place in (int.from_bytes(locator[8:16], "little"), start + at - 76):
                file.seek(max(0, min(place, size)))
                length = max(length % 0xFFFFFFFF, int.from_bytes(file.read(56)[40:48], "little"))
        return length


def name_of(source: Source | Sequence[Source]) -> str:
    """What to call a delivery in messages: as its user wrote it."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    return f"the delivery of {len(list(source))} file(s)"


def common_folder(paths: Sequence[Source]) -> Path:
    """The deepest folder that holds all these folders."""
    return Path(os.path.commonpath([os.fsdecode(path) for path in paths]))

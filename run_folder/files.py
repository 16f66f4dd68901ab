"""Files written so that no reader ever sees half of one, and JSON and YAML read with clear errors."""

from __future__ import annotations

import errno
import glob
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml


class InputError(ValueError):
    """A file or run folder that cannot be used. The message says what was found, where, and what to do."""


class WriteError(OSError):
    """A file could not be written, most often because its disk is full. The message says where and what to do."""


ADVICE = "Free some space, then run the same command again."

# far more than any file of a run needs, and little enough to be read or refused within a second
MOST_JSON = 16 * 2**20  # bytes; splits.json has about 300 per scan
MOST_YAML = 16 * 2**10  # bytes; PyYAML reads slowly
MOST_LEVELS = 50  # of objects and lists inside each other

# of torch and safetensors, which raise RuntimeError or a class of their own; torch's text depends on the moment
_FAILED_WRITES = ("pytorchstreamwriter failed", "unexpected pos", "iostream error", "file write failed", "i/o error:")


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Around code that writes `path`, with any library: turn the errors of a full disk into one clear error.

    Raises:
        WriteError: the disk is full or its quota is used up, or torch or safetensors could not write.
    """
    try:
        yield
    except WriteError:  # of a file inside the folder `path`
        raise
    except Exception as error:
        text = " ".join(str(error).split()).rstrip(".")
        full = (
            getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "no space left on device" in text.lower()
        )
        library = not isinstance(error, OSError) and any(words in text.lower() for words in _FAILED_WRITES)
        if not full and not library:
            raise
        reason = "its disk is full" if full else f"is its disk full? ({text})"
        raise WriteError(f"{path} could not be written: {reason}; {_free(Path(path))} are left. {ADVICE}") from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a temporary name in the same folder, then rename it to `path`.

    Yields:
        The temporary path. After an error it is removed, and the file at `path` is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    _remove_leftovers(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder under a temporary name next to it, then rename it to `folder`, replacing what was there.

    Yields:
        The temporary folder, empty. After an error it is removed, and `folder` is unchanged.
    """
    folder = Path(folder)
    temporary, retired = (folder.with_name(f".{folder.name}.{kind}") for kind in ("partial", "retired"))
    with writing(folder), _claimed(temporary, folder):
        _restore(retired, folder)  # a process may have been killed here before
        try:
            yield temporary
            if folder.exists():
                folder.rename(retired)
            temporary.rename(folder)
        finally:
            _restore(retired, folder)
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a UTF-8 text file atomically; its folder is created if needed."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | os.PathLike[str], content: Any) -> Path:
    """Write strict JSON atomically: NaN and infinity are refused, undefined values must be None."""
    return write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object. It is as strict as `write_json`, and limited in size and depth.

    Raises:
        InputError: the file is missing, cut short, too large or too deep, or holds something other than an object, or
            a number that is not finite.
    """
    text = _read_text(path, "JSON", MOST_JSON)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # a JSONDecodeError is a ValueError
        raise InputError(f"{path} is not valid JSON ({error}); it may have been cut short.") from error
    _check_content(content, path)
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, found {type(content).__name__}.")
    return content


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file of `name: value` lines.

    Raises:
        InputError: the file is missing, is not YAML, too large or too deep, holds something other than `name: value`
            lines, a name that is there twice or is not text, an alias, or a number that is not finite.
    """
    text = _read_text(path, "YAML", MOST_YAML)
    try:
        content = yaml.load(text, Loader=_PlainLoader)
    # the last three are PyYAML's own, for values such as `!!int ""`
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is not valid YAML ({' '.join(str(error).split())}): correct it.") from error
    _check_content(content, path)
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold `name: value` lines, found {type(content).__name__}.")
    return content


@contextmanager
def _claimed(temporary: Path, folder: Path) -> Iterator[None]:
    """Make the temporary folder, empty, for this process only. The system releases it when the process ends.

    Raises:
        WriteError: another process is filling it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no lock; the user must not start two processes
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield
        return
    temporary.mkdir(parents=True, exist_ok=True)
    handle = os.open(temporary, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = temporary.exists() and os.path.samestat(os.fstat(handle), temporary.stat())
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks
            free = True
        if not free:  # or the other process has just renamed it to `folder`
            raise WriteError(f"{folder} is being written by another process: wait until it has ended.")
        for left in temporary.iterdir():  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield
    finally:
        os.close(handle)


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which can make a small file huge, and with every name once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            raise yaml.composer.ComposerError(None, None, f"*{event.anchor} is an alias", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(None, None, "a name is not text", key.start_mark)
            if key.value in names:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
            names.add(key.value)
        content: dict[Any, Any] = super().construct_mapping(node, deep)
        return content


def _check_content(content: Any, path: str | os.PathLike[str]) -> None:
    """Refuse content that is too deep for code that calls itself, and numbers that are not finite or beyond 64 bits."""
    level = [content]
    for _ in range(MOST_LEVELS):
        below = []
        for each in level:
            for value in each.values() if isinstance(each, dict) else each if isinstance(each, list) else ():
                if isinstance(value, dict | list):
                    below.append(value)
                elif isinstance(value, float) and not math.isfinite(value):
                    raise InputError(f"{path} holds the number {value}, which is not finite: it is damaged.")
                elif isinstance(value, int) and value.bit_length() > 64:
                    raise InputError(f"{path} holds an integer of {value.bit_length()} bits: it is damaged.")
        level = below
        if not level:
            return
    raise InputError(f"{path} has more than {MOST_LEVELS} levels of objects or lists inside each other: it is damaged.")


def _remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed have left of `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        process = left.name.split(".")[-2]
        import psutil  # here, because nearly no call needs it

        if process.isdecimal() and int(process) != os.getpid() and not psutil.pid_exists(int(process)):
            with suppress(OSError):
                left.unlink()


def _free(path: Path) -> str:
    """The free space of the disk that `path` is on."""
    existing = next((folder for folder in path.absolute().parents if folder.is_dir()), Path.cwd())
    return f"{shutil.disk_usage(existing).free / 1e6:.1f} MB"


def _restore(retired: Path, folder: Path) -> None:
    """Put the old folder back if no new one took its place; remove it otherwise."""
    if retired.exists() and not folder.exists():
        retired.rename(folder)
    shutil.rmtree(retired, ignore_errors=True)


def _read_text(path: str | os.PathLike[str], kind: str, most: int) -> str:
    require_file(path)
    if (size := Path(path).stat().st_size) > most:
        raise InputError(f"{path} has {size} bytes, and at most {most} are read: it is damaged or another file.")
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid {kind} ({error}); it may be damaged.") from error


def require_file(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless `path` is a file, also through links."""
    if not Path(path).is_file():
        what = "is not a file" if os.path.lexists(path) else "is missing"
        raise InputError(f"{path} {what}.")

"""Which files may be published (by name) and which text (by content). All checks come before the first upload."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from evaluation.records import read_environment
from run_folder.files import InputError
from run_folder.layout import RunFolder
from run_folder.tables import read_table

MODEL_FILES = (
    *("README.md", "config.json", "preprocessor_config.json", "*_gloresnet.py"),
    *("configuration_baseline.py", "modeling_baseline.py"),
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
)
CONVERTED_FILES = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}  # next to the model folder
RECOGNISABLE = 8  # characters of an id that no hash or word holds by chance
PRIVATE_TEXT = {
    # /home/x, ~/x, C:\x, \\server\share (backslashes may be doubled), or any path from the root with two parts; no URL
    # of the web and no fraction
    "path": re.compile(
        r"(?<![\w/.:~<>*)-])(?:~|/[\w.-]+)/[\w.-]+(?:/[\w.-]*)*"
        r"|\b[A-Za-z]:\\+\w+|(?<![\w\\])(?:\\\\){1,2}[\w.-]+\\{1,2}[\w.$-]+"
        r"|\b(?:file|smb|cifs|nfs|afp|sftp|ssh)://[^\s\"'<>)]*",
        re.IGNORECASE,
    ),
    # ann@clinic.org; no decorator, no matrix product and no ORG/NAME@revision
    "e-mail address": re.compile(r"(?<![\w/.+-])[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}\b(?!\()"),
}


class LeakError(Exception):
    """Something that must not be published was found. The message names it and says what to do."""


def is_model_file(name: str) -> bool:
    """Whether a file with this name belongs in a model folder."""
    return any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def is_published_file(name: str) -> bool:
    """Whether a file with this name in a model repository came from here."""
    return is_model_file(name) or any(name in names for names in CONVERTED_FILES.values())


def converted_files(folder: Path, format: str) -> dict[str, Path]:
    """The files of a model folder's conversion by name, as `train.py --export` and `publishing.convert` write them.

    Raises:
        InputError: one is missing, or older than the model.
    """
    files = {name: folder.parent / name for name in CONVERTED_FILES[format]}
    for path in files.values():
        what = "is missing" if not path.is_file() else "is older than its model"
        if not path.is_file() or path.stat().st_mtime < (folder / "config.json").stat().st_mtime:
            raise InputError(f"{path} {what}: run python -m publishing.convert {folder} --format {format}")
    return files


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a model folder by name, without hidden files and Python's caches.

    Raises:
        LeakError: the folder holds something else, or links, which were perhaps not meant to be published.
    """
    files = {p.name: p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and p.name != "__pycache__"}
    foreign = [name for name, path in files.items() if not (is_model_file(name) and path.is_file())]
    if foreign:
        raise LeakError(
            f"{folder} holds {', '.join(foreign)}, which does not belong in a model repository: move it elsewhere. "
            "Nothing was published."
        )
    if links := [name for name, path in files.items() if path.is_symlink()]:
        raise LeakError(
            f"{folder} holds {', '.join(links)} as a link, whose content may come from anywhere: replace it by the "
            "file itself. Nothing was published."
        )
    return files


def private_words(run_folder: str | os.PathLike[str]) -> list[str]:
    """What must not appear in anything published from a run: ids of infants, sessions and families, file names, paths.

    A participant id always counts in the form `sub-7`. An id on its own counts if it cannot be mistaken for a common
    number or word ("7", "flip"): six or more digits, or five or more characters with both letters and digits.
    """
    run = RunFolder(run_folder)
    words: set[str] = set()
    if run.cohort.is_file():
        table = read_table(run.cohort, ("participant_id", "session_id", "family"))
        for row in table.to_dict("records"):
            words |= {f"sub-{row['participant_id']}"}
            for column in ("participant_id", "session_id", "family"):
                text = str(row[column])
                mixed = len(text) >= 5 and re.search(r"\d", text) and re.search(r"[A-Za-z]", text)
                if mixed or re.fullmatch(r"\d{6,}", text):
                    words.add(text)
            if row.get("image"):
                words.add(Path(str(row["image"])).name)
    source = read_environment(run).get("source", {}) if run.environment.is_file() else {}
    paths = [Path.home(), run.path.resolve(), *(Path(path) for path in source.values() if path)]
    return sorted(words | {str(path) for path in paths if len(path.parts) > 1})


def check_text(name: str, text: str, words: Iterable[str]) -> None:
    """Refuse text that contains one of the words, a path on somebody's machine, or an e-mail address.

    Args:
        name: of the file that holds the text, for the message.
        text: to be published.
        words: from `private_words`.

    Raises:
        LeakError: the message names the file and what was found.
    """
    lower = text.lower()
    if found := next((word for word in words if word.lower() in lower and _is_in(word, text)), None):
        what = f"{found!r}, an id or a path of the run's cohort"
    elif found := next(((kind, match) for kind, each in PRIVATE_TEXT.items() if (match := each.search(text))), None):
        what = f"the {found[0]} {found[1][0]!r}"
    else:
        return
    raise LeakError(
        f"{name} holds {what}, which must not be published: remove it (it may come from the name of a run or "
        "cohort folder), then publish again. Nothing was published."
    )


def _is_in(word: str, text: str) -> bool:
    """Whether `text` holds the word, perhaps with a letter after it, but not as a part of another number or word.

    A long id with digits is recognised inside another word, too, but not inside a longer number.
    """
    if len(word) >= RECOGNISABLE and re.search(r"\d", word) and "/" not in word:
        before, after = ("(?<![0-9])" if word[0].isdigit() else ""), ("(?![0-9])" if word[-1].isdigit() else "")
    else:
        before, after = "(?<![A-Za-z0-9])", "[A-Za-z]?(?![A-Za-z0-9])"
    return bool(re.search(before + re.escape(word) + after, text, re.IGNORECASE))


def check_contents(files: dict[str, Path | bytes], words: list[str]) -> None:
    """Apply `check_text` to files, given by name as a path or as their content. Of weights, only the header is read.

    Raises:
        LeakError: the message names the file and what was found.
    """
    for name, content in files.items():
        if name.endswith(".safetensors"):
            check_text(name, _header(content), words)
        elif is_published_file(name) and not is_model_file(name):
            # its settings are those of the model folder, and names of layers look like paths
            raw = content.read_bytes().lower()
            found = next((word for word in words if word.lower().encode() in raw), None)
            check_text(name, found or "", words)
        else:
            text = content if isinstance(content, bytes) else content.read_bytes()
            check_text(name, text.decode("utf-8", errors="replace"), words)


def _header(path: Path) -> str:
    """The JSON at the start of a safetensors file: names of tensors and free text."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.dumps(json.loads(file.read(size)))

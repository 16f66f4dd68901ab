"""What may leave the house: files by name, text by content. Everything is checked before the first byte is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from run_folder.files import read_json
from run_folder.tables import read_table

MODEL_FILES = (
    *("README.md", "config.json", "preprocessor_config.json", "*_gloresnet.py"),
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
)
# a path of somebody's machine: /home/x, ~/x, C:\x, or two folders deep from the root; no URL, no fraction
ABSOLUTE_PATH = re.compile(r"(?<![\w/.:~<>*)-])((?:~|/[\w.-]+)/[\w.-]+(?:/[\w.-]*)*)|\b([A-Za-z]:\\+\w+)")


class LeakError(Exception):
    """Something was about to be published that must not be; the message names it and says what to do."""


def is_model_file(name: str) -> bool:
    """Whether a file of this name belongs into a model repository."""
    return any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a model folder by name; hidden ones and Python's caches stay at home.

    Raises:
        LeakError: there is another file or folder, which nobody may have meant to publish.
    """
    files = {p.name: p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and p.name != "__pycache__"}
    foreign = [name for name, path in files.items() if not (is_model_file(name) and path.is_file())]
    if foreign:
        raise LeakError(
            f"{folder} holds {', '.join(foreign)}, which belongs into no model repository: move it elsewhere. Nothing "
            "was published."
        )
    return files


def private_words(run: Path) -> list[str]:
    """What of a run must appear in nothing that is published: ids of infants and sessions, file names, paths.

    An id that could be any number or word ("7", "flip") counts only as `sub-7`; one of five characters and more with
    both letters and digits, or six and more digits, also alone.
    """
    words: set[str] = set()
    cohort = run / "cohort.csv"
    if cohort.is_file():
        table = read_table(cohort, ("participant_id", "session_id", "family"))
        for row in table.to_dict("records"):
            words |= {f"sub-{row['participant_id']}"}
            for column in ("participant_id", "session_id", "family"):
                text = str(row[column])
                mixed = len(text) >= 5 and re.search(r"\d", text) and re.search(r"[A-Za-z]", text)
                if mixed or re.fullmatch(r"\d{6,}", text):
                    words.add(text)
            if row.get("image"):
                words.add(Path(str(row["image"])).name)
    source = read_json(run / "environment.json").get("source", {}) if (run / "environment.json").is_file() else {}
    paths = [Path.home(), run.resolve(), *(Path(path) for path in source.values() if path)]
    return sorted(words | {str(path) for path in paths if len(path.parts) > 1})


def check_text(name: str, text: str, words: Iterable[str]) -> None:
    """Refuse text that names an infant, or a path of somebody's machine.

    Raises:
        LeakError: naming the file and what is in it.
    """
    lower = text.lower()
    found = next((word for word in words if word.lower() in lower and _stands_alone(word, text)), None)
    path = ABSOLUTE_PATH.search(text)
    if found or path:
        what = f"{found!r}, an id or a path of the run's cohort" if found else f"the path {path[1] or path[2]!r}"
        raise LeakError(
            f"{name} holds {what}, which must not leave with a model: take it out (a run or cohort folder may need "
            "another name), then publish again. Nothing was published."
        )


def _stands_alone(word: str, text: str) -> bool:
    return bool(re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", text, re.IGNORECASE))


def check_contents(files: dict[str, Path | bytes], words: list[str]) -> None:
    """Refuse files that give away who was scanned, or on whose machine; of weights, the header is read.

    Raises:
        LeakError: see `check_text`.
    """
    for name, content in files.items():
        if name.endswith(".safetensors"):
            check_text(name, _header(content), words)
        else:
            text = content if isinstance(content, bytes) else content.read_bytes()
            check_text(name, text.decode("utf-8", errors="replace"), words)


def _header(path: Path) -> str:
    """The JSON with which a safetensors file begins: names of tensors, and free text."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.dumps(json.loads(file.read(size)))

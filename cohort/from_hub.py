"""Open a cohort: a BIDS folder, a dataset on the Hub, or a folder written by `python -m cohort.to_hub`.

A dataset is unpacked once into a BIDS folder, so that the rest of the project works as on any other BIDS folder. There
is one such folder per revision, below `gloresnet/cohorts` in the datasets cache (`HF_DATASETS_CACHE`). It can be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from huggingface_hub import snapshot_download

from run_folder.cells import quoted
from run_folder.files import replacing_folder

from .file_state import file_state
from .generated import ROOT_FILES
from .hub_access import HUB_FAILURES, HUB_NAME, explain, is_hub_name
from .images import IMAGE_NAMES, MASK_NAMES, SEGMENTATION_NAMES, CohortError, parse_name
from .labels import LABEL_COLUMNS, MISSING, name

# column that holds files -> names (desc, space, suffix) that they may have in an `anat` folder, the usual one first
FILE_COLUMNS = {
    "image": IMAGE_NAMES,
    "brain_mask": MASK_NAMES,
    "segmentation": SEGMENTATION_NAMES,
    "lesion_mask": (("lesion", "", "mask"),),  # only in phantoms and painted cohorts
}
ID = re.compile(r"[A-Za-z0-9.+-]+", re.ASCII)  # ids become folder names
GZIP = b"\x1f\x8b"


class OpenedCohort(NamedTuple):
    """A BIDS folder, and its source as recorded by a run: the folder itself, or ORG/NAME@REVISION."""

    folder: Path
    source: str


def open_cohort(data_dir: str) -> OpenedCohort:
    """The BIDS folder of a cohort. A dataset is downloaded and unpacked if needed.

    Safe to call from several processes at once: one unpacks, the others wait.

    Args:
        data_dir: a folder, or ORG/NAME[@REVISION] of a dataset on the Hub. An existing folder takes precedence.

    Raises:
        CohortError: the dataset does not exist, cannot be read or downloaded, or is not a cohort.
    """
    match = HUB_NAME.fullmatch(data_dir)
    if match is None or not is_hub_name(data_dir):
        folder = Path(data_dir)
        if not (tables := _tables(folder)):
            return OpenedCohort(folder, str(folder.resolve()))
        folder = folder.resolve()
        return OpenedCohort(_unpacked(folder, tables, folder.name, _state(tables)), str(folder))
    owner, dataset, revision = match.groups()
    snapshot = _download(f"{owner}/{dataset}", revision)
    source = f"{owner}/{dataset}@{snapshot.name}"
    if not (tables := _tables(snapshot)):
        raise CohortError(f"The dataset {source} has no Parquet file: give one written by `python -m cohort.to_hub`.")
    try:
        return OpenedCohort(_unpacked(snapshot, tables, dataset, f"{owner}-{snapshot.name}"), source)
    except CohortError as error:
        raise CohortError(f"The dataset {source} is not a cohort. {error}") from error


def _tables(folder: Path) -> list[Path]:
    """The Parquet files of a dataset. None for a BIDS folder, even if it contains some."""
    if not folder.is_dir() or any(folder.glob("sub-*")):
        return []
    return sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])


def _download(repo_id: str, revision: str | None) -> Path:
    """Download a dataset, without the files already cached. The returned folder is named after the commit."""
    try:
        return Path(
            snapshot_download(
                repo_id, repo_type="dataset", revision=revision, allow_patterns=["*.parquet", *ROOT_FILES]
            )
        )
    except HUB_FAILURES as error:
        raise CohortError(explain(error, repo_id, "dataset", revision=revision)) from error


def _state(tables: list[Path]) -> str:
    """A hash of the state of local files, to notice changes without reading them."""
    return hashlib.sha256(json.dumps([file_state(path) for path in tables]).encode()).hexdigest()


def _unpacked(root: Path, tables: list[Path], cohort: str, key: str) -> Path:
    """The BIDS folder of a dataset. It is written unless it exists, and never left incomplete.

    Args:
        root: the folder of the dataset.
        tables: the Parquet files in it.
        cohort: the name of the BIDS folder; runs are named after it.
        key: a name for this state of the dataset.
    """
    home = Path(datasets.config.HF_DATASETS_CACHE) / "gloresnet" / "cohorts" / key
    folder = home / cohort
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock"):
        if folder.is_dir():
            return folder
        with replacing_folder(folder) as building:
            try:
                _unpack(tables, building)
            except pa.ArrowException as error:
                reason = " ".join(str(error).split())
                raise CohortError(
                    f"Its Parquet files cannot be read ({reason}): download or create them again."
                ) from error
            for file in ROOT_FILES:
                if (root / file).is_file():
                    shutil.copyfile(root / file, building / file)
    return folder


def _unpack(tables: list[Path], folder: Path) -> None:
    """Write the files of each row to its `anat` folder, and its other columns to `combined.tsv`."""
    columns, lines, seen = _columns(tables), [], set()
    for row in (row for table in tables for row in _rows(table)):
        participant = _id(row, "participant_id").removeprefix("sub-")
        session = _id(row, "session_id").removeprefix("ses-")
        if (participant, session) in seen:
            raise CohortError(f"It has two rows for {name(participant, session)}: remove one of them.")
        seen.add((participant, session))
        stem = f"sub-{participant}" + (f"_ses-{session}" if session else "")
        anat = folder / f"sub-{participant}" / (f"ses-{session}" if session else "") / "anat"
        for column in FILE_COLUMNS:
            if (file := row.get(column)) is not None:
                anat.mkdir(parents=True, exist_ok=True)
                _write_file(anat, stem, column, file)
        lines.append([participant, session or "n/a", *(_cell(row.get(column)) for column in columns)])
    table = [["participant_id", "session_id", *columns], *lines]
    (folder / "combined.tsv").write_text(
        "".join("\t".join(map(quoted, line)) + "\n" for line in table), encoding="utf-8"
    )


def _columns(tables: list[Path]) -> list[str]:
    """The columns to copy to `combined.tsv`. Raises CohortError if a column that training needs is missing."""
    schemas = [pq.read_schema(table) for table in tables]
    names = list(dict.fromkeys(column for schema in schemas for column in schema.names))
    missing = [column for column in ("participant_id", "image") if column not in names]
    missing += [] if set(names) & set(LABEL_COLUMNS) else [f"{', '.join(LABEL_COLUMNS[:-1])} or {LABEL_COLUMNS[-1]}"]
    if missing:
        raise CohortError(f"It has no column {' and no '.join(missing)}; its columns are {', '.join(names)}.")
    for schema in schemas:
        for column in (column for column in FILE_COLUMNS if column in schema.names):
            kind = schema.field(column).type
            if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
                raise CohortError(
                    f"Its column {column} has the type {kind}: store it as the feature Nifti of `datasets`."
                )
    schema = pa.unify_schemas([schema.remove_metadata() for schema in schemas], promote_options="permissive")
    known = {"participant_id", "session_id", "status", *FILE_COLUMNS}
    return [field.name for field in schema if field.name not in known and not pa.types.is_nested(field.type)]


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, one row group in memory at a time."""
    with pq.ParquetFile(table) as file:
        for group in range(file.num_row_groups):
            for batch in file.read_row_group(group).to_batches(max_chunksize=1):
                yield from batch.to_pylist()


def _id(row: dict[str, Any], column: str) -> str:
    text = _cell(row.get(column))
    if column == "session_id" and text.lower() in MISSING:
        return ""
    if text.lower() in MISSING or not ID.fullmatch(text):
        raise CohortError(f"One of its rows has the {column} {text!r}: use only letters, digits, '.', '+' and '-'.")
    return text


def _cell(value: Any) -> str:
    if value is None:
        return "n/a"
    return " ".join(str(int(value) if isinstance(value, bool) else value).split())


def _write_file(anat: Path, stem: str, column: str, file: dict[str, Any]) -> None:
    """Write a file under its original name if that fits this scan and column, otherwise under the usual name."""
    content = file["bytes"]
    if content is None:
        raise CohortError(
            f"The {column} of {stem} is not inside its Parquet files: create the dataset with embedded files."
        )
    given = Path(file.get("path") or "").name
    entities = parse_name(given) if given.startswith(f"{stem}_") else None
    kinds = FILE_COLUMNS[column]
    if entities is None or (entities.get("desc", ""), entities.get("space", ""), entities["suffix"]) not in kinds:
        desc, space, suffix = kinds[0]
        parts = [stem, f"desc-{desc}" if desc else "", f"space-{space}" if space else "", suffix]
        given = "_".join(filter(None, parts)) + (".nii.gz" if content[:2] == GZIP else ".nii")
    (anat / given).write_bytes(content)

"""Take a cohort from where it is: a BIDS folder, a dataset on the Hub, or a folder made by `python -m cohort.to_hub`.

A dataset is unpacked once into a BIDS folder below `gloresnet/cohorts` in the datasets cache (`HF_DATASETS_CACHE`), a
folder for each revision, so that all else works as on a folder of one's own. It may be deleted at any time.
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

from run_folder.files import replacing_folder

from .hub_access import HUB_FAILURES, explain
from .images import IMAGE_NAMES, MASK_NAMES, SEGMENTATION_NAMES, CohortError, parse_name
from .labels import LABEL_COLUMNS, MISSING, name

# a column of files -> the names (desc, space, suffix) that they may have in an `anat` folder, the usual one first
FILE_COLUMNS = {
    "image": IMAGE_NAMES,
    "brain_mask": MASK_NAMES,
    "segmentation": SEGMENTATION_NAMES,
    "lesion_mask": (("lesion", "", "mask"),),  # of phantoms
}
ROOT_FILES = ("dataset_description.json", "truth.tsv")  # what makes a phantom a phantom
HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)(?:@([\w.-]+))?", re.ASCII)
ID = re.compile(r"[A-Za-z0-9.+-]+", re.ASCII)  # an id becomes the name of a folder
GZIP = b"\x1f\x8b"


class OpenedCohort(NamedTuple):
    """A BIDS folder, and what a run's records call it: the folder itself, or ORG/NAME@REVISION."""

    folder: Path
    source: str


def is_hub_name(text: str) -> bool:
    """Whether a text may be a dataset of the Hub, ORG/NAME or ORG/NAME@REVISION, and is no path that exists."""
    return HUB_NAME.fullmatch(text) is not None and not Path(text).exists()


def open_cohort(data_dir: str) -> OpenedCohort:
    """The BIDS folder to read a cohort from, unpacked from its dataset if need be.

    Safe to call from several processes at once: one unpacks, the others wait.

    Args:
        data_dir: a folder, or ORG/NAME[@REVISION] of a dataset on the Hub, for which a folder of that name goes first.

    Raises:
        CohortError: no such dataset, no way to it, or one that is no cohort.
    """
    if not is_hub_name(data_dir):
        folder = Path(data_dir)
        if not (tables := _tables(folder)):
            return OpenedCohort(folder, str(folder.resolve()))
        folder = folder.resolve()
        return OpenedCohort(_unpacked(folder, tables, folder.name, _state(tables)), str(folder))
    owner, dataset, revision = HUB_NAME.fullmatch(data_dir).groups()
    snapshot = _download(f"{owner}/{dataset}", revision)
    source = f"{owner}/{dataset}@{snapshot.name}"
    if not (tables := _tables(snapshot)):
        raise CohortError(f"The dataset {source} has no Parquet file: give one made by `python -m cohort.to_hub`.")
    try:
        return OpenedCohort(_unpacked(snapshot, tables, dataset, f"{owner}-{snapshot.name}"), source)
    except CohortError as error:
        raise CohortError(f"The dataset {source} is no cohort. {error}") from error


def _tables(folder: Path) -> list[Path]:
    """The Parquet files of a dataset; none for a BIDS folder, whatever else lies in it."""
    if not folder.is_dir() or any(folder.glob("sub-*")):
        return []
    return sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])


def _download(repo_id: str, revision: str | None) -> Path:
    """The snapshot of a dataset, its name the commit; what is cached already is not asked for again."""
    try:
        return Path(
            snapshot_download(
                repo_id, repo_type="dataset", revision=revision, allow_patterns=["*.parquet", *ROOT_FILES]
            )
        )
    except HUB_FAILURES as error:
        raise CohortError(explain(error, repo_id, "dataset", revision=revision)) from error


def _state(tables: list[Path]) -> str:
    """What tells one state of local files from another, without reading them."""
    states = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in tables]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


def _unpacked(root: Path, tables: list[Path], cohort: str, key: str) -> Path:
    """The BIDS folder of a dataset: there already, or written beside its place and renamed when whole.

    Args:
        root: folder of the dataset.
        tables: the Parquet files in it.
        cohort: what its BIDS folder is called, and with it the run.
        key: what names this state of the dataset.
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
                raise CohortError(f"Its Parquet files cannot be read ({reason}): get or make them anew.") from error
            for file in ROOT_FILES:
                if (root / file).is_file():
                    shutil.copyfile(root / file, building / file)
    return folder


def _unpack(tables: list[Path], folder: Path) -> None:
    """Write each row's files to its `anat` folder, and all that is said of it to `combined.tsv`."""
    columns, lines, seen = _columns(tables), [], set()
    for row in (row for table in tables for row in _rows(table)):
        participant = _id(row, "participant_id").removeprefix("sub-")
        session = _id(row, "session_id").removeprefix("ses-")
        if (participant, session) in seen:
            raise CohortError(f"It has two rows for {name(participant, session)}: keep one of them.")
        seen.add((participant, session))
        stem = f"sub-{participant}" + (f"_ses-{session}" if session else "")
        anat = folder / f"sub-{participant}" / (f"ses-{session}" if session else "") / "anat"
        for column in FILE_COLUMNS:
            if (file := row.get(column)) is not None:
                anat.mkdir(parents=True, exist_ok=True)
                _write_file(anat, stem, column, file)
        lines.append([participant, session or "n/a", *(_cell(row.get(column)) for column in columns)])
    table = [["participant_id", "session_id", *columns], *lines]
    (folder / "combined.tsv").write_text("".join("\t".join(line) + "\n" for line in table), encoding="utf-8")


def _columns(tables: list[Path]) -> list[str]:
    """The columns that go into the table, of a dataset that has those that training needs."""
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
                raise CohortError(f"Its column {column} is not of the feature Nifti but of the type {kind}.")
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
        raise CohortError(f"One of its rows has the {column} {text!r}, which must be of letters and digits.")
    return text


def _cell(value: Any) -> str:
    if value is None:
        return "n/a"
    return " ".join(str(int(value) if isinstance(value, bool) else value).split())


def _write_file(anat: Path, stem: str, column: str, file: dict[str, Any]) -> None:
    """Write a file under the name it had, if that is one of this scan and column, else under the usual one."""
    content = file["bytes"]
    if content is None:
        raise CohortError(f"The {column} of {stem} is not inside its Parquet files: make the dataset with its files.")
    given = Path(file.get("path") or "").name
    entities = parse_name(given) if given.startswith(f"{stem}_") else None
    kinds = FILE_COLUMNS[column]
    if entities is None or (entities.get("desc", ""), entities.get("space", ""), entities["suffix"]) not in kinds:
        desc, space, suffix = kinds[0]
        parts = [stem, f"desc-{desc}" if desc else "", f"space-{space}" if space else "", suffix]
        given = "_".join(filter(None, parts)) + (".nii.gz" if content[:2] == GZIP else ".nii")
    (anat / given).write_bytes(content)

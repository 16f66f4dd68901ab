"""The label and covariate tables of a cohort, read as text, and the scan that each row belongs to."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from run_folder.files import InputError
from run_folder.tables import read_cells

from .ids import whole
from .images import CohortError, not_fetched, subject_folders
from .images import scan_name as name

LABEL_COLUMNS = ("label", "score_group", "radiology_score")
# other names of the column family_id; train.py's own cohort.csv and predictions.csv have `family`
FAMILY_COLUMNS = dict.fromkeys(("family", "familyid", "family id", "family-id"), "family_id")
MISSING = ("", "n/a", "na", "nan")
GROUPS = {"le2": 0, "ge3": 1}
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
SINGLETONS = {"s": "S", "single": "S", "singleton": "S", "m": "M", "multiple": "M"}


@dataclass(frozen=True)
class LabelRow:
    """One row of a table. Cells are text, "" if empty; column names are lower case."""

    participant_id: str
    session_id: str  # "" if the row names no session
    cells: dict[str, str]
    where: str  # file and row, for messages

    @cached_property
    def score(self) -> str:
        """The radiology score: `1` to `5`, `Q` for poor quality, "" if missing. Raises CohortError for other text."""
        text = self.cells.get("radiology_score", "")
        score = known_score(text)
        if text and not score:
            raise CohortError(
                f"{self.where}: the radiology_score of sub-{self.participant_id} is {text!r}; it must be 1 to 5, Q "
                "(poor quality) or empty."
            )
        return score

    @cached_property
    def label(self) -> int | None:
        """0 normal, 1 injury, None if the row gives no label. Raises CohortError if its columns disagree."""
        found = {}
        if text := self.cells.get("label", ""):
            found["label"] = {"0": 0, "1": 1}.get(whole(text))
        if text := self.cells.get("score_group", ""):
            found["score_group"] = GROUPS.get(text.lower())
        for column, value in found.items():
            if value is None:
                expected = "0 (normal) or 1 (injury)" if column == "label" else "le2 (normal) or ge3 (injury)"
                raise CohortError(
                    f"{self.where}: the {column} of sub-{self.participant_id} is {self.cells[column]!r}; it must be "
                    f"{expected}, or empty."
                )
        if self.score not in ("", "Q"):
            found["radiology_score"] = label_of_score(self.score)
        if len(set(found.values())) > 1:
            cells = " but ".join(f"{column} {self.cells[column]}" for column in found)
            raise CohortError(
                f"{self.where}: sub-{self.participant_id} has {cells}, which contradict each other: correct the row, "
                "or remove the column that does not apply."
            )
        return next(iter(found.values()), None)

    @property
    def is_informative(self) -> bool:
        """Whether the row gives a label or marks the scan as poor quality."""
        return self.label is not None or self.score == "Q"

    def number(self, column: str) -> float | None:
        """A cell as a number, None if empty. Raises CohortError for text that is not a finite number."""
        text = self.cells.get(column, "")
        try:
            number = float(text) if text else None
        except ValueError:
            number = math.nan
        if number is not None and not math.isfinite(number):
            raise CohortError(
                f"{self.where}: the {column} of sub-{self.participant_id} is {text!r}, not a number: correct it, or "
                "leave the cell empty."
            )
        return number


def known_score(text: str) -> str:
    """Normalise a radiology score (`3`, `3.0`, ` 3 `, `q`) to one character; "" for anything else."""
    text = whole(text.strip()).upper()
    return text if text in ("1", "2", "3", "4", "5", "Q") else ""


def label_of_score(score: str) -> int:
    """The class of a dHCP radiology score: 1 and 2 are normal (0), 3 to 5 are injury (1)."""
    return int(int(score) >= 3)


def read_rows(path: str | os.PathLike[str], participant_id: str | None = None) -> list[LabelRow]:
    """Read a table separated by tabs, semicolons or commas; the file's extension does not matter.

    Without a column `family_id`, a column `family` is read as such.

    Args:
        path: a UTF-8 text file; its first line names the columns.
        participant_id: the participant of a `sessions.tsv`, which has a column `session_id` but no `participant_id`.

    Raises:
        CohortError: the file is missing or not a table, lacks the id column, or has a row without id or two rows for
            one scan.
    """
    path = Path(path)
    table = _read_text(path)
    if table.empty and participant_id is None:
        raise CohortError(f"{path} has a header and no rows: add a row for each scan.")
    id_column = "session_id" if participant_id is not None else "participant_id"
    if id_column not in table.columns:
        raise CohortError(f"{path} has no column {id_column}; its columns are {', '.join(table.columns)}.")
    rows: dict[tuple[str, ...], LabelRow] = {}
    for number, cells in enumerate(table.to_dict("records"), start=2):
        if not any(cells.values()):
            continue  # spreadsheets often leave empty lines at the end
        where = f"{path}, row {number}"
        participant = _without(participant_id or cells["participant_id"], "sub-")
        session = "" if cells.get("session_id", "").lower() in MISSING else _without(cells["session_id"], "ses-")
        cells = {column: "" if text.lower() in MISSING else text for column, text in cells.items()}
        if not participant or not cells[id_column]:
            raise CohortError(f"{where} has no {id_column}: fill it in, or remove the row.")
        row = LabelRow(participant, session, cells, where)
        # without a session, two rows may describe two scans of one infant if their scan_age differs
        key = (participant, session) if session else (participant, "", cells.get("scan_age", ""))
        if key in rows:
            raise CohortError(f"{where} is the second row for {name(participant, session)}: keep one of the two.")
        rows[key] = row
    return list(rows.values())


def column_names(columns: Iterable[str], path: str | os.PathLike[str]) -> list[str]:
    """The columns of a table in lower case, with the other names of `family_id` replaced if it is missing.

    Raises:
        CohortError: two columns of `path` have the same name then.
    """
    given = list(columns)
    names = [column.lower() for column in given]
    if "family_id" not in names:
        names = [FAMILY_COLUMNS.get(column, column) for column in names]
    if twice := sorted({column for column in names if names.count(column) > 1}):
        found = [column for column, meaning in zip(given, names, strict=True) if meaning == twice[0]]
        raise CohortError(f"{path} has more than one column {twice[0]} ({', '.join(found)}): keep one of them.")
    return names


def has_labels(rows: list[LabelRow]) -> bool:
    """Whether the table has a label column."""
    return any(column in row.cells for row in rows for column in LABEL_COLUMNS)


def read_tables(root: Path, labels: str | os.PathLike[str] | None) -> tuple[list[list[LabelRow]], list[list[LabelRow]]]:
    """The label tables of a cohort, and all its tables. In both, earlier tables take precedence.

    Args:
        root: the BIDS folder, with its own `sub-X_sessions.tsv`, `combined.tsv` and `participants.tsv`.
        labels: a table of labels that replaces those of the folder.

    Raises:
        CohortError: a table cannot be used, or none has a label column.
    """
    sessions = [folder / f"{folder.name}_sessions.tsv" for folder in subject_folders(root)]
    tree = [[row for path in sessions if _is_there(path) for row in read_rows(path, path.parent.name)]]
    tree += [read_rows(root / file) for file in ("combined.tsv", "participants.tsv") if _is_there(root / file)]
    if labels is not None:
        table = read_rows(Path(labels).expanduser())
        if not has_labels(table):
            raise CohortError(
                f"{labels} has no column label, score_group or radiology_score; its columns are {_columns(table)}."
            )
        return [table], [table, *tree]
    label_tables = [table for table in tree if has_labels(table)]
    if not label_tables:
        columns = f" (columns found: {_columns([row for table in tree for row in table])})" if any(tree) else ""
        raise CohortError(
            f"No labels in {root}: neither sub-*_sessions.tsv nor combined.tsv nor participants.tsv has a column "
            f"label, score_group or radiology_score{columns}; give a table with --labels."
        )
    return label_tables, tree


def assign(
    tables: list[list[LabelRow]], sessions: dict[str, dict[str, float | None]]
) -> dict[tuple[str, str], LabelRow]:
    """Assign each informative row to the scan it labels.

    If an informative row of an infant names its session, the infant's rows without session are ignored. Otherwise a
    row without session labels the infant's only session, or the one with the nearest scan_age.

    Args:
        tables: the rows of each table; earlier tables take precedence.
        sessions: participant -> session -> post-menstrual age at scan in weeks, None if unknown. Includes sessions
            that are only listed in a table.

    Returns:
        (participant, session) -> row. The session is "" for infants without a known session.

    Raises:
        CohortError: two labels contradict each other, two rows of a table label one scan, or it is unclear which scan
            a row labels.
    """
    assigned: dict[tuple[str, str], LabelRow] = {}
    for rows in tables:
        for row in rows:
            if row.session_id and row.is_informative:
                _agree(assigned.setdefault((row.participant_id, row.session_id), row), row)
    by_session = {participant for participant, _ in assigned}
    for rows in tables:
        of_table: dict[tuple[str, str], LabelRow] = {}
        for row in rows:
            if row.session_id or row.participant_id in by_session or not row.is_informative:
                continue
            scan = (row.participant_id, nearest_session(row, sessions.get(row.participant_id, {})))
            if scan in of_table:
                raise CohortError(
                    f"{of_table[scan].where} and {row.where} both label {name(*scan)}: keep one of the two, or add a "
                    "column session_id."
                )
            of_table[scan] = row
            _agree(assigned.setdefault(scan, row), row)
    return assigned


def nearest_session(row: LabelRow, sessions: dict[str, float | None]) -> str:
    """The session that a row without session labels, "" if the infant has none; see `assign`."""
    if len(sessions) < 2:
        return next(iter(sessions), "")
    listed = ", ".join(f"ses-{session}" for session in sorted(sessions))
    complaint = f"{row.where}: sub-{row.participant_id} has {len(sessions)} sessions ({listed}), and"
    advice = "add a column session_id that says which one is labelled."
    age = row.number("scan_age")
    if age is None:
        raise CohortError(f"{complaint} the row has neither session_id nor scan_age: {advice}")
    unknown = sorted(session for session in sessions if sessions[session] is None)
    if unknown:
        raise CohortError(f"{complaint} no table gives the scan_age of ses-{unknown[0]} to compare: {advice}")
    gaps = sorted((abs(known - age), session) for session, known in sessions.items() if known is not None)
    if gaps[1][0] - gaps[0][0] < 1e-6:
        raise CohortError(
            f"{complaint} scan_age {age:g} is as near to ses-{gaps[0][1]} as to ses-{gaps[1][1]}: {advice}"
        )
    return gaps[0][1]


def _columns(rows: list[LabelRow]) -> str:
    return ", ".join(dict.fromkeys(column for row in rows for column in row.cells))


def _agree(first: LabelRow, second: LabelRow) -> None:
    if (first.label, first.score == "Q") != (second.label, second.score == "Q"):
        raise CohortError(
            f"{first.where} and {second.where} contradict each other on sub-{first.participant_id}: correct one, or "
            "give the right labels with --labels."
        )


def _is_there(table: Path) -> bool:
    """Whether a table exists. A broken link counts: to ignore it would lose labels or families without a word."""
    return table.is_file() or table.is_symlink()


def _without(text: str, prefix: str) -> str:
    """A cell without its BIDS prefix, which may be in upper case."""
    return text[len(prefix) :] if text.lower().startswith(prefix) else text


def _read_text(path: Path) -> pd.DataFrame:
    """The cells as stripped text, with column names in lower case; ids keep their leading zeros."""
    if problem := not_fetched(path):
        raise CohortError(problem)
    if not path.is_file():
        raise CohortError(f"There is no table {path}: check the path.")
    try:
        table = read_cells(path).map(str.strip)
    except InputError as error:
        raise CohortError(str(error)) from error
    return table.set_axis(column_names(table.columns, path), axis=1)

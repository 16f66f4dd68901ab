"""The tables of a cohort: labels and covariates, read as text, and which session a row without one speaks of."""

from __future__ import annotations

import csv
import math
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from .images import CohortError

LABEL_COLUMNS = ("label", "score_group", "radiology_score")
MISSING = ("", "n/a", "na", "nan")
GROUPS = {"le2": 0, "ge3": 1}
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
SINGLETONS = {"s": "S", "single": "S", "singleton": "S", "m": "M", "multiple": "M"}


@dataclass(frozen=True)
class LabelRow:
    """A row of a table: its cells as text, "" where empty, under lower-case column names."""

    participant_id: str
    session_id: str  # "" if the table does not name sessions
    cells: dict[str, str]
    where: str  # file and row, for messages

    @cached_property
    def score(self) -> str:
        """The radiology score: `1` to `5`, `Q` for poor quality, "" when there is none. Raises CohortError."""
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
        """0 normal, 1 injury, None when the row does not say. Raises CohortError where its columns disagree."""
        said = {}
        if text := self.cells.get("label", ""):
            said["label"] = {"0": 0, "1": 1}.get(_whole(text))
        if text := self.cells.get("score_group", ""):
            said["score_group"] = GROUPS.get(text.lower())
        for column, value in said.items():
            if value is None:
                expected = "0 (normal) or 1 (injury)" if column == "label" else "le2 (normal) or ge3 (injury)"
                raise CohortError(
                    f"{self.where}: the {column} of sub-{self.participant_id} is {self.cells[column]!r}; it must be "
                    f"{expected}, or empty."
                )
        if self.score not in ("", "Q"):
            said["radiology_score"] = label_of_score(self.score)
        if len(set(said.values())) > 1:
            cells = " but ".join(f"{column} {self.cells[column]}" for column in said)
            raise CohortError(
                f"{self.where}: sub-{self.participant_id} has {cells}, which contradict each other: correct the row, "
                "or remove the column you do not mean."
            )
        return next(iter(said.values()), None)

    @property
    def is_informative(self) -> bool:
        """Whether the row says anything of a scan's class: a label, or that the scan is of poor quality."""
        return self.label is not None or self.score == "Q"

    def number(self, column: str) -> float | None:
        """A cell as a number, None when empty. Raises CohortError for any other text."""
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
    """A radiology score as one character, from `3`, `3.0`, ` 3 ` or `q`; "" for anything else."""
    text = _whole(text.strip()).upper()
    return text if text in ("1", "2", "3", "4", "5", "Q") else ""


def label_of_score(score: str) -> int:
    """dHCP's radiology score as a class: 1 and 2 are normal (0), 3 to 5 injury (1)."""
    return int(int(score) >= 3)


def read_rows(path: str | os.PathLike[str], participant_id: str | None = None) -> list[LabelRow]:
    """Read a table separated by tabs or commas, whatever its name ends in.

    Args:
        path: a text file in UTF-8, its first line naming the columns.
        participant_id: of a `sessions.tsv`, which does not say itself; it must then have a column `session_id`.

    Raises:
        CohortError: no such file, no table, a column missing, a row without id, or two rows for the same scan.
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
            continue  # spreadsheets leave such lines at the end
        where = f"{path}, row {number}"
        participant = (participant_id or cells["participant_id"]).removeprefix("sub-")
        session = "" if cells.get("session_id", "").lower() in MISSING else cells["session_id"].removeprefix("ses-")
        cells = {column: "" if text.lower() in MISSING else text for column, text in cells.items()}
        if not participant or not cells[id_column]:
            raise CohortError(f"{where} has no {id_column}: fill it in, or remove the row.")
        row = LabelRow(participant, session, cells, where)
        # two rows without session may still tell two scans of an infant apart, by their scan_age
        key = (participant, session) if session else (participant, "", cells.get("scan_age", ""))
        if key in rows:
            raise CohortError(f"{where} is the second for {name(participant, session)}: keep one of the two.")
        rows[key] = row
    return list(rows.values())


def has_labels(rows: list[LabelRow]) -> bool:
    """Whether the table has a column that can label a scan."""
    return any(column in row.cells for row in rows for column in LABEL_COLUMNS)


def assign(
    tables: list[list[LabelRow]], sessions: dict[str, dict[str, float | None]]
) -> dict[tuple[str, str], LabelRow]:
    """Which scan each row with a label speaks of.

    A row that names its session wins over those that do not. A row without session labels the infant's only session,
    or the one whose scan_age is nearest.

    Args:
        tables: the rows, the table that wins first.
        sessions: participant -> session -> PMA at scan in weeks if known; on disk or only listed.

    Returns:
        (participant, session) -> row. Rows of infants without any known session are under the session "".

    Raises:
        CohortError: labels that contradict each other, two rows for one scan, or no way to tell which scan is meant.
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
    """The session that a row without one speaks of, "" when the infant has none; see `assign`."""
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


def name(participant_id: str, session_id: str) -> str:
    """A scan's name in messages."""
    return f"sub-{participant_id}" + (f" ses-{session_id}" if session_id else "")


def _agree(first: LabelRow, second: LabelRow) -> None:
    if (first.label, first.score == "Q") != (second.label, second.score == "Q"):
        raise CohortError(
            f"{first.where} and {second.where} contradict each other on sub-{first.participant_id}: correct one, or "
            "give the labels you mean with --labels."
        )


def _whole(text: str) -> str:
    return re.sub(r"\.0*$", "", text)


def _read_text(path: Path) -> pd.DataFrame:
    """Cells as text, stripped; ids keep their leading zeros."""
    if not path.is_file():
        raise CohortError(f"There is no table {path}: check the path.")
    try:
        with open(path, encoding="utf-8-sig") as file:
            head = next((line for line in file if line.strip()), "")
        tabs = "\t" in head
        # header=None: pandas would silently take the first column as index where rows are longer than the header.
        # BIDS tables know no quoting, and a lone quote in a remark must not swallow the lines after it.
        table = pd.read_csv(
            path,
            sep="\t" if tabs else ",",
            quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
            header=None,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
        ).fillna("")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise CohortError(
            f"{path} is not a table ({reason}): save it as text in UTF-8, separated by tabs or commas."
        ) from error
    table = table.map(lambda text: text.strip().removeprefix('"').removesuffix('"').strip() if tabs else text.strip())
    columns = [column.lower() for column in table.iloc[0]]
    twice = sorted({column for column in columns if column and columns.count(column) > 1})
    if twice:
        raise CohortError(f"{path} has more than one column {twice[0]}: keep one of them.")
    return table.iloc[1:].set_axis([column or f"unnamed {i}" for i, column in enumerate(columns)], axis=1)

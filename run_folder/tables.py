"""CSV and TSV tables: written so that no spreadsheet runs a cell, read so that identifiers stay text."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pandas as pd

from .cells import quoted, unquoted
from .files import InputError, require_file

TEXT_COLUMNS = (  # always read as text; any other column becomes numbers if all its cells are numbers or empty
    *("participant_id", "session_id", "family", "radiology_score", "status", "reason", "sex", "singleton"),
    *("image", "mask", "segmentation", "scan", "message", "predicted_label", "warnings"),
)


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV for people: one line per row, text cells as in `quoted`, no index."""
    table, quoting = table.copy(deep=False), csv.QUOTE_MINIMAL
    for name in table.select_dtypes(exclude="number"):
        cells = [quoted(cell) if isinstance(cell, str) else cell for cell in table[name]]
        if cells != table[name].tolist():  # other columns keep their type, and so the way their cells are written
            table[name] = pd.Series(cells, index=table.index, dtype=object)
        if any(isinstance(cell, str) and "\r" in cell for cell in cells):  # a line break, which pandas does not see
            quoting = csv.QUOTE_NONNUMERIC
    text: str = table.to_csv(index=False, lineterminator="\n", quoting=quoting)
    return text


def read_table(path: Path, required: tuple[str, ...] = (), as_text: bool = False) -> pd.DataFrame:
    """Read a table; identifiers stay text ("001" keeps its zeros), empty numeric cells become NaN.

    Args:
        path: the file, see `read_cells`.
        required: columns that must be present.
        as_text: keep every cell as written.

    Raises:
        InputError: the file is missing, unreadable or empty, or it lacks a required column.
    """
    table = read_cells(path)
    absent = [column for column in required if column not in table.columns]
    if absent:
        raise InputError(f"{path} lacks the column(s) {', '.join(absent)}; it has {', '.join(table.columns)}.")
    for column in table.columns:
        if as_text or column in TEXT_COLUMNS:
            continue
        cells = table[column].str.strip()
        numbers = pd.to_numeric(cells.where(~cells.str.lower().isin(["", "na", "n/a", "nan"])), errors="coerce")
        if (numbers.notna() | cells.str.lower().isin(["", "na", "n/a", "nan"])).all():
            table[column] = numbers
    return table


def read_cells(path: Path) -> pd.DataFrame:
    """Read a table separated by tabs, semicolons or commas, every cell as text. The file's extension does not matter.

    The header shows the separator. With semicolons, as spreadsheets in many languages write them, a decimal comma
    becomes a point. The apostrophes of `quoted` are removed.

    Raises:
        InputError: the file is missing, empty or not a table, a row has more cells than the header, or two columns have
            the same name.
    """
    path = Path(path)
    require_file(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            separator = _separator(next((line for line in file if line.strip()), ""))
        # header=None: if rows are longer than the header, pandas would silently use the first column as index.
        # BIDS tables have no quoting, so an unpaired quote in a remark must not merge the following lines.
        table = pd.read_csv(
            path,
            sep=separator,
            quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL,
            header=None,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
        ).fillna("")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is not a table ({reason}): save it as UTF-8 text, separated by tabs, semicolons or commas."
        ) from error
    if separator == "\t":
        table = table.map(lambda text: text.strip(" ").removeprefix('"').removesuffix('"'))
    if separator == ";":
        table = table.map(lambda text: re.sub(r"^(\s*[+-]?\d+),(\d+\s*)$", r"\1.\2", text))
    table = table.map(unquoted)
    columns = [name.strip() or f"unnamed {number}" for number, name in enumerate(table.iloc[0])]
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise InputError(f"{path} has more than one column {twice[0]}: keep one of them.")
    return table.iloc[1:].set_axis(columns, axis=1).reset_index(drop=True)


def _separator(header: str) -> str:
    """The separator of a header line: a tab if there is one, else the first semicolon or comma outside quotes."""
    if "\t" in header:
        return "\t"
    return next((letter for letter in re.sub(r'"[^"]*"', "", header) if letter in ";,"), ",")

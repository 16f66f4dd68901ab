"""CSV and TSV tables, read so that identifiers stay text."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .files import InputError

TEXT_COLUMNS = (  # always read as text; any other column becomes numbers if all its cells are numbers or empty
    *("participant_id", "session_id", "family", "radiology_score", "status", "reason", "sex", "singleton"),
    *("image", "mask", "segmentation", "scan", "message", "predicted_label"),
)


def read_table(path: Path, required: tuple[str, ...] = (), as_text: bool = False) -> pd.DataFrame:
    """Read a CSV or TSV; identifiers stay text ("001" keeps its zeros), empty numeric cells become NaN.

    Args:
        path: the file; a name ending in `.tsv` is tab-separated, any other comma-separated.
        required: columns that must be present.
        as_text: keep every cell as written.

    Raises:
        InputError: the file is missing, unreadable or empty, or it lacks a required column.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is missing.")
    separator = "\t" if path.suffix == ".tsv" else ","
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable table ({error}).") from error
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

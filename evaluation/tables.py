"""The tables of a run folder, read and checked: what every statistic of this package is a function of."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PREDICTION_COLUMNS = (
    "participant_id",
    "session_id",
    "family",
    "fold",
    "label",
    "radiology_score",
    "p_injury",
    "p_injury_no_tta",
)
TEXT_COLUMNS = (  # read as text whatever they hold; every other column is a number when all its cells are
    *("participant_id", "session_id", "family", "radiology_score", "status", "reason", "sex", "singleton"),
    *("image", "mask", "segmentation", "scan", "message", "predicted_label"),
)


class InputError(ValueError):
    """A table or run folder that cannot be evaluated; the message says what was found, where, and what to do."""


def read_table(path: Path, required: tuple[str, ...] = (), as_text: bool = False) -> pd.DataFrame:
    """Read a CSV or TSV; identifiers stay text ("001" keeps its zeros), empty numeric cells become NaN.

    Args:
        path: the file; a name ending in ``.tsv`` is tab-separated, any other comma-separated.
        required: columns that must be there.
        as_text: keep every cell as it is written.

    Raises:
        InputError: missing, unreadable or empty file, or a required column is absent (naming those found).
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


def check_predictions(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Check one or more folds' predictions: one row a scan, labels 0/1, probabilities finite and in [0, 1].

    Returns the table with ``fold`` and ``label`` as integers. Raises InputError naming the first offence.
    """
    if table.empty:
        raise InputError(f"{where} has no rows: no scan was predicted.")
    for column in ("fold", "label", "p_injury", "p_injury_no_tta"):
        if column not in table or not pd.api.types.is_numeric_dtype(table[column]):
            raise InputError(f"{where}: column {column} must hold numbers.")
    for column in ("p_injury", "p_injury_no_tta"):
        values = table[column].to_numpy(float)
        bad = ~(np.isfinite(values) & (values >= 0) & (values <= 1))
        if bad.any():
            row = table.iloc[int(np.flatnonzero(bad)[0])]
            raise InputError(
                f"{where}: {column} of {scan_name(row)} is {row[column]}, not a probability between 0 and 1."
            )
    if not table["label"].isin([0, 1]).all():
        raise InputError(f"{where}: label must be 0 (normal) or 1 (injury), found {sorted(set(table['label']))}.")
    if table["fold"].isna().any():
        raise InputError(f"{where}: a row has no fold.")
    twice = table.duplicated(["participant_id", "session_id"])
    if twice.any():
        raise InputError(
            f"{where}: {scan_name(table[twice].iloc[0])} was predicted more than once; "
            "each scan must be held out exactly once."
        )
    return table.astype({"fold": int, "label": int})


def scan_name(row: Any) -> str:
    """A scan's name for messages and listings: ``sub-X ses-Y`` (without ``ses-`` where there is no session)."""
    session = str(row["session_id"])
    return f"sub-{row['participant_id']}" + (f" ses-{session}" if session not in ("", "nan") else "")


def read_predictions(run_folder: str | os.PathLike[str]) -> pd.DataFrame:
    """All folds' ``predictions.csv`` of a run, one row a scan, ordered by fold then scan.

    Raises:
        InputError: the folder or a fold is missing or partial (naming which), a scan was predicted twice, or a family
            stands in two folds although ``splits.json`` promises family-safe folds.
    """
    run = Path(run_folder)
    if not run.is_dir():
        what = "is a file" if run.exists() else "does not exist"
        raise InputError(f"{run} {what}; give the folder of a run written by train.py (runs/NAME).")
    if not (run / "splits.json").is_file():
        raise InputError(f"{run} is not the folder of a run, or the run has not begun: splits.json is missing.")
    splits = read_json(run / "splits.json")
    num_folds = splits.get("num_folds")
    if not isinstance(num_folds, int) or num_folds < 2:
        raise InputError(
            f"{run / 'splits.json'} does not say how many folds there are (num_folds); the run folder is broken."
        )
    missing = [k for k in range(num_folds) if not (run / f"fold-{k}" / "predictions.csv").is_file()]
    if missing:
        folds = ", ".join(f"fold-{k}/predictions.csv" for k in missing)
        raise InputError(
            f"{run} is not finished: {folds} missing ({num_folds - len(missing)} of {num_folds} folds done); "
            "run the same train.py command again with --fold all to complete it."
        )
    tables = []
    for k in range(num_folds):
        path = run / f"fold-{k}" / "predictions.csv"
        table = check_predictions(read_table(path, PREDICTION_COLUMNS), str(path))
        if set(table["fold"]) != {k}:
            raise InputError(f"{path} holds rows of fold(s) {sorted(set(table['fold']))}; expected only fold {k}.")
        tables.append(table)
    predictions = check_predictions(pd.concat(tables, ignore_index=True), str(run))
    torn = predictions.groupby("family")["fold"].nunique()
    torn = torn[torn > 1]
    if len(torn) and splits.get("rule") == "family":
        raise InputError(
            f"{run}: the family {torn.index[0]} stands in several folds although splits.json says the folds are split "
            "by family; the predictions do not belong to these splits."
        )
    return predictions


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError when it is missing, cut short, or no object."""
    if not path.is_file():
        raise InputError(f"{path} is missing.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); it may have been cut short.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, found {type(content).__name__}.")
    return content


def write_text(path: Path, text: str) -> Path:
    """Write a file beside its place and rename it, so that no reader ever meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
    return path


def write_json(path: Path, content: Any) -> Path:
    """Write strict JSON (no NaN or infinity: undefined values are null), beside then renamed."""
    return write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

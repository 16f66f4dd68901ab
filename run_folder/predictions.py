"""`predictions.csv`: the probability of every held-out scan of a run, read and checked."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd

from .files import InputError, read_json
from .layout import RunFolder
from .tables import read_table

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


def check_predictions(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Check predictions of one or more folds: one row per scan, labels 0 or 1, probabilities in [0, 1].

    Returns the table with `fold` and `label` as integers. Raises InputError that names the first problem.
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
    """A scan's name for messages and lists: `sub-X ses-Y`, or `sub-X` if it has no session."""
    session = str(row["session_id"])
    return f"sub-{row['participant_id']}" + (f" ses-{session}" if session not in ("", "nan") else "")


def read_predictions(run_folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Read `predictions.csv` of every fold of a run: one row per scan, ordered by fold, then as in the file.

    Raises:
        InputError: the folder or a fold is missing or incomplete (the message names it), a scan was predicted twice, or
            a family is in two folds although the rule in `splits.json` keeps families together.
    """
    run = RunFolder(run_folder)
    if not run.path.is_dir():
        what = "is a file" if run.path.exists() else "does not exist"
        raise InputError(f"{run} {what}; give the folder of a run written by train.py (runs/NAME).")
    if not run.splits.is_file():
        raise InputError(f"{run} is not the folder of a run, or the run has not started: {run.splits.name} is missing.")
    splits = read_json(run.splits)
    files = {number: fold.predictions for number, fold in enumerate(run.folds(splits.get("num_folds")))}
    missing = [str(path.relative_to(run.path)) for path in files.values() if not path.is_file()]
    if missing:
        raise InputError(
            f"{run} is not finished: {', '.join(missing)} missing ({len(files) - len(missing)} of {len(files)} folds "
            "done); run the same train.py command again with --fold all to complete it."
        )
    tables = []
    for number, path in files.items():
        table = check_predictions(read_table(path, PREDICTION_COLUMNS), str(path))
        if set(table["fold"]) != {number}:
            found = sorted(set(table["fold"]))
            raise InputError(f"{path} holds rows of fold(s) {found}; expected only fold {number}.")
        tables.append(table)
    predictions = check_predictions(pd.concat(tables, ignore_index=True), str(run))
    folds_per_family = predictions.groupby("family")["fold"].nunique()
    split = folds_per_family[folds_per_family > 1]
    if len(split) and splits.get("rule") in ("family", "site"):
        raise InputError(
            f"{run}: the family {split.index[0]} is in several folds although {run.splits.name} says that folds keep "
            "families together; the predictions do not belong to these splits."
        )
    return predictions

"""Paired comparison of two or more runs on the scans that all of them predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from run_folder.files import InputError
from run_folder.predictions import scan_name

from .study import KEYS, Study
from .uncertainty import (
    DEFAULT_RESAMPLING,
    Interval,
    PairedDifference,
    Resampling,
    bootstrap_metrics,
    paired_auc_difference,
)


@dataclass(frozen=True)
class Comparison:
    """Several runs on their shared scans.

    Attributes:
        names: of the runs, made unique.
        table: ``participant_id, session_id, family, label``, one row per shared scan.
        probabilities, folds: name -> (n,), aligned with the table.
        left_out: name -> number of scans of this run that another run lacks.
        metrics: name -> metrics at threshold 0.5.
        differences: (name a, name b) -> AUC of a minus AUC of b.
        same_folds: whether all runs split the scans into the same folds; if not, their training sets differ too.
    """

    names: tuple[str, ...]
    table: pd.DataFrame
    probabilities: dict[str, np.ndarray]
    folds: dict[str, np.ndarray]
    left_out: dict[str, int]
    metrics: dict[str, dict[str, Interval]]
    differences: dict[tuple[str, str], PairedDifference]
    same_folds: bool


def compare_studies(studies: Sequence[Study], resampling: Resampling = DEFAULT_RESAMPLING) -> Comparison:
    """Compare the probabilities of two or more runs on the scans that all of them predicted.

    Each bootstrap draw takes the same families for both runs of a pair. (DeLong's test assumes independent scans, so
    its intervals would be too narrow.) p-values are not corrected for the number of comparisons.

    Raises:
        InputError: fewer than two runs, no shared scan, or a scan with different labels.
    """
    if len(studies) < 2:
        raise InputError("A comparison needs at least two runs.")
    names = _unique([study.name for study in studies])
    tables = [study.table.set_index(KEYS) for study in studies]
    shared = tables[0].index
    for table in tables[1:]:
        shared = shared.intersection(table.index, sort=False)
    if len(shared) == 0:
        raise InputError(f"The runs {', '.join(names)} have no scan in common; compare runs of the same cohort.")
    tables = [table.loc[shared] for table in tables]
    first = tables[0]
    for name, table in zip(names[1:], tables[1:], strict=True):
        other = (table["label"] != first["label"]).to_numpy()
        if other.any():
            scan = scan_name(first[other].reset_index().iloc[0])
            raise InputError(
                f"{scan} is labelled differently in {names[0]} and {name}; compare runs with the same labels."
            )
    label, family = first["label"].to_numpy(), first["family"].to_numpy()
    probabilities = {name: table["p_injury"].to_numpy() for name, table in zip(names, tables, strict=True)}
    folds = {name: table["fold"].to_numpy() for name, table in zip(names, tables, strict=True)}
    metrics = {
        name: bootstrap_metrics(label, probabilities[name], family, folds=folds[name], resampling=resampling)
        for name in names
    }
    differences = {}
    if len(set(label)) == 2:
        for a, b in combinations(names, 2):
            both = (probabilities[a], probabilities[b])
            differences[a, b] = paired_auc_difference(label, *both, family, resampling=resampling)
    return Comparison(
        names=tuple(names),
        table=first.reset_index()[[*KEYS, "family", "label"]],
        probabilities=probabilities,
        folds=folds,
        left_out={name: len(study.table) - len(first) for name, study in zip(names, studies, strict=True)},
        metrics=metrics,
        differences=differences,
        same_folds=all(_same_partition(folds[names[0]], folds[name]) for name in names),
    )


def _same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = len(set(zip(a.tolist(), b.tolist(), strict=True)))
    return pairs == len(set(a.tolist())) == len(set(b.tolist()))


def _unique(names: list[str]) -> list[str]:
    return [
        name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)
    ]

"""Optimism audit: how much metrics improve if the epoch is chosen on the scans they are reported for.

Varma & Simon 2006 (DOI 10.1186/1471-2105-7-91). Both results come from the same run: training scored the held-out fold
after every epoch, and the audit reads that record (`history.csv`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from run_folder.files import InputError

AUDITED = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1", "mcc", "auc")


@dataclass(frozen=True)
class OptimismAudit:
    """The audit of one run.

    Attributes:
        folds: one row per fold: ``fold, honest_epoch, best_epoch``, and ``honest_*`` and ``best_*`` of each metric (NaN
            if undefined). ``honest`` is the epoch chosen without the scored fold, ``best`` the best one on it.
        summary: one row per metric: ``metric, honest, best, difference, n_folds``; means over the folds that define
            both.
        rule: how the unbiased (``honest``) epoch was chosen: "last" or "inner".
    """

    folds: pd.DataFrame
    summary: pd.DataFrame
    rule: str


def audit_optimism(
    histories: Mapping[int, pd.DataFrame], selections: Mapping[int, Mapping[str, Any]] | None = None
) -> OptimismAudit:
    """Compare the metrics of the unbiased epoch with those of the best epoch on the scored fold.

    The best epoch is the first one with the highest accuracy on the scored fold, as in the authors' code. Its other
    metrics are those of the same epoch, so their difference can be negative.

    Args:
        histories: fold -> its ``history.csv``: ``epoch, val_accuracy`` and other metrics of the scored fold (with
            test-time augmentation, at threshold 0.5).
        selections: fold -> ``{"selection": "last" | "inner" | "paper", "selected_epoch": int}``. The unbiased epoch
            is the selected one for "inner", otherwise the last one (also for "paper").

    Raises:
        InputError: there is no history, or a history lacks rows, ``val_accuracy`` or the selected epoch.
    """
    if not histories:
        raise InputError("There is no history to audit: the run has no fold-K/history.csv.")
    rows = []
    rules = set()
    for fold, history in sorted(histories.items()):
        if history.empty or "val_accuracy" not in history or history["val_accuracy"].isna().any():
            raise InputError(
                f"The history of fold {fold} lacks val_accuracy for some epochs; the audit needs every epoch."
            )
        selection = (selections or {}).get(fold, {})
        inner = selection.get("selection") == "inner"
        rules.add("inner" if inner else "last")
        epoch = int(selection["selected_epoch"]) if inner else int(history["epoch"].max())
        if epoch not in set(history["epoch"]):
            raise InputError(f"The history of fold {fold} has no epoch {epoch}, although it was selected.")
        honest = history[history["epoch"] == epoch].iloc[0]
        best = history.loc[history["val_accuracy"].idxmax()]
        row: dict[str, float] = {"fold": fold, "honest_epoch": epoch, "best_epoch": int(best["epoch"])}
        for metric in AUDITED:
            for name, source in (("honest", honest), ("best", best)):
                value = source.get(f"val_{metric}")
                row[f"{name}_{metric}"] = np.nan if value is None else float(value)
        rows.append(row)
    folds = pd.DataFrame(rows)
    summary = []
    for metric in AUDITED:
        both = folds[[f"honest_{metric}", f"best_{metric}"]].dropna()
        honest, best = both.mean() if len(both) else (np.nan, np.nan)
        summary.append((metric, honest, best, best - honest, len(both)))
    columns = ["metric", "honest", "best", "difference", "n_folds"]
    return OptimismAudit(folds, pd.DataFrame(summary, columns=columns), "inner" if rules == {"inner"} else "last")

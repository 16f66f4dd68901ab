"""How much a figure gains when the epoch is chosen on the very scans it is reported for.

Varma & Simon 2006 (DOI 10.1186/1471-2105-7-91). Both figures come from the same run: the weights of every epoch were
scored on the held-out fold and only the record of it (`history.csv`) is read here.
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
        folds: a row a fold: ``fold, honest_epoch, best_epoch`` and ``honest_*``, ``best_*`` of each metric; NaN where
            undefined.
        summary: a row a metric: ``metric, honest, best, difference`` (means over folds that define both), ``n_folds``.
        rule: how the honest epoch was chosen ("last" or "inner").
    """

    folds: pd.DataFrame
    summary: pd.DataFrame
    rule: str


def audit_optimism(
    histories: Mapping[int, pd.DataFrame], selections: Mapping[int, Mapping[str, Any]] | None = None
) -> OptimismAudit:
    """Set the honest epoch's figures beside those of the best epoch on the scored fold.

    Args:
        histories: fold -> its ``history.csv``: ``epoch, val_accuracy`` ... (scored fold, test-time augmentation,
            threshold 0.5).
        selections: fold -> ``{"selection": "last" | "inner" | "paper", "selected_epoch": int}``. The honest epoch is
            the one selected under "inner"; otherwise, also for a run of the paper's rule, the last one.

    The best epoch is the first of highest accuracy on the scored fold, as the authors' code keeps it. Its other metrics
    are that epoch's too, so a difference can be negative for some: it is the accuracy that was chased.

    Raises:
        InputError: a history without rows or without ``val_accuracy``.
    """
    if not histories:
        raise InputError("There is no history to audit: the run has no fold-K/history.csv.")
    rows = []
    rules = set()
    for fold, history in sorted(histories.items()):
        if history.empty or "val_accuracy" not in history or history["val_accuracy"].isna().any():
            raise InputError(
                f"The history of fold {fold} lacks val_accuracy for some epoch; the audit needs all of them."
            )
        selection = (selections or {}).get(fold, {})
        inner = selection.get("selection") == "inner"
        rules.add("inner" if inner else "last")
        epoch = int(selection["selected_epoch"]) if inner else int(history["epoch"].max())
        if epoch not in set(history["epoch"]):
            raise InputError(f"The history of fold {fold} has no epoch {epoch}, though that one was selected.")
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

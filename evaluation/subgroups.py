"""The same metrics on parts of the cohort: do results depend on one score, one age group or on siblings?

Each part is a subset of the out-of-fold predictions; nothing is trained again. The parts are small and many, so their
intervals are wide and some will look remarkable by chance. Read them together, not one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .uncertainty import DEFAULT_RESAMPLING, Interval, Resampling, bootstrap_metrics

SHOWN = ("auc", "sensitivity", "specificity", "accuracy")


@dataclass(frozen=True)
class Part:
    """One part of the cohort: its metrics with intervals, or a note on why it has none."""

    name: str
    n: int
    n_injury: int
    n_families: int
    metrics: dict[str, Interval]
    note: str = ""


def _score(scans: pd.DataFrame) -> pd.Series:
    return pd.to_numeric(scans["radiology_score"], errors="coerce")


def _one_sibling(scans: pd.DataFrame) -> pd.Series:
    """All scans of one infant per family, the first by id."""
    return scans["participant_id"] == scans.groupby("family")["participant_id"].transform("min")


def _first_session(scans: pd.DataFrame) -> pd.Series:
    """The scan of each infant at the youngest age; by session id if ages are missing."""
    order = scans.sort_values(["participant_id", "scan_age", "session_id"], na_position="last")
    first = order.groupby("participant_id").head(1).index
    return scans.index.to_series().isin(first)


SENSITIVITY_ANALYSES: dict[str, tuple[tuple[str, ...], Callable[[pd.DataFrame], pd.Series]]] = {
    "Score 5 against 1-2": (("radiology_score",), lambda s: _score(s).isin([1, 2, 5])),
    "Score 3 against 1-2": (("radiology_score",), lambda s: _score(s).isin([1, 2, 3])),
    "Without score 4": (("radiology_score",), lambda s: _score(s) != 4),
    "One sibling per family": ((), _one_sibling),
    "First session only": (("scan_age",), _first_session),
    "PMA 37 weeks or more at scan": (("scan_age",), lambda s: s["scan_age"] >= 37),
}

SUBGROUPS: dict[str, tuple[tuple[str, ...], Callable[[pd.DataFrame], pd.Series]]] = {
    "PMA at scan below 34 weeks": (("scan_age",), lambda s: s["scan_age"] < 34),
    "PMA at scan 34 to 36 weeks": (("scan_age",), lambda s: s["scan_age"].between(34, 37, inclusive="left")),
    "PMA at scan 37 weeks or more": (("scan_age",), lambda s: s["scan_age"] >= 37),
    "Born before 28 weeks": (("birth_age",), lambda s: s["birth_age"] < 28),
    "Born at 28 to 31 weeks": (("birth_age",), lambda s: s["birth_age"].between(28, 32, inclusive="left")),
    "Born at 32 to 36 weeks": (("birth_age",), lambda s: s["birth_age"].between(32, 37, inclusive="left")),
    "Born at 37 weeks or later": (("birth_age",), lambda s: s["birth_age"] >= 37),
    "Boys": (("sex",), lambda s: s["sex"] == "M"),
    "Girls": (("sex",), lambda s: s["sex"] == "F"),
}


def _known(scans: pd.DataFrame, columns: tuple[str, ...]) -> bool:
    return all(c in scans and (scans[c].notna() & (scans[c].astype(str) != "")).any() for c in columns)


def evaluate_parts(
    predictions: pd.DataFrame,
    parts: dict[str, tuple[tuple[str, ...], Callable[[pd.DataFrame], pd.Series]]],
    threshold: float | np.ndarray = 0.5,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> list[Part]:
    """Metrics of the whole cohort, then of each part.

    Args:
        predictions: out-of-fold predictions with ``scan_age, birth_age, sex``, one row per scan.
        parts: `SENSITIVITY_ANALYSES` or `SUBGROUPS`: name -> (columns needed, function that selects the scans).
        threshold: one number, or (n,) if the threshold differs by fold.
        resampling: of the bootstrap.

    Returns:
        One `Part` each. A part is left out if the cohort lacks its columns or has no such scan. A part with one class
        or one family has a note instead of metrics. Scans with a missing value are in no part that needs it.
    """
    thresholds = np.broadcast_to(np.asarray(threshold, dtype=np.float64), len(predictions))
    table = predictions.reset_index(drop=True)
    everyone = {"All scans": ((), lambda s: pd.Series(True, index=s.index))}
    results = []
    for name, (columns, rule) in {**everyone, **parts}.items():
        if not _known(table, columns):
            continue
        inside = rule(table).fillna(False).to_numpy(bool)
        part = table[inside]
        if len(part):
            results.append(_part(name, part, thresholds[inside], resampling))
    return results


def _part(
    name: str, part: pd.DataFrame, thresholds: np.ndarray, resampling: Resampling, *, one_class: bool = False
) -> Part:
    """The metrics of some scans, or a note. With `one_class`, scans of one class have the metrics that are defined."""
    n, injured, families = len(part), int(part["label"].sum()), part["family"].nunique()
    metrics, note = {}, ""
    if injured in (0, n):
        note = f"all {n} scans are {'injured' if injured else 'normal'}"
    elif families < 2:
        note = "all scans are of one family"
    if not note or (one_class and families > 1):
        every = bootstrap_metrics(part["label"], part["p_injury"], part["family"], thresholds, resampling=resampling)
        metrics = {metric: every[metric] for metric in SHOWN}
    return Part(name, n, injured, families, metrics, note)


def evaluate_sites(
    predictions: pd.DataFrame,
    threshold: float | np.ndarray = 0.5,
    resampling: Resampling = DEFAULT_RESAMPLING,
    fewest: int = 2,
) -> list[Part]:
    """Metrics of each site, by name; none if fewer than `fewest` sites are known.

    Args:
        predictions: out-of-fold predictions with ``site``, one row per scan. Scans without a site are the last part.
        threshold: one number, or (n,) if the threshold differs by fold.
        resampling: of the bootstrap, over the families of the site.

    Returns:
        One `Part` each. A site of one class has a note and only the metrics that are defined.
    """
    site = predictions["site"].fillna("").astype(str) if "site" in predictions else pd.Series("", predictions.index)
    names = sorted(set(site) - {""})
    if len(names) < fewest:
        return []
    thresholds = np.broadcast_to(np.asarray(threshold, dtype=np.float64), len(predictions))
    results = []
    for name in [*names, *([""] if (site == "").any() else [])]:
        inside = (site == name).to_numpy()
        args = (predictions[inside], thresholds[inside], resampling)
        results.append(_part(name or "no site given", *args, one_class=True))
    return results

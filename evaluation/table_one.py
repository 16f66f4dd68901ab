"""Table 1: characteristics of the normal and the injured scans.

The tests are those that reproduce the p-values of the paper's Table 1: Welch's t-test for measurements, and Pearson's
chi-square test with Yates' correction for proportions (Fisher's exact test if an expected count is below 5). They
assume independent scans, but siblings are not independent. The standardised mean difference does not depend on the
sample size and is the better guide to imbalance (Austin 2009, DOI 10.1080/03610910902859574; values above 0.1 are
usually called noticeable).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

MEASUREMENTS = {
    "birth_age": "Gestational age at birth (weeks)",
    "birth_weight": "Birth weight (kg)",
    "scan_age": "Post-menstrual age at scan (weeks)",
}
PROPORTIONS = [
    ("sex", "Male", "M"),
    ("singleton", "Multiple birth", "M"),
    *((f"has_{modality}", f"{modality} available", "yes") for modality in ("T1w", "FA", "MD")),
]
COLUMNS = ["variable", "normal", "injury", "n_normal", "n_injury", "smd", "p_value", "test"]


def standardised_mean_difference(normal: np.ndarray, injury: np.ndarray) -> float | None:
    """(mean injury - mean normal) / sqrt((variance injury + variance normal) / 2); None if undefined.

    Sample variances (n - 1) for measurements. For 0/1 values use `standardised_proportion_difference`.
    """
    if len(normal) < 2 or len(injury) < 2:
        return None
    return _standardise(
        float(np.mean(injury) - np.mean(normal)), float(np.var(injury, ddof=1) + np.var(normal, ddof=1)) / 2
    )


def standardised_proportion_difference(normal: float, injury: float) -> float | None:
    """(p injury - p normal) / sqrt((sum of p (1 - p)) / 2) of two proportions; None if undefined."""
    return _standardise(injury - normal, (normal * (1 - normal) + injury * (1 - injury)) / 2)


def _standardise(difference: float, variance: float) -> float | None:
    return difference / variance**0.5 if variance > 0 else None


def compare_proportions(counts: np.ndarray) -> tuple[float | None, str]:
    """p-value and name of the test of a 2 x 2 table of counts [[yes, no] normal, [yes, no] injury]."""
    if (counts.sum(axis=0) == 0).any() or (counts.sum(axis=1) == 0).any():
        return None, ""
    expected = stats.contingency.expected_freq(counts)
    if expected.min() < 5:
        return float(stats.fisher_exact(counts).pvalue), "Fisher"
    return float(stats.chi2_contingency(counts, correction=True).pvalue), "chi-square, Yates"


def table_one(scans: pd.DataFrame) -> pd.DataFrame:
    """Table 1 of the scans used.

    Args:
        scans: one row per scan with ``label`` and any of ``birth_age, birth_weight, scan_age, sex, singleton, site``
            and ``has_T1w, has_FA, has_MD`` (yes or no). A column that is missing or empty is left out, and so is
            ``site`` if all scans are of one. Each site is a proportion of its own.

    Returns:
        One row per variable: ``variable``; ``normal`` and ``injury``, as "mean ± SD" or "count (percent)"; ``n_normal``
        and ``n_injury``, the number of scans with a known value; ``smd`` (injury minus normal), ``p_value`` and
        ``test``, which are None or "" if undefined.
    """
    rows: list[Mapping[str, object]] = []
    normal, injury = (scans[scans["label"] == label] for label in (0, 1))
    for column, title in MEASUREMENTS.items():
        if column not in scans or scans[column].isna().all():
            continue
        a, b = (part[column].dropna().to_numpy(float) for part in (normal, injury))
        p_value, test = None, ""
        if min(len(a), len(b)) > 1 and np.var(a) + np.var(b) > 0:
            p_value, test = float(stats.ttest_ind(a, b, equal_var=False).pvalue), "Welch t"
        values = (title, _measured(a), _measured(b), len(a), len(b), standardised_mean_difference(a, b), p_value, test)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    sites = sorted(set(scans["site"].dropna()) - {""}) if "site" in scans else []
    of_sites = [("site", f"Site: {site}", site) for site in sites] if len(sites) > 1 else []
    for column, title, yes in [*PROPORTIONS, *of_sites]:
        if column not in scans or (scans[column].fillna("") == "").all():
            continue
        known = [part[column][part[column].fillna("") != ""] for part in (normal, injury)]
        counts = np.array([[int((part == yes).sum()), int((part != yes).sum())] for part in known])
        p_value, test = compare_proportions(counts)
        smd = None
        if counts.sum(axis=1).min() > 0:
            smd = standardised_proportion_difference(*(counts[:, 0] / counts.sum(axis=1)))
        values = (title, _counted(counts[0]), _counted(counts[1]), *counts.sum(axis=1).tolist(), smd, p_value, test)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"smd": object, "p_value": object})


def _measured(values: np.ndarray) -> str:
    if len(values) == 0:
        return "none known"
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")


def _counted(counts: np.ndarray) -> str:
    return f"{counts[0]} ({100 * counts[0] / counts.sum():.1f} %)" if counts.sum() else "none known"


def score_counts(scans: pd.DataFrame) -> pd.DataFrame:
    """Number of scans, infants and families per radiology score: ``score, label, scans, infants, families``."""
    groups = scans.assign(score=scans["radiology_score"].replace("", "unknown")).groupby(["score", "label"])
    return groups.agg(
        scans=("participant_id", "size"), infants=("participant_id", "nunique"), families=("family", "nunique")
    ).reset_index()


def fold_counts(predictions: pd.DataFrame) -> pd.DataFrame:
    """Number of scans, injured scans, infants and families per fold: ``fold, scans, injury, infants, families``."""
    groups = predictions.groupby("fold")
    return groups.agg(
        scans=("label", "size"),
        injury=("label", "sum"),
        infants=("participant_id", "nunique"),
        families=("family", "nunique"),
    ).reset_index()

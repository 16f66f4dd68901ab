"""Screening metrics: eight from the confusion matrix, two from the ranking of the probabilities.

Definitions follow Metrics Reloaded (DOI 10.1038/s41592-023-02151-z). A scan is called injured if
``probability >= threshold``. An undefined metric (0 / 0) is None, never 0, and ``undefined`` gives the reason.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score

from run_folder.files import read_json, write_json
from run_folder.layout import RunFolder
from run_folder.predictions import read_predictions

METRIC_NAMES = (
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "mcc",
    "auc",
    "average_precision",
)

_NO_INJURY = "no scan is labelled injury"
_NO_NORMAL = "no scan is labelled normal"
_NONE_CALLED_INJURY = "no scan is called injury at this threshold"
_NONE_CALLED_NORMAL = "no scan is called normal at this threshold"


def checked_pair(labels: ArrayLike, probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int64 (n,) and probabilities as float64 (n,), checked.

    Raises:
        ValueError: unequal lengths, no scans, a label other than 0 or 1, or a probability outside [0, 1] or not finite.
    """
    label = np.asarray(labels)
    probability = np.asarray(probabilities, dtype=np.float64)
    if label.ndim != 1 or probability.ndim != 1:
        raise ValueError(
            f"Labels and probabilities must each be one-dimensional, got shapes {label.shape} and {probability.shape}."
        )
    if len(label) != len(probability):
        raise ValueError(f"Labels and probabilities must have equal length, got {len(label)} and {len(probability)}.")
    if len(label) == 0:
        raise ValueError("There are no scans to score: labels and probabilities are empty.")
    if not np.isin(label, (0, 1)).all():
        raise ValueError(f"Labels must be 0 (normal) or 1 (injury), got {sorted(set(label.tolist()) - {0, 1})[:5]}.")
    if not np.isfinite(probability).all():
        raise ValueError(
            f"{int((~np.isfinite(probability)).sum())} of {len(probability)} probabilities are NaN or infinite."
        )
    if probability.min() < 0 or probability.max() > 1:
        raise ValueError(
            f"Probabilities must be in [0, 1], got {probability.min():g} to {probability.max():g}; "
            "pass softmax output, not logits."
        )
    return label.astype(np.int64), probability


def confusion_counts(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> dict[str, int]:
    """Counts ``tn, fp, fn, tp``. Injury (1) is the positive class; it is called if ``probability >= threshold``."""
    label, probability = checked_pair(labels, probabilities)
    called = probability >= threshold
    return {
        "tn": int(np.sum(~called & (label == 0))),
        "fp": int(np.sum(called & (label == 0))),
        "fn": int(np.sum(~called & (label == 1))),
        "tp": int(np.sum(called & (label == 1))),
    }


def metrics_from_counts(tn: int, fp: int, fn: int, tp: int) -> tuple[dict[str, float | None], dict[str, str]]:
    """The eight metrics of a confusion matrix, and the reason why any of them is undefined.

    accuracy = (tp + tn) / n, sensitivity = tp / (tp + fn), specificity = tn / (tn + fp),
    balanced accuracy = (sensitivity + specificity) / 2, ppv = tp / (tp + fp), npv = tn / (tn + fn),
    f1 = 2 tp / (2 tp + fp + fn), mcc = (tp tn - fp fn) / sqrt((tp + fp)(tp + fn)(tn + fp)(tn + fn)).
    """
    reason: dict[str, str] = {}

    def ratio(name: str, numerator: float, denominator: float, why: str) -> float | None:
        if denominator == 0:
            reason[name] = why
            return None
        return float(numerator / denominator)

    one_class = _NO_INJURY if tp + fn == 0 else _NO_NORMAL
    one_call = _NONE_CALLED_INJURY if tp + fp == 0 else _NONE_CALLED_NORMAL
    sensitivity = ratio("sensitivity", tp, tp + fn, _NO_INJURY)
    specificity = ratio("specificity", tn, tn + fp, _NO_NORMAL)
    if sensitivity is None or specificity is None:
        reason["balanced_accuracy"] = one_class
    margins = float(tp + fp) * float(tp + fn) * float(tn + fp) * float(tn + fn)
    values = {
        "accuracy": ratio("accuracy", tp + tn, tn + fp + fn + tp, "there are no scans"),
        "balanced_accuracy": None if sensitivity is None or specificity is None else (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": ratio("ppv", tp, tp + fp, _NONE_CALLED_INJURY),
        "npv": ratio("npv", tn, tn + fn, _NONE_CALLED_NORMAL),
        "f1": ratio("f1", 2 * tp, 2 * tp + fp + fn, f"{_NO_INJURY} and {_NONE_CALLED_INJURY}"),
        "mcc": ratio("mcc", tp * tn - fp * fn, margins**0.5, one_class if 0 in (tp + fn, tn + fp) else one_call),
    }
    return values, reason


def screening_metrics(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> dict[str, Any]:
    """Every screening metric of one set of scans.

    Args:
        labels: (n,) 0 = normal, 1 = injury.
        probabilities: (n,) probability of injury in [0, 1].
        threshold: a scan is called injured if its probability is at least this.

    Returns:
        The ten metrics of ``METRIC_NAMES`` (None where undefined), ``confusion_matrix`` {tn, fp, fn, tp}, ``n``,
        ``threshold`` and ``undefined`` {metric: reason}. All values are plain Python numbers, ready for JSON.
        AUC is the Mann-Whitney probability (ties count half); average precision is sum_k (R_k - R_{k-1}) P_k.

    Raises:
        ValueError: see `checked_pair`; or the threshold is not finite.

    Example:
        >>> screening_metrics([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])["confusion_matrix"]
        {'tn': 1, 'fp': 1, 'fn': 1, 'tp': 1}
    """
    label, probability = checked_pair(labels, probabilities)
    if not np.isfinite(threshold):
        raise ValueError(f"The threshold must be a finite number, got {threshold}.")
    counts = confusion_counts(label, probability, threshold)
    values, undefined = metrics_from_counts(**counts)
    injured = int(label.sum())
    values["auc"] = values["average_precision"] = None
    if 0 < injured < len(label):
        values["auc"] = float(roc_auc_score(label, probability))
    else:
        undefined["auc"] = _NO_INJURY if injured == 0 else _NO_NORMAL
    if injured:
        values["average_precision"] = float(average_precision_score(label, probability))
    else:
        undefined["average_precision"] = _NO_INJURY
    return {
        **values,
        "confusion_matrix": counts,
        "n": len(label),
        "threshold": float(threshold),
        "undefined": undefined,
    }


class ScreeningMetrics(evaluate.Metric):
    """`screening_metrics` as a metric of the `evaluate` library. It needs no network and runs no downloaded code.

    Example:
        >>> metric = ScreeningMetrics()
        >>> metric.add_batch(predictions=[0.1, 0.6], references=[0, 0])
        >>> metric.add_batch(predictions=[0.4, 0.9], references=[1, 1])
        >>> metric.compute(threshold=0.5)["auc"]
        0.75
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Confusion-matrix and ranking metrics of a binary screening test; undefined values are None.",
            citation="https://doi.org/10.1038/s41592-023-02151-z",
            inputs_description="predictions: probability of injury in [0, 1]; references: 0 (normal) or 1 (injury).",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self, predictions: Sequence[float], references: Sequence[int], threshold: float = 0.5
    ) -> dict[str, Any]:
        return screening_metrics(references, predictions, threshold)


def summarise_folds(folds: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Mean and standard deviation (n - 1 in the denominator) of each metric over the folds in which it is defined.

    Returns:
        metric -> {"mean", "sd", "n_defined", "n_folds"}. The mean is None if the metric is undefined in every fold, the
        SD if it is defined in fewer than two.
    """
    if not folds:
        raise ValueError("There are no folds to summarise.")
    summary: dict[str, dict[str, float | int | None]] = {}
    for name in METRIC_NAMES:
        values = [fold[name] for fold in folds if fold.get(name) is not None]
        summary[name] = {
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "n_defined": len(values),
            "n_folds": len(folds),
        }
    return summary


def best_fold(folds: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """The fold to publish and why: highest AUC, then higher accuracy, then lower number.

    An undefined AUC ranks lowest. The best of several folds is chosen on the scored scans, so its metrics are not an
    estimate of performance on new infants; the reason says so.
    """
    if not folds:
        raise ValueError("There are no folds to choose from.")

    def rank(fold: dict[str, Any]) -> tuple[float, float, int]:
        auc, accuracy = fold.get("auc"), fold.get("accuracy")
        return (-np.inf if auc is None else auc, -np.inf if accuracy is None else accuracy, -fold["fold"])

    chosen = max(folds, key=rank)
    number, auc = int(chosen["fold"]), chosen.get("auc")
    if auc is None:
        why = f"no fold has a defined AUC; highest accuracy, {chosen['accuracy']:.3f}"
    else:
        tied = [fold for fold in folds if fold.get("auc") == auc]
        why = f"highest AUC of {len(folds)} folds, {auc:.3f}"
        if len(tied) > 1:
            why += f" (shared by {len(tied)} folds; then higher accuracy, then the lower number)"
    return number, why + "; chosen on the scored scans, so its metrics are optimistic."


def cross_validation_metrics(predictions: pd.DataFrame, threshold: float = 0.5) -> dict[str, Any]:
    """Metrics per fold, their mean ± SD over folds, and metrics of the pooled out-of-fold predictions.

    Args:
        predictions: columns ``fold, label, p_injury``, and optionally ``p_injury_no_tta`` and ``family``.

    Returns:
        ``threshold, num_folds, n, n_injury, n_families, folds`` (one `screening_metrics` each, with ``fold``),
        ``mean_sd`` (`summarise_folds`), ``pooled``, ``pooled_no_tta`` (without test-time augmentation, else None),
        ``best_fold`` and ``best_fold_reason``.

    Note:
        The pooled AUC compares probabilities of different models, so it differs from the mean AUC over folds.
    """
    folds = [
        {"fold": int(fold), **screening_metrics(rows["label"], rows["p_injury"], threshold)}
        for fold, rows in predictions.groupby("fold", sort=True)
    ]
    number, why = best_fold(folds)
    pooled_no_tta = None
    if "p_injury_no_tta" in predictions and predictions["p_injury_no_tta"].notna().all():
        pooled_no_tta = screening_metrics(predictions["label"], predictions["p_injury_no_tta"], threshold)
    return {
        "threshold": float(threshold),
        "num_folds": len(folds),
        "n": len(predictions),
        "n_injury": int(predictions["label"].sum()),
        "n_families": int(predictions["family"].nunique()) if "family" in predictions else None,
        "folds": folds,
        "mean_sd": summarise_folds(folds),
        "pooled": screening_metrics(predictions["label"], predictions["p_injury"], threshold),
        "pooled_no_tta": pooled_no_tta,
        "best_fold": number,
        "best_fold_reason": why,
    }


def write_cv_metrics(run_folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Compute `cross_validation_metrics` of a finished run and write them to ``cv_metrics.json``.

    Adds ``selection``, as recorded for the folds, and ``optimistic``: whether epochs were chosen on the scored fold
    (``--selection paper``).

    Raises:
        InputError: the run is not finished; the message names what is missing.
    """
    run = RunFolder(run_folder)
    result = cross_validation_metrics(read_predictions(run.path))
    selections = {str(read_json(run.fold(fold["fold"]).metrics).get("selection")) for fold in result["folds"]}
    result = {
        "selection": selections.pop() if len(selections) == 1 else ", ".join(sorted(selections)),
        **result,
    }
    result["optimistic"] = "paper" in result["selection"].split(", ")
    write_json(run.cv_metrics, result)
    return result

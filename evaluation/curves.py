"""ROC and precision-recall curves with pointwise bands from a bootstrap of families."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import precision_recall_curve, roc_curve

from .metrics import checked_pair
from .uncertainty import DEFAULT_RESAMPLING, Resampling, bootstrap_weights, family_weights

GRID = np.linspace(0, 1, 101)


def _cumulative(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives (draws, thresholds), by falling threshold."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) < 0])
    positive = np.add.reduceat(weights[:, order] * (labels[order] == 1), starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * (labels[order] == 0), starts, axis=1)
    return np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)


def roc_band(
    labels: ArrayLike,
    probabilities: ArrayLike,
    families: ArrayLike,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> pd.DataFrame:
    """Sensitivity on a grid of false-positive rates: ``false_positive_rate, sensitivity, low, high``.

    ``low`` and ``high`` are pointwise percentiles over draws, not a simultaneous band. Both classes are needed; draws
    of one class are left out.
    """
    label, probability = checked_pair(labels, probabilities)
    rate, sensitivity, _ = roc_curve(label, probability)
    tp, fp = _cumulative(label, probability, family_weights(families, resampling))
    both = (tp[:, -1] > 0) & (fp[:, -1] > 0)
    drawn = np.array(
        [
            np.interp(GRID, np.r_[0, f / f[-1]], np.r_[0, t / t[-1]])  # the upper end of a vertical step
            for t, f in zip(tp[both], fp[both], strict=True)
        ]
    )
    low, high = np.quantile(drawn, resampling.quantiles, axis=0)
    middle = np.interp(GRID, rate, sensitivity)
    return pd.DataFrame({"false_positive_rate": GRID, "sensitivity": middle, "low": low, "high": high})


def precision_recall_band(
    labels: ArrayLike,
    probabilities: ArrayLike,
    families: ArrayLike,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> pd.DataFrame:
    """Precision at the highest threshold that reaches each recall of a grid: ``recall, precision, low, high``."""
    label, probability = checked_pair(labels, probabilities)
    weights = bootstrap_weights(families, resampling)
    tp, fp = _cumulative(label, probability, weights)
    some = tp[:, -1] > 0
    grid = GRID[1:]  # precision is undefined if no scan is called injured
    curves = []
    for t, f in zip(tp[some], fp[some], strict=True):
        reached = np.searchsorted(t / t[-1], grid - 1e-12)
        called = t[reached] + f[reached]
        curves.append(t[reached] / called)
    low, high = np.quantile(np.array(curves[1:]), resampling.quantiles, axis=0)
    return pd.DataFrame({"recall": grid, "precision": curves[0], "low": low, "high": high})


def roc_points(labels: ArrayLike, probabilities: ArrayLike) -> pd.DataFrame:
    """Every operating point: ``false_positive_rate, sensitivity, threshold`` (infinite if no scan is called)."""
    label, probability = checked_pair(labels, probabilities)
    rate, sensitivity, threshold = roc_curve(label, probability, drop_intermediate=False)
    return pd.DataFrame({"false_positive_rate": rate, "sensitivity": sensitivity, "threshold": threshold})


def precision_recall_points(labels: ArrayLike, probabilities: ArrayLike) -> pd.DataFrame:
    """Every operating point: ``recall, precision, threshold``, by falling threshold."""
    label, probability = checked_pair(labels, probabilities)
    precision, recall, threshold = precision_recall_curve(label, probability)
    table = pd.DataFrame({"recall": recall[:-1], "precision": precision[:-1], "threshold": threshold})
    return table.iloc[::-1].reset_index(drop=True)

"""Decision thresholds chosen on inner scans, without the scored fold (`--selection inner`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve

from .metrics import checked_pair

TARGET_SENSITIVITY = 0.90


def _candidates(labels: ArrayLike, probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sensitivity, specificity and threshold of every operating point, by falling threshold.

    A threshold is midway between the lowest probability that it calls injury and the next lower one, so that a new scan
    just below an inner scan is treated like it. The point at which no scan is called is left out.
    """
    label, probability = checked_pair(labels, probabilities)
    if label.min() == label.max():
        raise ValueError("A threshold cannot be chosen on scans of one class; the inner scans must include both.")
    false_positive_rate, sensitivity, called_from = roc_curve(label, probability, drop_intermediate=False)
    called_from = called_from[1:]
    next_lower = np.append(called_from[1:], 0.0)
    return sensitivity[1:], 1 - false_positive_rate[1:], (called_from + next_lower) / 2


def youden_threshold(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The threshold with the highest J = sensitivity + specificity - 1 (Youden 1950, Cancer 3:32).

    Of several, the one with the highest sensitivity, because this is a screening test.

    Raises:
        ValueError: the scans are all of one class, or see `checked_pair`.
    """
    sensitivity, specificity, threshold = _candidates(labels, probabilities)
    youden = sensitivity + specificity
    return float(threshold[np.flatnonzero(youden >= youden.max() - 1e-12)[-1]])


def sensitivity_threshold(
    labels: ArrayLike, probabilities: ArrayLike, sensitivity: float = TARGET_SENSITIVITY
) -> float:
    """The highest threshold with at least this sensitivity.

    Raises:
        ValueError: the target is outside (0, 1], the scans are all of one class, or see `checked_pair`.
    """
    if not 0 < sensitivity <= 1:
        raise ValueError(f"The target sensitivity must be in (0, 1], got {sensitivity}.")
    reached, _, threshold = _candidates(labels, probabilities)
    return float(threshold[np.flatnonzero(reached >= sensitivity - 1e-12)[0]])


def threshold_text(threshold: float, form: str = ".3f") -> str:
    """A threshold as the notes of a report print it, with what a threshold of exactly 0 means.

    A local stream gives exactly 0 to a scan on which it is silent and the global stream sees nothing. If too many
    injured inner scans are such, only the threshold 0 reaches the sensitivity.
    """
    return f"{threshold:{form}}{' (which calls every scan injured)' if threshold == 0 else ''}"

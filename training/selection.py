"""The choice of the epoch, temperature and thresholds on inner scans, which the global stream is not trained on."""

import numpy as np

from evaluation.calibration import fit_temperature
from evaluation.thresholds import sensitivity_threshold, youden_threshold


def select_epoch(history: list[dict], rule: str) -> int:
    """Return the epoch that the rule chooses among those so far; the first one if several are equal.

    Args:
        history: rows with `epoch`, and `val_accuracy` (on the held-out fold) or `inner_loss` (on the inner scans).
        rule: `last`, the last epoch; `inner`, the lowest log loss on the inner scans, which is a proper score and finer
            than accuracy; `paper`, the highest accuracy on the held-out fold, which makes that fold's figures
            optimistic.
    """
    if rule == "last":
        return history[-1]["epoch"]
    if rule == "inner":
        return min(history, key=lambda row: row["inner_loss"])["epoch"]
    return max(history, key=lambda row: row["val_accuracy"])["epoch"]


def fit_on_inner(labels: list[int], views: np.ndarray) -> dict:
    """Fit the temperature on the inner scans, then the thresholds at that temperature.

    Args:
        labels: (n,).
        views: (V, n) probabilities of injury of the test-time views at temperature 1.

    Returns:
        `n`, `temperature`, `threshold_youden`, `threshold_sensitivity_90` (probabilities).
    """
    temperature = fit_temperature(labels, views)
    probabilities = at_temperature(views, temperature).mean(axis=0)
    return {
        "n": len(labels),
        "temperature": temperature,
        "threshold_youden": youden_threshold(labels, probabilities),
        "threshold_sensitivity_90": sensitivity_threshold(labels, probabilities),
    }


def at_temperature(views: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities whose logits were divided by a temperature, from those at temperature 1."""
    clipped = np.clip(views, 1e-7, 1 - 1e-7)
    odds = (clipped / (1 - clipped)) ** (1 / temperature)
    return odds / (1 + odds)

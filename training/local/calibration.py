"""What the answers of the local stream and of the intensity shares are worth, fitted on scores out of sample.

The model is a leaky noisy-or (Henrion 1987): an injury is missed if every voice misses it,

    P(injury) = 1 - (1 - leak) (1 - p_local) (1 - p_shares),    p_local = sigmoid(slope * score + offset).

The leak stands for the injuries that no voice explains. It keeps p_local near 0 for ordinary scans, and is not used
afterwards: the global stream takes its place.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

PENALTY = 1.0  # on half the squared weights of standardised numbers, as in scikit-learn's regression with C = 1
ORDINARY, SHYNESS = -3.0, 4.0  # logit of a voice for an average scan, and how firmly: the leak explains the rest
FLATTEST, STEEPEST = 1e-3, 4.0  # slope per SD of the scores: a perfect separation has a finite fit
STARTS = ((-1.0, -1.0), (-2.0, -3.0), (-3.0, -2.0))  # offsets of the voices; the likelihood has several maxima
_SMALLEST = 1e-6


class Voices(NamedTuple):
    """How scores and shares become probabilities.

    Attributes:
        calibration: slope and offset of p_local = sigmoid(slope * score + offset).
        share_weights: `mean`, `scale` and `weights`, nine numbers each, and `intercept` of
            p_shares = sigmoid(weights . (shares - mean) / scale + intercept).
        leak: the share of injuries that neither explains.
    """

    calibration: list[float]
    share_weights: dict[str, Any]
    leak: float

    def local(self, scores: np.ndarray) -> np.ndarray:
        """p_local of scores (n,)."""
        slope, offset = self.calibration
        return expit(slope * scores + offset)

    def shares(self, shares: np.ndarray) -> np.ndarray:
        """p_shares of intensity shares (n, 9)."""
        mean, scale, weights = (np.array(self.share_weights[name]) for name in ("mean", "scale", "weights"))
        return expit((shares - mean) / scale @ weights + self.share_weights["intercept"])


def fit_voices(labels: Sequence[int], scores: np.ndarray, shares: np.ndarray) -> Voices:
    """Fit both voices and the leak together, by maximum likelihood.

    Args:
        labels: (n,), both classes.
        scores: (n,) highest logit of each scan, from networks that have not seen the scan.
        shares: (n, 9) intensity shares.

    Returns:
        The voices. The slope is never negative: a stream that ranks worse than chance becomes silent.
    """
    label = np.asarray(labels, dtype=np.float64)
    centre, spread = float(np.mean(scores)), float(np.std(scores)) or 1.0
    middle, width = shares.mean(axis=0), shares.std(axis=0)
    width = np.where(width > 1e-6, width, 1.0)
    score, share = (scores - centre) / spread, (shares - middle) / width

    def loss(parameters: np.ndarray) -> float:
        slope, offset, leak, bias, *weights = parameters
        missed = (1 - expit(leak)) * (1 - expit(slope * score + offset)) * (1 - expit(share @ np.array(weights) + bias))
        missed = np.clip(missed, _SMALLEST, 1 - _SMALLEST)
        fit = -(label * np.log(1 - missed) + (1 - label) * np.log(missed)).sum()
        shy = SHYNESS / 2 * ((offset - ORDINARY) ** 2 + (bias - ORDINARY) ** 2)
        return float(fit + PENALTY / 2 * (slope**2 + np.square(weights).sum()) + shy)

    count = shares.shape[1]
    bounds = [(FLATTEST, STEEPEST), (-8.0, 8.0), (-8.0, 8.0), (-8.0, 8.0), *[(-8.0, 8.0)] * count]
    fits = [
        minimize(loss, np.array([1.0, offset, -2.0, bias, *[0.0] * count]), method="L-BFGS-B", bounds=bounds)
        for offset, bias in STARTS
    ]
    slope, offset, leak, bias, *weights = map(float, min(fits, key=lambda fit: fit.fun).x)
    share_weights = {"mean": middle.tolist(), "scale": width.tolist(), "weights": weights, "intercept": bias}
    return Voices([slope / spread, offset - slope * centre / spread], share_weights, float(expit(leak)))


def on_one_scale(shipped: np.ndarray, inner: np.ndarray) -> float:
    """How much higher the shipped networks score than an inner one: the median over scans that neither has seen.

    The mean of several networks has lower extremes than one network.

    Args:
        shipped, inner: (n,) scores of the injured scans of the training part; no network is trained on them.
    """
    return float(np.median(shipped - inner)) if len(shipped) else 0.0

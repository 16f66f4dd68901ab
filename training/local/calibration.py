"""What the answers of the local stream and of the intensity shares are worth, fitted on scores out of sample.

p_local is the probability that the scan has a small injury, if half of the injured scans of the training part have one.
It is fitted on normal scans with and without painted injuries, so it depends on no label of an injured scan: a score
means the same in every fold, where the few injured scans of a fold would give each fold a scale of its own.

The intensity shares join it in a leaky noisy-or (Henrion 1987): an injury is missed if every voice misses it,

    P(injury) = 1 - (1 - leak) (1 - p_local) (1 - p_shares).

The leak stands for the injuries that no voice explains. It keeps p_shares near 0 for ordinary scans, and is not used
afterwards: the global stream takes its place, see `local_gloresnet.fuse`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

PENALTY = 1.0  # on half the squared weights of standardised numbers, as in scikit-learn's regression with C = 1
ORDINARY, SHYNESS = -3.0, 4.0  # logit of p_shares for an average scan, and how firmly: the leak explains the rest
FLATTEST, STEEPEST = 1e-3, 4.0  # slope per SD of the scores: a perfect separation has a finite fit
STARTS = (-1.0, -3.0)  # intercepts of p_shares; the likelihood has several maxima
SMALL = 0.5  # share of the injured scans whose injury is small
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


def fit_local(normal: np.ndarray, painted: np.ndarray, injured: float) -> list[float]:
    """Slope and offset of p_local, by logistic regression of painted against unpainted scans.

    Args:
        normal: (n,) highest logit of each normal scan, from a network that has not seen it.
        painted: (n, m) the same with injuries painted into it, drawn m times.
        injured: share of the injured among the scans of the training part, above 0 and below 1.

    Returns:
        The slope, which is never negative, and the offset.
    """
    every = np.concatenate([normal, painted.ravel()])
    centre, spread = float(every.mean()), float(every.std()) or 1.0
    plain, spotted = (normal - centre) / spread, (painted - centre) / spread

    def loss(parameters: np.ndarray) -> float:
        slope, offset = parameters
        fit = np.logaddexp(0, slope * plain + offset).sum()
        fit += np.logaddexp(0, -slope * spotted - offset).mean(axis=1).sum()  # each scan counts once
        return float(fit + PENALTY / 2 * slope**2)

    slope, offset = minimize(
        loss, np.array([1.0, 0.0]), method="L-BFGS-B", bounds=[(FLATTEST, STEEPEST), (-8.0, 8.0)]
    ).x
    small = SMALL * injured  # the regression saw as many scans with small injuries as without
    return [float(slope) / spread, float(offset - slope * centre / spread + logit(small))]


def fit_shares(labels: Sequence[int], p_local: np.ndarray, shares: np.ndarray) -> tuple[dict[str, Any], float]:
    """Fit p_shares and the leak next to p_local, by maximum likelihood.

    Args:
        labels: (n,), both classes.
        p_local: (n,) of scores out of sample.
        shares: (n, 9) intensity shares.

    Returns:
        `Voices.share_weights`, and the leak.
    """
    label = np.asarray(labels, dtype=np.float64)
    middle, width = shares.mean(axis=0), shares.std(axis=0)
    width = np.where(width > 1e-6, width, 1.0)
    share = (shares - middle) / width

    def loss(parameters: np.ndarray) -> float:
        leak, bias, *weights = parameters
        missed = (1 - expit(leak)) * (1 - p_local) * (1 - expit(share @ np.array(weights) + bias))
        missed = np.clip(missed, _SMALLEST, 1 - _SMALLEST)
        fit = -(label * np.log(1 - missed) + (1 - label) * np.log(missed)).sum()
        return float(fit + PENALTY / 2 * np.square(weights).sum() + SHYNESS / 2 * (bias - ORDINARY) ** 2)

    count = shares.shape[1]
    fits = [
        minimize(loss, np.array([-2.0, bias, *[0.0] * count]), method="L-BFGS-B", bounds=[(-8.0, 8.0)] * (count + 2))
        for bias in STARTS
    ]
    leak, bias, *weights = map(float, min(fits, key=lambda fit: fit.fun).x)
    weights_of = {"mean": middle.tolist(), "scale": width.tolist(), "weights": weights, "intercept": bias}
    return weights_of, float(expit(leak))


def on_one_scale(shipped: np.ndarray, inner: np.ndarray) -> float:
    """How much higher the shipped networks score than an inner one: the median over scans that neither has seen.

    The mean of several networks has lower extremes than one network.

    Args:
        shipped, inner: (n,) scores of the injured scans of the training part; no network is trained on them.
    """
    return float(np.median(shipped - inner)) if len(shipped) else 0.0

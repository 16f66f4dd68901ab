"""Calibration (does a probability of 0.3 mean three in ten?), temperature scaling, and net benefit of decisions.

Van Calster 2019 (DOI 10.1186/s12916-019-1466-7) for calibration in the large, slope and curve; Vickers 2006
(DOI 10.1177/0272989X06295361) for net benefit; Guo 2017 (arXiv 1706.04599) for temperature scaling.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss, roc_auc_score
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.nonparametric.smoothers_lowess import lowess
from statsmodels.stats.proportion import proportion_confint
from statsmodels.tools import add_constant

from .metrics import checked_pair
from .uncertainty import (
    DEFAULT_RESAMPLING,
    Interval,
    Resampling,
    bootstrap_weights,
    family_weights,
    percentile_interval,
)

CLIP = 1e-6  # probabilities are clipped to [CLIP, 1 - CLIP] before taking a logit
DECISION_THRESHOLDS = np.round(np.arange(0.10, 0.6001, 0.01), 2)


@dataclass(frozen=True)
class Calibration:
    """Brier score, calibration in the large (intercept at slope 1) and slope; a perfect model has intercept 0, slope 1.

    ``brier_reference`` is the Brier score of always predicting the prevalence. ``undefined`` gives the reason for each
    missing value.
    """

    brier: Interval
    brier_reference: float
    intercept: Interval
    slope: Interval
    undefined: dict[str, str]


def calibration(
    labels: ArrayLike,
    probabilities: ArrayLike,
    families: ArrayLike,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> Calibration:
    """Brier score, calibration intercept and calibration slope of the given probabilities.

    Brier = mean (p - y)^2, with an interval from a bootstrap of families. Intercept a: logit P(y) = a + logit p. Slope
    b: logit P(y) = a' + b logit p. Both are fitted by maximum likelihood (statsmodels), with Wald intervals from a
    covariance clustered on families. A slope below 1 means that probabilities are too extreme, as with overfitting.
    """
    label, probability = checked_pair(labels, probabilities)
    weights = bootstrap_weights(families, resampling)
    brier = weights @ (probability - label) ** 2 / weights.sum(axis=1)
    assert np.isclose(brier[0], brier_score_loss(label, probability))
    prevalence = float(label.mean())
    undefined: dict[str, str] = {}
    missing = Interval(None, None, None, 0, resampling.level)
    intercept = slope = missing
    log_odds = logit(np.clip(probability, CLIP, 1 - CLIP))
    if label.min() == label.max():
        undefined["intercept"] = undefined["slope"] = "all scans are of one class"
    else:
        intercept = _clustered_fit(label, np.ones((len(label), 1)), families, resampling.level, offset=log_odds)
        auc = roc_auc_score(label, probability)
        if np.ptp(log_odds) == 0:
            undefined["slope"] = "all scans have the same probability"
        elif auc in (0.0, 1.0):
            undefined["slope"] = "the probabilities separate the classes perfectly, so the slope is unbounded"
        else:
            slope = _clustered_fit(label, add_constant(log_odds), families, resampling.level)
    brier_interval = percentile_interval(brier[0], brier[1:], resampling)
    return Calibration(brier_interval, prevalence * (1 - prevalence), intercept, slope, undefined)


def _clustered_fit(
    label: np.ndarray, design: np.ndarray, families: ArrayLike, level: float, offset: np.ndarray | None = None
) -> Interval:
    """Last coefficient of a logistic regression, with a Wald interval from a covariance clustered on families."""
    groups = np.unique(np.asarray(families).astype(str), return_inverse=True)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GLM(label, design, family=Binomial(), offset=offset)
        if len(np.unique(groups)) > design.shape[1]:
            fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups})
            low, high = fit.conf_int(alpha=1 - level)[-1]
        else:
            fit, low, high = model.fit(), np.nan, np.nan
    known = np.isfinite([low, high]).all()
    return Interval(float(fit.params[-1]), float(low) if known else None, float(high) if known else None, 0, level)


def reliability_table(labels: ArrayLike, probabilities: ArrayLike, bins: int = 5) -> pd.DataFrame:
    """Scans sorted by probability into ``bins`` groups of nearly equal size, with the injured share of each.

    Returns:
        One row per group: ``low, high`` (range of the probabilities), ``n, n_injury, mean_probability``, ``observed``
        (injured share) and ``observed_low, observed_high`` (its Wilson 95 % interval). Scans of equal probability stay
        in one group, so there may be fewer groups.
    """
    label, probability = checked_pair(labels, probabilities)
    if bins < 1:
        raise ValueError(f"At least one bin is needed, got {bins}.")
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, bins + 1)))
    group = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, max(len(edges) - 2, 0))
    rows = []
    for k in np.unique(group):
        p, y = probability[group == k], label[group == k]
        low, high = proportion_confint(int(y.sum()), len(y), method="wilson")
        rows.append((p.min(), p.max(), len(p), int(y.sum()), p.mean(), y.mean(), low, high))
    columns = ["low", "high", "n", "n_injury", "mean_probability", "observed", "observed_low", "observed_high"]
    return pd.DataFrame(rows, columns=columns)


def smooth_calibration(labels: ArrayLike, probabilities: ArrayLike, fraction: float = 0.75) -> pd.DataFrame:
    """Calibration curve without bins: lowess of the label on the probability. Columns ``probability, observed``."""
    label, probability = checked_pair(labels, probabilities)
    curve = lowess(label, probability, frac=fraction, it=0)
    table = pd.DataFrame(curve, columns=["probability", "observed"]).groupby("probability", as_index=False).mean()
    return table.assign(observed=table["observed"].clip(0, 1)).dropna()


def fit_temperature(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The temperature T that minimises the log loss of p = mean over views of sigmoid(logit(p_v) / T).

    T is searched between 0.05 and 20.

    Args:
        labels: (n,), of scans used neither for training nor for the final scores.
        probabilities: (n,) probability of injury at T = 1, or (views, n) for several test-time views. With two classes,
            softmax(z / T)[1] = sigmoid((z1 - z0) / T) and z1 - z0 = logit(p), so this is what `predict_proba` computes.

    Returns:
        T > 1 softens the probabilities, T < 1 sharpens them. T = 1 if the scans do not determine it: they have one
        class, or the loss has no minimum inside the search range (as when all scans are classified correctly).
    """
    views = np.atleast_2d(np.asarray(probabilities, dtype=np.float64))
    for view in views:
        label, _ = checked_pair(labels, view)
    if label.min() == label.max():
        return 1.0
    log_odds = logit(np.clip(views, CLIP, 1 - CLIP))

    def log_loss(log_temperature: float) -> float:
        p = np.clip(expit(log_odds / np.exp(log_temperature)).mean(axis=0), CLIP, 1 - CLIP)
        return float(-np.mean(label * np.log(p) + (1 - label) * np.log1p(-p)))

    bounds = np.log(0.05), np.log(20.0)
    found = minimize_scalar(log_loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x)) if min(abs(found.x - bound) for bound in bounds) > 1e-3 else 1.0


def decision_curve(
    labels: ArrayLike,
    probabilities: ArrayLike,
    families: ArrayLike | None = None,
    thresholds: ArrayLike = DECISION_THRESHOLDS,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> pd.DataFrame:
    """Net benefit per scan of acting if p >= t, compared with acting on all scans and on none.

    Net benefit at t = tp / n - fp / n * t / (1 - t): true positives minus false positives weighted by the odds of t.

    Returns:
        One row per threshold: ``threshold, model, treat_all, treat_none`` and, if families are given, ``model_low,
        model_high`` (percentile interval from a bootstrap of families).
    """
    label, probability = checked_pair(labels, probabilities)
    grid = np.asarray(thresholds, dtype=np.float64)
    if not ((grid > 0) & (grid < 1)).all():
        raise ValueError("Decision thresholds must be strictly between 0 and 1.")
    odds = grid / (1 - grid)
    called = probability[:, None] >= grid  # (n, thresholds)
    gain = called * np.where(label[:, None] == 1, 1.0, -odds)  # contribution of each scan
    prevalence = label.mean()
    table = pd.DataFrame(
        {
            "threshold": grid,
            "model": gain.mean(axis=0),
            "treat_all": prevalence - (1 - prevalence) * odds,
            "treat_none": 0.0,
        }
    )
    if families is not None:
        weights = family_weights(families, resampling)
        drawn = weights @ gain / weights.sum(axis=1, keepdims=True)
        quantiles = np.round(resampling.quantiles, 12)  # exactly 0.025 and 0.975 at 95 %
        table["model_low"], table["model_high"] = np.quantile(drawn, quantiles, axis=0)
    return table

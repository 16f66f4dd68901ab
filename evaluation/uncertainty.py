"""Confidence intervals, paired differences and permutation nulls, with the family as the sampling unit.

Scans of siblings, and repeated scans of one infant, are not independent, so whole families are resampled (cluster
bootstrap: Davison & Hinkley 1997, section 3.8, DOI 10.1017/CBO9780511802843). Cross-validated predictions also vary
with the training sets. Resampling the scored scans does not show that variation (DOI
10.1016/j.neuroimage.2017.06.061), so the intervals are a lower bound of the uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from .metrics import checked_pair
from .resampling import DEFAULT_RESAMPLING, PERMUTATIONS, Resampling


@dataclass(frozen=True)
class Interval:
    """A statistic and its interval. ``low`` and ``high`` are None if the statistic is undefined in too many draws."""

    estimate: float | None
    low: float | None
    high: float | None
    draws: int  # bootstrap draws in which the statistic was defined
    level: float = 0.95

    def __str__(self) -> str:
        """For example "0.830 (0.750 to 0.900)"; or "0.830 (no interval)", or "undefined"."""
        return format(self, ".3f")

    def __format__(self, spec: str) -> str:
        """As `str`, with each number formatted by `spec`: `f"{interval:.2f}"` is "0.83 (0.75 to 0.90)"."""
        return self._formatted(spec or ".3f", "")

    def with_level(self) -> str:
        """As `str`, for running text: "0.830 (95 % CI 0.750 to 0.900)"."""
        return self._formatted(".3f", f"{100 * self.level:g} % CI ")

    def _formatted(self, spec: str, level: str) -> str:
        if self.estimate is None:
            return "undefined"
        estimate = format(self.estimate, f"z{spec}")  # z: no "-0.00"
        if self.low is None or self.high is None:
            return f"{estimate} (no interval)"
        return f"{estimate} ({level}{self.low:z{spec}} to {self.high:z{spec}})"


def family_weights(families: ArrayLike, resampling: Resampling = DEFAULT_RESAMPLING) -> np.ndarray:
    """How often each scan appears in each bootstrap draw of whole families.

    Returns:
        float64 (draws, n). All scans of a family have the same count; the counts of the families sum to the number of
        families in each draw.
    """
    name, member = np.unique(np.asarray(families).astype(str), return_inverse=True)
    random = np.random.default_rng(resampling.seed)
    counts = random.multinomial(len(name), np.full(len(name), 1 / len(name)), size=resampling.draws)
    return counts[:, member].astype(np.float64)


def bootstrap_weights(families: ArrayLike, resampling: Resampling = DEFAULT_RESAMPLING) -> np.ndarray:
    """A row of ones, for the observed scans, followed by `family_weights`: (1 + draws, n)."""
    drawn = family_weights(families, resampling)
    return np.vstack([np.ones((1, drawn.shape[1])), drawn])


def weighted_auc(labels: ArrayLike, scores: ArrayLike, weights: np.ndarray) -> np.ndarray:
    """ROC AUC under many weightings: sum_ij u_i v_j ([s_i > s_j] + [s_i = s_j] / 2) / (sum u sum v).

    Here u are the weights of the injured scans and v those of the normal scans.

    Args:
        labels, scores: (n,).
        weights: (draws, n), such as from `family_weights`.

    Returns:
        (draws,), NaN where a draw has only one class.
    """
    label, score = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])  # first scan of each group of ties
    positive = np.add.reduceat(weights[:, order] * (label[order] == 1), starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * (label[order] == 0), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (positive * (below + negative / 2)).sum(axis=1) / pairs, np.nan)


def weighted_average_precision(labels: ArrayLike, scores: ArrayLike, weights: np.ndarray) -> np.ndarray:
    """Average precision, sum_k (R_k - R_{k-1}) P_k over descending distinct scores, under many weightings: (draws,)."""
    label, score = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) < 0])
    positive = np.add.reduceat(weights[:, order] * (label[order] == 1), starts, axis=1)
    called = np.cumsum(np.add.reduceat(weights[:, order], starts, axis=1), axis=1)
    total = positive.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, np.cumsum(positive, axis=1) / called, 0.0)
        return np.where(total > 0, (positive * precision).sum(axis=1) / total, np.nan)


def weighted_within_fold_auc(labels: ArrayLike, scores: ArrayLike, folds: ArrayLike, weights: np.ndarray) -> np.ndarray:
    """AUC over pairs of scans of the same fold, so that probabilities of two models are never compared: (draws,).

    AUC = concordant pairs, summed over folds / pairs, summed over folds.
    """
    label, fold = np.asarray(labels), np.asarray(folds)
    concordant, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for k in np.unique(fold):
        inside = fold == k
        part = weights[:, inside]
        of_fold = (part * (label[inside] == 1)).sum(axis=1) * (part * (label[inside] == 0)).sum(axis=1)
        auc = weighted_auc(label[inside], np.asarray(scores)[inside], part)
        concordant += np.where(of_fold > 0, np.nan_to_num(auc) * of_fold, 0.0)
        pairs += of_fold
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, concordant / pairs, np.nan)


def weighted_screening_metrics(
    labels: ArrayLike, scores: ArrayLike, weights: np.ndarray, threshold: float | np.ndarray = 0.5
) -> dict[str, np.ndarray]:
    """The ten metrics of `metrics.METRIC_NAMES` under many weightings: name -> (draws,), NaN where undefined.

    ``threshold`` is one number, or (n,) if the threshold differs by fold.
    """
    label, score = checked_pair(labels, scores)
    called = score >= threshold
    tp, fp = weights @ (called & (label == 1)), weights @ (called & (label == 0))
    fn, tn = weights @ (~called & (label == 1)), weights @ (~called & (label == 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        return {
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "mcc": (tp * tn - fp * fn) / np.sqrt(margins),
            "auc": weighted_auc(label, score, weights),
            "average_precision": weighted_average_precision(label, score, weights),
        }


def percentile_interval(
    estimate: float | None, draws: np.ndarray, resampling: Resampling = DEFAULT_RESAMPLING
) -> Interval:
    """Percentile interval over the draws in which the statistic is defined; none if fewer than half of them are."""
    defined = draws[np.isfinite(draws)]
    if estimate is None or not np.isfinite(estimate):
        return Interval(None, None, None, len(defined), resampling.level)
    if len(defined) < max(2, len(draws) / 2):
        return Interval(float(estimate), None, None, len(defined), resampling.level)
    low, high = np.quantile(defined, resampling.quantiles)
    return Interval(float(estimate), float(low), float(high), len(defined), resampling.level)


def bootstrap_metrics(
    labels: ArrayLike,
    probabilities: ArrayLike,
    families: ArrayLike,
    threshold: float | np.ndarray = 0.5,
    folds: ArrayLike | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> dict[str, Interval]:
    """Every metric with its percentile interval from a bootstrap of families.

    Args:
        labels, probabilities, families: (n,).
        threshold: one number, or (n,) if thresholds were chosen separately for each fold.
        folds: (n,); adds ``within_fold_auc`` (`weighted_within_fold_auc`).

    Returns:
        metric -> `Interval`. If the estimate is at a bound (an AUC of 1, a sensitivity of 0), every draw gives the same
        value. The interval then has zero width, and the true value may well be outside it.
    """
    label, probability = checked_pair(labels, probabilities)
    weights = bootstrap_weights(families, resampling)
    values = weighted_screening_metrics(label, probability, weights, threshold)
    if folds is not None:
        values["within_fold_auc"] = weighted_within_fold_auc(label, probability, folds, weights)
    return {name: percentile_interval(each[0], each[1:], resampling) for name, each in values.items()}


@dataclass(frozen=True)
class PairedDifference:
    """AUC of two models on the same scans, the difference a - b with its interval, and a two-sided p-value."""

    auc_a: float
    auc_b: float
    difference: Interval
    p_value: float


def paired_auc_difference(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    families: ArrayLike,
    resampling: Resampling = DEFAULT_RESAMPLING,
    folds: ArrayLike | None = None,
) -> PairedDifference:
    """Difference of two AUCs on the same scans. Each draw takes the same families for both models.

    With ``folds``, both AUCs compare only scans of the same fold (`weighted_within_fold_auc`).
    p = 2 min(share of draws <= 0, share of draws >= 0), where share = (1 + count) / (1 + draws).

    Raises:
        ValueError: the scans are all of one class, or see `checked_pair`.
    """
    label, a = checked_pair(labels, scores_a)
    label, b = checked_pair(labels, scores_b)
    weights = bootstrap_weights(families, resampling)
    if folds is None:
        auc_a, auc_b = weighted_auc(label, a, weights), weighted_auc(label, b, weights)
    else:
        auc_a, auc_b = (weighted_within_fold_auc(label, score, folds, weights) for score in (a, b))
    if not np.isfinite(auc_a[0]):
        raise ValueError("AUC is undefined: all scans are of one class.")
    difference = auc_a - auc_b
    defined = difference[1:][np.isfinite(difference[1:])]
    tails = [(1 + np.sum(defined <= 0)) / (1 + len(defined)), (1 + np.sum(defined >= 0)) / (1 + len(defined))]
    return PairedDifference(
        float(auc_a[0]),
        float(auc_b[0]),
        percentile_interval(difference[0], difference[1:], resampling),
        float(min(1.0, 2 * min(tails))),
    )


def permute_labels(labels: ArrayLike, families: ArrayLike, permutations: int, seed: int = 0) -> np.ndarray:
    """Labels permuted over families: (permutations, n).

    Families of equal size exchange their labels, and labels are shuffled within each family (whole-block and
    within-block exchange, DOI 10.1016/j.neuroimage.2015.05.092). This keeps the number of injured scans and the
    similarity of siblings. If no other family has the same size, a family keeps its labels in a new order.
    """
    label = np.asarray(labels)
    family = np.asarray(families).astype(str)
    random = np.random.default_rng(seed)
    blocks: dict[int, list[np.ndarray]] = {}
    for name in np.unique(family):
        scans = np.flatnonzero(family == name)
        blocks.setdefault(len(scans), []).append(scans)
    permuted = np.empty((permutations, len(label)), dtype=label.dtype)
    for members in blocks.values():
        scans = np.stack(members)  # (families of this size, size)
        rows = np.argsort(random.random((permutations, len(scans))), axis=1)
        values = label[scans][rows]  # (permutations, families, size)
        values = np.take_along_axis(values, np.argsort(random.random(values.shape), axis=2), axis=2)
        permuted[:, scans.ravel()] = values.reshape(permutations, -1)
    return permuted


def permutation_p_value(observed: float, null: ArrayLike) -> float:
    """One-sided p = (1 + null values >= observed) / (1 + null values); DOI 10.2202/1544-6115.1585."""
    values = np.asarray(null, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        raise ValueError("The null distribution is empty: the statistic is undefined in every permutation.")
    return float((1 + np.sum(values >= observed - 1e-12)) / (1 + len(values)))


def fixed_prediction_null(
    labels: ArrayLike,
    probabilities: ArrayLike,
    families: ArrayLike,
    folds: ArrayLike,
    threshold: float = 0.5,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Null distribution for fixed predictions: labels are permuted over families and no model is refitted.

    It shows which values these probabilities reach by chance. Cross-validation also biases results below chance when
    labels carry no signal. This null does not show that bias, because the models keep their training labels; runs
    trained on permuted labels do.

    Returns:
        ``pooled_accuracy, mean_accuracy, pooled_auc, mean_auc`` (means are over folds), each (permutations,). A fold
        that has one class in a permutation does not count in the mean AUC of that permutation.
    """
    label, probability = checked_pair(labels, probabilities)
    permuted = permute_labels(label, families, permutations, seed)
    called = (probability >= threshold).astype(int)
    right = permuted == called
    auc = _auc_of_many_labels(permuted, probability)
    fold = np.asarray(folds)
    each = [fold == k for k in np.unique(fold)]
    by_fold = np.stack([_auc_of_many_labels(permuted[:, inside], probability[inside]) for inside in each])
    counted = np.isfinite(by_fold).sum(axis=0)
    mean_auc = np.where(counted > 0, np.nansum(by_fold, axis=0) / np.maximum(counted, 1), np.nan)
    return {
        "pooled_accuracy": right.mean(axis=1),
        "mean_accuracy": np.mean([right[:, inside].mean(axis=1) for inside in each], axis=0),
        "pooled_auc": auc,
        "mean_auc": mean_auc,
    }


def _auc_of_many_labels(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """AUC of one score for many sets of labels (draws, n), from ranks (Mann-Whitney): (draws,)."""
    positives = labels.sum(axis=1)
    negatives = labels.shape[1] - positives
    with np.errstate(invalid="ignore", divide="ignore"):
        u = labels @ rankdata(scores) - positives * (positives + 1) / 2
        return np.where(positives * negatives > 0, u / (positives * negatives), np.nan)

"""Intervals, differences and nulls over families, checked with loops, DeLong, binomials and exact enumeration."""

import time
from itertools import permutations as all_orders

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from evaluation.metrics import METRIC_NAMES, screening_metrics
from evaluation.uncertainty import (
    Interval,
    Resampling,
    bootstrap_metrics,
    bootstrap_weights,
    family_weights,
    fixed_prediction_null,
    paired_auc_difference,
    percentile_interval,
    permutation_p_value,
    permute_labels,
    weighted_auc,
    weighted_average_precision,
    weighted_screening_metrics,
    weighted_within_fold_auc,
)


def make_scans(n=128, families=108, signal=1.2, seed=0):
    random = np.random.default_rng(seed)
    family = np.r_[np.arange(families), random.choice(families, n - families, replace=False)]
    label = (random.random(n) < 0.42).astype(int)
    probability = 1 / (1 + np.exp(-(random.normal(size=n) + signal * label - 0.5)))
    return label, np.round(probability, 2), family


def test_weights_draw_whole_families():
    family = np.array(["a", "a", "b", "c", "c", "c"])
    weights = family_weights(family, Resampling(500, 3))
    assert np.array_equal(weights[:, 0], weights[:, 1]) and np.array_equal(weights[:, 3], weights[:, 5])
    assert np.all(weights[:, 0] + weights[:, 2] + weights[:, 3] == 3)
    assert np.array_equal(weights, family_weights(family, Resampling(500, 3)))
    assert not np.array_equal(weights, family_weights(family, Resampling(500, 4)))


def test_weighted_statistics_equal_scikit_learn_on_the_repeated_scans():
    label, probability, family = make_scans(40, 32)
    weights = family_weights(family, Resampling(25, 1))
    fast = weighted_screening_metrics(label, probability, weights)
    for draw, weight in enumerate(weights.astype(int)):
        repeated, p = np.repeat(label, weight), np.repeat(probability, weight)
        assert fast["auc"][draw] == pytest.approx(roc_auc_score(repeated, p))
        assert fast["average_precision"][draw] == pytest.approx(average_precision_score(repeated, p))
        slow = screening_metrics(repeated, p)
        for name in METRIC_NAMES:
            assert fast[name][draw] == pytest.approx(slow[name] if slow[name] is not None else np.nan, nan_ok=True)


def test_weighted_statistics_are_nan_where_a_draw_has_one_class():
    weights = np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    assert np.isnan(weighted_auc([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], weights)).all()
    precision = weighted_average_precision([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], weights)
    assert np.isnan(precision[0]) and precision[1] == 1.0


def test_within_fold_auc_ignores_pairs_across_folds():
    # the model of fold 1 predicts 0.5 more for every scan; within each fold, the ranking is perfect
    label, folds = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    probability = np.array([0.1, 0.2, 0.6, 0.7])
    one = np.ones((1, 4))
    assert weighted_auc(label, probability, one)[0] == 0.75
    assert weighted_within_fold_auc(label, probability, folds, one)[0] == 1.0
    # a fold of one class adds no pairs
    assert weighted_within_fold_auc([0, 1, 1, 1], probability, folds, one)[0] == 1.0


def test_two_thousand_draws_are_quick_and_repeatable():
    label, probability, family = make_scans()
    start = time.perf_counter()
    first = bootstrap_metrics(label, probability, family, folds=np.arange(128) % 5, resampling=Resampling(2000, 7))
    assert time.perf_counter() - start < 5
    assert first == bootstrap_metrics(
        label, probability, family, folds=np.arange(128) % 5, resampling=Resampling(2000, 7)
    )
    assert first["auc"].draws == 2000 and first["auc"].low < first["auc"].estimate < first["auc"].high
    assert first["auc"].estimate == pytest.approx(roc_auc_score(label, probability))


def test_interval_of_a_proportion_is_binomial_for_families_of_one():
    label = np.repeat([0, 1], [100, 100])
    probability = np.r_[np.repeat([0.1, 0.9], [80, 20]), np.repeat([0.1, 0.9], [30, 70])]
    accuracy = bootstrap_metrics(label, probability, np.arange(200), resampling=Resampling(20000, 0))["accuracy"]
    low, high = stats.binom(200, 0.75).ppf([0.025, 0.975]) / 200
    assert (accuracy.low, accuracy.high) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))


def test_interval_is_wider_if_siblings_are_identical():
    label, probability, _ = make_scans(100, 100)
    twice = np.r_[label, label], np.r_[probability, probability]
    alone = bootstrap_metrics(*twice, np.arange(200))["auc"]
    pairs = bootstrap_metrics(*twice, np.tile(np.arange(100), 2))["auc"]
    single = bootstrap_metrics(label, probability, np.arange(100))["auc"]
    assert (pairs.high - pairs.low) == pytest.approx(single.high - single.low, rel=0.02)
    assert (pairs.high - pairs.low) / (alone.high - alone.low) == pytest.approx(np.sqrt(2), rel=0.08)


def test_coverage_of_the_auc_interval_with_twins():
    # the true AUC of N(1,1) against N(0,1) is Phi(1/sqrt 2); twins share half of their variance and their label
    random = np.random.default_rng(0)
    true, hits, repeats = stats.norm.cdf(1 / np.sqrt(2)), 0, 150
    for _ in range(repeats):
        label = np.repeat(random.permutation(np.repeat([0, 1], [35, 35])), 2)
        shared = np.repeat(random.normal(size=70), 2)
        score = np.sqrt(0.5) * shared + np.sqrt(0.5) * random.normal(size=140) + label
        family = np.repeat(np.arange(70), 2)
        draws = weighted_auc(label, score, family_weights(family, Resampling(300, int(random.integers(1 << 30)))))
        interval = percentile_interval(0.5, draws)
        hits += interval.low <= true <= interval.high
    assert 0.89 <= hits / repeats <= 0.99


def test_an_undefined_metric_has_no_interval():
    result = bootstrap_metrics([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], [0, 1, 2, 3], resampling=Resampling(200))
    assert result["ppv"].estimate is None and result["ppv"].low is None and str(result["ppv"]) == "undefined"
    assert result["auc"].draws < 200  # draws of one class are not counted


def test_an_interval_formats_itself():
    interval = Interval(0.8304, 0.75, 1.0, draws=100)
    assert str(interval) == f"{interval}" == "0.830 (0.750 to 1.000)" and f"{interval:.2f}" == "0.83 (0.75 to 1.00)"
    assert interval.with_level() == "0.830 (95 % CI 0.750 to 1.000)"
    assert Interval(0.8, 0.7, 0.9, 100, level=0.9).with_level() == "0.800 (90 % CI 0.700 to 0.900)"
    assert str(Interval(-0.0001, -0.25, 0.1, 100)) == "0.000 (-0.250 to 0.100)"
    assert f"{Interval(0.8, None, None, 3):.1f}" == "0.8 (no interval)"
    assert str(Interval(None, None, None, 0)) == Interval(None, None, None, 0).with_level() == "undefined"


def test_resampling_settings():
    assert Resampling() == Resampling(draws=2000, seed=0, level=0.95)
    assert Resampling(level=0.9).quantiles == pytest.approx((0.05, 0.95))
    label, probability, family = make_scans()
    wide, narrow = (
        bootstrap_metrics(label, probability, family, resampling=Resampling(200, 0, k)) for k in (0.95, 0.5)
    )
    assert wide["auc"].low < narrow["auc"].low < narrow["auc"].high < wide["auc"].high
    weights = bootstrap_weights(family, Resampling(20, 1))
    assert (weights[0] == 1).all() and np.array_equal(weights[1:], family_weights(family, Resampling(20, 1)))
    with pytest.raises(ValueError, match="At least one bootstrap draw"):
        Resampling(draws=0)


def delong_difference_se(label, a, b):
    """Standard error by DeLong 1988 (DOI 10.2307/2531595), from the structural components."""
    pos, neg = label == 1, label == 0

    def components(score):
        wins = (score[pos][:, None] > score[neg]) + 0.5 * (score[pos][:, None] == score[neg])
        return wins.mean(axis=1), wins.mean(axis=0)

    (a10, a01), (b10, b01) = components(a), components(b)
    return np.sqrt(np.var(a10 - b10, ddof=1) / pos.sum() + np.var(a01 - b01, ddof=1) / neg.sum())


def test_paired_difference_agrees_with_delong_for_families_of_one():
    random = np.random.default_rng(5)
    label = random.integers(0, 2, 300)
    common = random.normal(size=300) + label
    a = 1 / (1 + np.exp(-(common + 0.3 * random.normal(size=300))))
    b = 1 / (1 + np.exp(-(common + 1.5 * random.normal(size=300))))
    result = paired_auc_difference(label, a, b, np.arange(300), resampling=Resampling(4000))
    assert result.difference.estimate == pytest.approx(roc_auc_score(label, a) - roc_auc_score(label, b))
    half_width = stats.norm.ppf(0.975) * delong_difference_se(label, a, b)
    assert (result.difference.high - result.difference.low) / 2 == pytest.approx(half_width, rel=0.06)
    z = result.difference.estimate / (half_width / stats.norm.ppf(0.975))
    assert result.p_value == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.01)


def test_paired_difference_of_a_model_with_itself_is_zero():
    label, probability, family = make_scans()
    result = paired_auc_difference(label, probability, probability, family)
    assert (result.difference.estimate, result.difference.low, result.difference.high) == (0, 0, 0)
    assert result.p_value == 1.0
    with pytest.raises(ValueError, match="one class"):
        paired_auc_difference([1, 1], [0.1, 0.2], [0.3, 0.1], [0, 1])


def test_permutation_keeps_families_together():
    family = np.array(["a", "a", "b", "b", "c", "c", "d", "e", "f"])
    label = np.array([1, 1, 0, 0, 0, 0, 1, 0, 0])
    permuted = permute_labels(label, family, 3000, seed=1)
    assert np.all(permuted.sum(axis=1) == 3)
    twins, single = permuted[:, :6].reshape(-1, 3, 2), permuted[:, 6:]
    assert np.all(twins[:, :, 0] == twins[:, :, 1])  # twins with equal labels keep equal labels
    assert np.all(single.sum(axis=1) == 1)
    assert twins[:, :, 0].mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.04)
    assert single.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.04)


def test_permutation_shuffles_within_a_family_of_unique_size():
    permuted = permute_labels([1, 0, 0, 1], ["a", "a", "a", "b"], 2000, seed=0)
    assert np.all(permuted[:, 3] == 1) and np.all(permuted[:, :3].sum(axis=1) == 1)
    assert permuted[:, :3].mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.04)


def test_p_value_counts_the_observed_among_the_permutations():
    assert permutation_p_value(1.0, [0.1, 0.2, 0.3]) == 0.25
    assert permutation_p_value(0.2, [0.1, 0.2, 0.3, np.nan]) == 0.75
    with pytest.raises(ValueError, match="empty"):
        permutation_p_value(0.5, [np.nan])


def test_permutation_p_value_approaches_the_exact_one():
    label, score = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0.1, 0.4, 0.2, 0.5, 0.3, 0.9, 0.8])
    observed = roc_auc_score(label, score)
    exact = np.mean([roc_auc_score(order, score) >= observed for order in set(all_orders(label.tolist()))])
    null = [roc_auc_score(order, score) for order in permute_labels(label, np.arange(7), 3000)]
    assert permutation_p_value(observed, null) == pytest.approx(exact, abs=0.02)


def test_fixed_prediction_null_equals_a_loop():
    label, probability, family = make_scans(50, 42)
    folds = np.arange(50) % 5
    null = fixed_prediction_null(label, probability, family, folds, permutations=20, seed=2)
    for i, row in enumerate(permute_labels(label, family, 20, seed=2)):
        inside = [folds == k for k in range(5)]
        right = row == (probability >= 0.5)
        assert null["pooled_auc"][i] == pytest.approx(roc_auc_score(row, probability))
        assert null["pooled_accuracy"][i] == pytest.approx(right.mean())
        assert null["mean_accuracy"][i] == pytest.approx(np.mean([right[k].mean() for k in inside]))
        defined = [roc_auc_score(row[k], probability[k]) for k in inside if 0 < row[k].sum() < k.sum()]
        assert null["mean_auc"][i] == pytest.approx(np.mean(defined))
    assert null["pooled_auc"].mean() == pytest.approx(0.5, abs=0.08)

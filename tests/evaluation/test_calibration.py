"""Calibration, temperature, thresholds and net benefit, checked with statsmodels, scikit-learn and by hand."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss, roc_curve

from evaluation.calibration import (
    calibration,
    decision_curve,
    fit_temperature,
    reliability_table,
    smooth_calibration,
)
from evaluation.thresholds import sensitivity_threshold, youden_threshold
from evaluation.uncertainty import Resampling


def calibrated(n=4000, seed=0):
    random = np.random.default_rng(seed)
    log_odds = random.normal(scale=1.5, size=n)
    return (random.random(n) < expit(log_odds)).astype(int), log_odds


def test_calibrated_probabilities_have_intercept_zero_and_slope_one():
    label, log_odds = calibrated()
    result = calibration(label, expit(log_odds), np.arange(len(label)), resampling=Resampling(200))
    assert result.intercept.low < 0 < result.intercept.high
    assert result.slope.low < 1 < result.slope.high
    assert result.brier.estimate == pytest.approx(brier_score_loss(label, expit(log_odds)))
    assert result.brier.low < result.brier.estimate < result.brier.high < result.brier_reference


def test_known_distortion_is_recovered_and_equals_statsmodels_logit():
    label, log_odds = calibrated()
    distorted = expit(2 * log_odds + 1)  # twice too extreme: slope 1/2
    result = calibration(label, distorted, np.arange(len(label)), resampling=Resampling(50))
    assert result.slope.estimate == pytest.approx(0.5, abs=0.05)
    fit = sm.Logit(label, sm.add_constant(logit(distorted))).fit(disp=0)
    assert result.slope.estimate == pytest.approx(fit.params[1], abs=1e-6)
    shifted = calibration(label, expit(log_odds + 1), np.arange(len(label)), resampling=Resampling(50))
    assert shifted.intercept.estimate == pytest.approx(-1, abs=0.1)


def test_interval_of_the_slope_is_clustered_on_families():
    label, log_odds = calibrated(300)
    once = calibration(label, expit(log_odds), np.arange(300), resampling=Resampling(50)).slope
    twice = calibration(
        np.tile(label, 2), np.tile(expit(log_odds), 2), np.tile(np.arange(300), 2), resampling=Resampling(50)
    ).slope
    assert twice.high - twice.low == pytest.approx(once.high - once.low, rel=0.02)


@pytest.mark.parametrize(
    ("label", "probability", "missing", "reason"),
    [
        ([0, 0, 0], [0.1, 0.2, 0.3], {"slope", "intercept"}, "one class"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], {"slope"}, "perfectly"),
        ([0, 1, 0, 1], [0.4, 0.4, 0.4, 0.4], {"slope"}, "same probability"),
    ],
)
def test_undefined_calibration_says_why(label, probability, missing, reason):
    result = calibration(label, probability, np.arange(len(label)), resampling=Resampling(50))
    assert set(result.undefined) == missing and reason in result.undefined["slope"]
    assert result.slope.estimate is None


def test_reliability_table_by_hand():
    probability = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    label = np.array([0, 0, 1, 0, 1, 0, 1, 1])
    table = reliability_table(label, probability, bins=2)
    assert table["n"].tolist() == [4, 4] and table["n_injury"].tolist() == [1, 3]
    assert table["mean_probability"].tolist() == pytest.approx([0.25, 0.75])
    # the Wilson interval of 1 in 4, from its formula
    z, n, p = 1.959964, 4, 0.25
    centre, half = (p + z**2 / (2 * n)), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)]
    assert table.loc[0, ["observed_low", "observed_high"]].tolist() == pytest.approx(expected, abs=1e-5)


def test_reliability_table_with_ties_and_a_single_value():
    table = reliability_table([0, 1, 1, 0, 1], [0.2, 0.2, 0.2, 0.2, 0.9], bins=5)
    assert table["n"].sum() == 5 and table["n"].tolist() == [4, 1]
    assert reliability_table([0, 1], [0.5, 0.5])["n"].tolist() == [2]


def test_smooth_calibration_follows_the_diagonal():
    label, log_odds = calibrated(2000)
    curve = smooth_calibration(label, expit(log_odds))
    middle = curve[curve["probability"].between(0.2, 0.8)]
    assert np.abs(middle["observed"] - middle["probability"]).max() < 0.07


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(true):
    label, log_odds = calibrated(20000)
    assert fit_temperature(label, expit(log_odds * true)) == pytest.approx(true, rel=0.05)


def test_temperature_minimises_the_log_loss_of_the_averaged_views():
    label, log_odds = calibrated(400)
    random = np.random.default_rng(1)
    views = expit(2.5 * log_odds + random.normal(size=(2, 400)))

    def loss(temperature):
        return log_loss(label, expit(logit(views) / temperature).mean(axis=0))

    found = fit_temperature(label, views)
    assert loss(found) <= min(loss(t) for t in np.linspace(0.3, 8, 300)) + 1e-7
    assert fit_temperature([1, 1], [0.4, 0.9]) == 1.0  # nothing to fit


def test_temperature_is_1_if_all_calls_are_right_or_all_are_wrong():
    assert fit_temperature([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.7]) == 1.0
    assert fit_temperature([0, 0, 1, 1], [0.9, 0.6, 0.4, 0.3]) == 1.0


def test_youden_threshold_is_the_best_of_the_curve_and_between_two_scores():
    random = np.random.default_rng(2)
    label = np.r_[0, 1, random.integers(0, 2, 58)]
    probability = np.round(expit(random.normal(size=60) + label), 2)
    rate, sensitivity, _ = roc_curve(label, probability)
    tn, fp, fn, tp = confusion_matrix(label, probability >= youden_threshold(label, probability)).ravel()
    assert tp / (tp + fn) + tn / (tn + fp) == pytest.approx(1 + (sensitivity - rate).max())
    assert youden_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx(0.4)


def test_sensitivity_threshold_is_the_highest_that_reaches_the_target():
    label = np.r_[np.zeros(10, int), np.ones(10, int)]
    probability = np.r_[np.linspace(0.05, 0.5, 10), np.linspace(0.35, 0.8, 10)]
    threshold = sensitivity_threshold(label, probability, 0.9)
    assert threshold == pytest.approx((0.4 + 0.35) / 2)  # calls nine of ten injured scans; the tenth is at 0.35
    assert np.mean(probability[label == 1] >= threshold) == 0.9
    assert sensitivity_threshold(label, probability, 1.0) < 0.35
    with pytest.raises(ValueError, match="one class"):
        sensitivity_threshold([1, 1], [0.4, 0.5])
    with pytest.raises(ValueError, match="target sensitivity"):
        sensitivity_threshold(label, probability, 0)


def test_decision_curve_by_hand():
    label, probability = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.3, 0.6, 0.2, 0.1])
    table = decision_curve(label, probability, thresholds=[0.2, 0.5])
    # at 0.2: tp 2, fp 2; at 0.5: tp 1, fp 1
    assert table["model"].tolist() == pytest.approx([2 / 5 - 2 / 5 * 0.25, 1 / 5 - 1 / 5])
    assert table["treat_all"].tolist() == pytest.approx([0.4 - 0.6 * 0.25, 0.4 - 0.6])
    assert table["treat_none"].tolist() == [0, 0]


def test_decision_curve_of_a_perfect_model_is_the_prevalence():
    label = np.repeat([0, 1], [60, 40])
    table = decision_curve(label, np.where(label == 1, 0.95, 0.05), np.arange(100), resampling=Resampling(500))
    assert len(table) == 51 and table["threshold"].iloc[[0, -1]].tolist() == [0.1, 0.6]
    assert table["model"].to_numpy() == pytest.approx(0.4)
    assert (table["model_low"] < 0.4).all() and (table["model_high"] > 0.4).all()

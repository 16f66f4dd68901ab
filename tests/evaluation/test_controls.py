"""Controls use nothing of the held-out fold, and `fit_many` reaches the optimum of scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from evaluation.controls import (
    _Folds,
    covariate_features,
    evaluate_control,
    evaluate_controls,
    majority_probabilities,
    measured_features,
)
from evaluation.logistic import fit_many
from evaluation.uncertainty import Resampling, permute_labels


@pytest.mark.parametrize(("n", "d", "penalty"), [(40, 1, 1.0), (40, 6, 1.0), (100, 9, 0.1), (30, 4, 100.0)])
def test_many_sets_of_labels_reach_scikit_learns_optimum(n, d, penalty):
    random = np.random.default_rng(n + d)
    features = random.normal(size=(n, d))
    labels = (random.random((6, n)) < 0.4).astype(int)
    labels[0] = features[:, 0] > 0  # separable: only the penalty keeps the weights finite
    weights, converged = fit_many(features, labels, penalty)
    assert converged.all()
    for row, weight in zip(labels, weights, strict=True):
        fit = LogisticRegression(C=penalty, class_weight="balanced", tol=1e-10, max_iter=10000).fit(features, row)
        assert weight == pytest.approx(np.r_[fit.coef_[0], fit.intercept_], abs=2e-4)


def test_permuted_aucs_equal_refitting_one_by_one(cohort_table):
    table = cohort_table(n=60, twin_pairs=10)
    features = covariate_features(table)["GA, birth weight, sex"]
    fitted = _Folds(features, table["fold"], table["family"])
    labellings = permute_labels(table["label"], table["family"], 5, seed=1)
    slow = [roc_auc_score(row, fitted.predict(row)) for row in labellings]
    assert fitted.permuted_auc(labellings) == pytest.approx(slow, abs=0.005)


def test_covariates_with_gaps():
    table = pd.DataFrame({"sex": ["M", "F", ""], "birth_age": [30.0, np.nan, 31.0], "label": [0, 1, 0]})
    features = covariate_features(table)
    assert list(features) == ["GA, birth weight, sex"]  # the table has no scan_age
    expected = np.array([[30, np.nan, 1], [np.nan, np.nan, 0], [31, np.nan, np.nan]])
    assert np.array_equal(features["GA, birth weight, sex"], expected, equal_nan=True)


def test_held_out_labels_are_never_seen(cohort_table):
    table = cohort_table(n=60, twin_pairs=5)
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 3))
    fitted = _Folds(features, table["fold"], table["family"])
    before = fitted.predict(table["label"].to_numpy())
    held_out = table["fold"] == 2
    turned = np.where(held_out, 1 - table["label"], table["label"])
    after = fitted.predict(turned)
    assert after[held_out] == pytest.approx(before[held_out])
    assert not np.allclose(after[~held_out], before[~held_out])


def test_scale_and_imputation_come_from_the_training_part(cohort_table):
    table = cohort_table(n=60, twin_pairs=5)
    features = np.random.default_rng(0).normal(size=(60, 2))
    held_out = (table["fold"] == 0).to_numpy()
    far = features.copy()
    far[np.flatnonzero(held_out)[0]] = 1e6  # an outlier in the held-out fold must not change other scans
    label = table["label"].to_numpy()
    a, b = (_Folds(each, table["fold"], table["family"]).predict(label) for each in (features, far))
    assert b[np.flatnonzero(held_out)[1:]] == pytest.approx(a[np.flatnonzero(held_out)[1:]])


def test_a_predictive_feature_is_found_and_noise_is_not(cohort_table):
    table = cohort_table(n=100, twin_pairs=15)
    random = np.random.default_rng(3)
    predictive = table[["label"]].to_numpy() + random.normal(scale=0.5, size=(100, 1))
    good = evaluate_control("good", table, predictive, 200, resampling=Resampling(300))
    noise = evaluate_control("noise", table, random.normal(size=(100, 2)), 200, resampling=Resampling(300))
    assert good.metrics["auc"].estimate > 0.85 and good.p_value == pytest.approx(1 / 201)
    assert noise.p_value > 0.02 and 0.3 < noise.metrics["auc"].estimate < 0.7
    assert noise.null.mean() < 0.5  # cross-validation pulls the null below 0.5
    assert noise.difference.difference.estimate == pytest.approx(noise.difference.auc_a - noise.difference.auc_b)


def test_majority_predicts_the_share_of_the_training_part():
    label, fold = np.array([0, 0, 0, 1, 1, 0]), np.array([0, 0, 1, 1, 2, 2])
    assert majority_probabilities(label, fold).tolist() == [0.5, 0.5, 0.25, 0.25, 0.25, 0.25]


def test_with_many_features_the_penalty_is_chosen_on_inner_folds(cohort_table):
    table = cohort_table(n=80, twin_pairs=8)
    random = np.random.default_rng(0)
    features = random.normal(size=(80, 60)) + 0.35 * table["label"].to_numpy()[:, None]
    control = evaluate_control("encoder", table, features, resampling=Resampling(200))
    assert control.metrics["auc"].estimate > 0.8 and control.null is None


def test_measurements_are_joined_by_scan(cohort_table):
    table = cohort_table(n=20, twin_pairs=2)
    measures = table[["participant_id", "session_id"]].assign(edge=np.arange(20.0)).iloc[::-1].iloc[:-1]
    features = measured_features(table, measures)
    assert features.shape == (20, 1)
    assert np.isnan(features[0, 0]) and features[1:, 0].tolist() == list(np.arange(1.0, 20))
    with pytest.raises(ValueError, match="more than once"):
        measured_features(table, pd.concat([measures, measures]))


def test_all_controls_in_order(cohort_table):
    table = cohort_table(n=60, twin_pairs=6)
    controls = evaluate_controls(table, {"extra": np.ones((60, 1))}, permutations=20, resampling=Resampling(100))
    assert [c.name for c in controls] == ["Majority class", "PMA at scan", "GA, birth weight, sex", "extra"]
    assert controls[0].p_value is None and controls[0].metrics["within_fold_auc"].estimate == 0.5
    assert controls[1].null.shape == (20,)
    with pytest.raises(ValueError, match="3 rows of features for 60 scans"):
        evaluate_control("short", table, np.ones((3, 1)))
    with pytest.raises(ValueError, match="at least two folds"):
        evaluate_control("one fold", table.assign(fold=0), np.ones((60, 1)))

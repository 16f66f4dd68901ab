"""Screening metrics, checked with scikit-learn and by hand, and the cases in which they are undefined."""

import json
import math
import warnings

import evaluate
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from evaluation.metrics import (
    METRIC_NAMES,
    ScreeningMetrics,
    best_fold,
    confusion_counts,
    cross_validation_metrics,
    metrics_from_counts,
    screening_metrics,
    summarise_folds,
    write_cv_metrics,
)


@pytest.mark.parametrize("seed", range(20))
def test_metrics_equal_scikit_learn_if_defined(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(6, 130))
    label = np.r_[0, 0, 1, 1, random.integers(0, 2, n - 4)]
    probability = np.round(random.random(n) * 0.6 + 0.3 * label, random.integers(1, 6)).clip(
        0, 1
    )  # rounding creates ties
    threshold = float(random.choice([0.3, 0.5, 0.7]))
    ours = screening_metrics(label, probability, threshold)
    called = (probability >= threshold).astype(int)
    tn, fp, fn, tp = sk.confusion_matrix(label, called, labels=[0, 1]).ravel()
    assert ours["confusion_matrix"] == {"tn": tn, "fp": fp, "fn": fn, "tp": tp}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {
            "accuracy": sk.accuracy_score(label, called),
            "balanced_accuracy": sk.balanced_accuracy_score(label, called),
            "sensitivity": sk.recall_score(label, called),
            "specificity": sk.recall_score(label, called, pos_label=0),
            "ppv": sk.precision_score(label, called),
            "npv": sk.precision_score(label, called, pos_label=0),
            "f1": sk.f1_score(label, called),
            "mcc": sk.matthews_corrcoef(label, called),
            "auc": sk.roc_auc_score(label, probability),
            "average_precision": sk.average_precision_score(label, probability),
        }
    assert set(theirs) == set(METRIC_NAMES)
    for name, value in theirs.items():
        if name in ours["undefined"]:
            assert ours[name] is None
        else:
            assert ours[name] == pytest.approx(value, abs=1e-12), name
    json.dumps(ours, allow_nan=False)


def test_by_hand():
    # 10 scans: of 4 injured, 3 are called; of 6 normal, 2 are called
    values, undefined = metrics_from_counts(tn=4, fp=2, fn=1, tp=3)
    assert undefined == {}
    assert values["accuracy"] == pytest.approx(0.7)
    assert values["sensitivity"] == pytest.approx(0.75)
    assert values["specificity"] == pytest.approx(4 / 6)
    assert values["balanced_accuracy"] == pytest.approx((0.75 + 4 / 6) / 2)
    assert values["ppv"] == pytest.approx(0.6)
    assert values["npv"] == pytest.approx(0.8)
    assert values["f1"] == pytest.approx(6 / 9)
    assert values["mcc"] == pytest.approx((3 * 4 - 2 * 1) / math.sqrt(5 * 4 * 6 * 5))


def test_a_probability_at_the_threshold_is_called_injury():
    assert confusion_counts([0, 1], [0.5, 0.5]) == {"tn": 0, "fp": 1, "fn": 0, "tp": 1}
    assert confusion_counts([0, 1], [0.4999999, 0.5]) == {"tn": 1, "fp": 0, "fn": 0, "tp": 1}


@pytest.mark.parametrize(
    ("labels", "probabilities", "none"),
    [
        ([0, 0], [0.1, 0.2], {"sensitivity", "balanced_accuracy", "ppv", "f1", "mcc", "auc", "average_precision"}),
        ([0, 0], [0.1, 0.9], {"sensitivity", "balanced_accuracy", "mcc", "auc", "average_precision"}),
        ([1, 1], [0.8, 0.9], {"specificity", "balanced_accuracy", "npv", "mcc", "auc"}),
        ([0, 1], [0.1, 0.2], {"ppv", "mcc"}),  # no scan is called: F1 is 0, not undefined
        ([0, 1], [0.8, 0.9], {"npv", "mcc"}),
    ],
)
def test_undefined_is_none_with_a_reason(labels, probabilities, none):
    result = screening_metrics(labels, probabilities)
    assert {name for name in METRIC_NAMES if result[name] is None} == none == set(result["undefined"])
    assert all(isinstance(why, str) and why.startswith(("no scan", "there")) for why in result["undefined"].values())


def test_the_reason_names_the_cause():
    assert "labelled injury" in screening_metrics([0, 0], [0.1, 0.2])["undefined"]["auc"]
    assert "called injury" in screening_metrics([0, 1], [0.1, 0.2])["undefined"]["mcc"]
    assert "labelled normal" in screening_metrics([1, 1], [0.1, 0.2])["undefined"]["mcc"]


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [0.1, float("nan")], "NaN or infinite"),
        ([0, 1], [0.1, float("inf")], "NaN or infinite"),
        ([0, 1], [0.1, 1.2], "in \\[0, 1\\]"),
        ([0, 1], [-0.1, 0.2], "in \\[0, 1\\]"),
        ([0, 1], [0.1], "equal length, got 2 and 1"),
        ([], [], "no scans"),
        ([0, 2], [0.1, 0.2], "Labels must be 0"),
        ([[0, 1]], [[0.1, 0.2]], "one-dimensional"),
    ],
)
def test_bad_input_is_one_sentence(labels, probabilities, message):
    with pytest.raises(ValueError, match=message) as caught:
        screening_metrics(labels, probabilities)
    assert "\n" not in str(caught.value)


def test_through_evaluate_in_batches(tmp_path):
    random = np.random.default_rng(0)
    label, probability = random.integers(0, 2, 40), random.random(40)
    metric = ScreeningMetrics(cache_dir=str(tmp_path))
    assert isinstance(metric, evaluate.Metric)
    for start in range(0, 40, 8):
        metric.add_batch(predictions=probability[start : start + 8], references=label[start : start + 8])
    assert metric.compute(threshold=0.4) == screening_metrics(label, probability, 0.4)
    # the object can be used again and keeps no scan of the last fold
    assert metric.compute(predictions=[0.1, 0.9], references=[0, 1])["n"] == 2
    # probabilities stay float64 in Arrow: rounding would move this one across the threshold
    assert metric.compute(predictions=[0.5 - 1e-12, 0.5], references=[0, 1])["accuracy"] == 1.0


def test_through_evaluate_after_a_bad_probability(tmp_path):
    metric = ScreeningMetrics(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="pass softmax output, not logits"):
        metric.compute(predictions=[3.2, 0.1], references=[1, 0])
    assert metric.compute(predictions=[0.9, 0.1], references=[1, 0])["auc"] == 1.0


def test_summary_over_folds_counts_only_defined_values():
    folds = [screening_metrics([0, 1], [0.2, p]) for p in (0.9, 0.4)] + [screening_metrics([0, 0], [0.2, 0.3])]
    summary = summarise_folds(folds)
    assert summary["accuracy"] == {
        "mean": pytest.approx(np.mean([1, 0.5, 1])),
        "sd": pytest.approx(np.std([1, 0.5, 1], ddof=1)),
        "n_defined": 3,
        "n_folds": 3,
    }
    assert summary["auc"] == {"mean": 1.0, "sd": 0.0, "n_defined": 2, "n_folds": 3}
    assert summary["mcc"] == {"mean": 1.0, "sd": None, "n_defined": 1, "n_folds": 3}
    assert summarise_folds([screening_metrics([0], [0.1])])["auc"]["mean"] is None


def test_best_fold_by_auc_then_accuracy_then_number():
    def fold(number, auc, accuracy):
        return {"fold": number, "auc": auc, "accuracy": accuracy}

    assert best_fold([fold(0, 0.8, 0.9), fold(1, 0.9, 0.5)])[0] == 1
    assert best_fold([fold(0, 0.9, 0.5), fold(1, 0.9, 0.6), fold(2, 0.9, 0.6)])[0] == 1
    assert best_fold([fold(0, None, 1.0), fold(1, 0.2, 0.1)])[0] == 1
    number, why = best_fold([fold(0, None, 0.5), fold(1, None, 0.7)])
    assert number == 1 and "no fold has a defined AUC" in why


def make_predictions(num_folds=5, per_fold=10, seed=0):
    random = np.random.default_rng(seed)
    n = num_folds * per_fold
    label = np.tile([0, 0, 0, 1, 1], n // 5)
    score = random.normal(size=n) + 1.5 * label
    probability = 1 / (1 + np.exp(-score))
    return pd.DataFrame(
        {
            "participant_id": [f"{i:03d}" for i in range(n)],
            "session_id": "01",
            "family": [f"{i:03d}" for i in range(n)],
            "fold": np.repeat(np.arange(num_folds), per_fold),
            "label": label,
            "radiology_score": np.where(label == 1, "5", "1"),
            "p_injury": probability,
            "p_injury_no_tta": probability * 0.99,
        }
    )


def write_run(folder, predictions, selection="last"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "splits.json").write_text(json.dumps({"rule": "family", "num_folds": int(predictions["fold"].nunique())}))
    for k, rows in predictions.groupby("fold"):
        fold = folder / f"fold-{k}"
        fold.mkdir()
        rows.to_csv(fold / "predictions.csv", index=False)
        (fold / "metrics.json").write_text(json.dumps({"selection": selection}))
    return folder


def test_cross_validation_metrics():
    predictions = make_predictions()
    result = cross_validation_metrics(predictions)
    assert (result["n"], result["n_injury"], result["n_families"], result["num_folds"]) == (50, 20, 50, 5)
    assert result["pooled"]["auc"] == pytest.approx(sk.roc_auc_score(predictions["label"], predictions["p_injury"]))
    assert result["pooled_no_tta"]["accuracy"] == pytest.approx(
        sk.accuracy_score(predictions["label"], predictions["p_injury_no_tta"] >= 0.5)
    )
    each = [sk.roc_auc_score(rows["label"], rows["p_injury"]) for _, rows in predictions.groupby("fold")]
    assert result["mean_sd"]["auc"]["mean"] == pytest.approx(np.mean(each))
    assert result["mean_sd"]["auc"]["sd"] == pytest.approx(np.std(each, ddof=1))
    assert result["folds"][result["best_fold"]]["auc"] == max(each)
    total = {k: sum(fold["confusion_matrix"][k] for fold in result["folds"]) for k in ("tn", "fp", "fn", "tp")}
    assert total == result["pooled"]["confusion_matrix"]
    without = cross_validation_metrics(predictions[["fold", "label", "p_injury"]])
    assert without["pooled_no_tta"] is None and without["n_families"] is None


def test_write_cv_metrics(tmp_path):
    run = write_run(tmp_path / "run", make_predictions())
    written = write_cv_metrics(run)
    assert json.loads((run / "cv_metrics.json").read_text()) == json.loads(json.dumps(written))
    assert written["selection"] == "last" and written["optimistic"] is False
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []
    assert write_cv_metrics(write_run(tmp_path / "paper", make_predictions(), "paper"))["optimistic"] is True


def test_write_cv_metrics_with_undefined_folds_is_strict_json(tmp_path):
    predictions = make_predictions(num_folds=2)
    predictions.loc[predictions["fold"] == 1, "label"] = 0
    write_cv_metrics(write_run(tmp_path / "run", predictions))
    text = (tmp_path / "run" / "cv_metrics.json").read_text()
    assert "NaN" not in text and json.loads(text)["folds"][1]["auc"] is None

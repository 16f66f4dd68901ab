"""The optimism audit, checked by hand and on random histories."""

import numpy as np
import pandas as pd
import pytest

from evaluation.optimism import audit_optimism
from run_folder.files import InputError


def history(accuracy, auc=None):
    rows = pd.DataFrame({"epoch": np.arange(1, len(accuracy) + 1), "val_accuracy": accuracy})
    return rows.assign(val_auc=accuracy if auc is None else auc)


def test_by_hand():
    audit = audit_optimism({0: history([0.5, 0.8, 0.6]), 1: history([0.9, 0.4, 0.9], auc=[0.3, 0.5, 0.7])})
    assert audit.folds["best_epoch"].tolist() == [2, 1] and audit.folds["honest_epoch"].tolist() == [3, 3]
    summary = audit.summary.set_index("metric")
    assert summary.loc["accuracy", ["honest", "best", "difference"]].tolist() == pytest.approx([0.75, 0.85, 0.1])
    assert summary.loc["auc", "difference"] == pytest.approx(((0.8 - 0.6) + (0.3 - 0.7)) / 2)
    assert audit.rule == "last" and np.isnan(summary.loc["mcc", "honest"])


def test_the_epoch_chosen_on_inner_scans_is_the_unbiased_one():
    histories = {0: history([0.5, 0.8, 0.6])}
    audit = audit_optimism(histories, {0: {"selection": "inner", "selected_epoch": 1}})
    assert audit.rule == "inner" and audit.folds.loc[0, "honest_accuracy"] == 0.5
    paper = audit_optimism(histories, {0: {"selection": "paper", "selected_epoch": 2}})
    assert paper.rule == "last" and paper.folds.loc[0, "honest_accuracy"] == 0.6


def test_random_predictions_look_good_at_the_best_epoch():
    random = np.random.default_rng(0)
    histories = {k: history(random.binomial(26, 0.5, size=50) / 26) for k in range(40)}
    summary = audit_optimism(histories).summary.set_index("metric")
    assert summary.loc["accuracy", "honest"] == pytest.approx(0.5, abs=0.05)
    assert summary.loc["accuracy", "best"] > 0.65


def test_folds_with_undefined_metrics_are_not_counted():
    audit = audit_optimism({0: history([0.5, 0.6], auc=[np.nan, np.nan]), 1: history([0.5, 0.6], auc=[0.5, 0.7])})
    row = audit.summary.set_index("metric").loc["auc"]
    assert row["n_folds"] == 1 and row["best"] == 0.7


@pytest.mark.parametrize(
    ("histories", "selections", "message"),
    [
        ({}, {}, "no fold-K/history.csv"),
        ({0: history([])}, {}, "fold 0 lacks val_accuracy"),
        ({0: pd.DataFrame({"epoch": [1]})}, {}, "lacks val_accuracy"),
        ({0: history([0.5])}, {0: {"selection": "inner", "selected_epoch": 7}}, "has no epoch 7"),
    ],
)
def test_broken_histories(histories, selections, message):
    with pytest.raises(InputError, match=message):
        audit_optimism(histories, selections)

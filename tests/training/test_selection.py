"""The epoch that each rule selects, and the temperature and thresholds fitted on the inner scans."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from training.selection import fit_on_inner, select_epoch

HISTORY = [
    {"epoch": 1, "val_accuracy": 0.6, "inner_loss": 0.9},
    {"epoch": 2, "val_accuracy": 0.8, "inner_loss": 0.5},
    {"epoch": 3, "val_accuracy": 0.8, "inner_loss": 0.4},
    {"epoch": 4, "val_accuracy": 0.7, "inner_loss": 0.4},
]


@pytest.mark.parametrize(("rule", "epoch"), [("last", 4), ("inner", 3), ("paper", 2)])
def test_each_rule_selects_its_epoch(rule, epoch):
    assert select_epoch(HISTORY, rule) == epoch


def test_temperature_and_thresholds_of_the_inner_scans():
    rng = np.random.default_rng(0)
    labels = [0] * 12 + [1] * 8
    views = expit(3 * (np.array(labels) - 0.5) + 4 * rng.normal(size=(2, 20)))
    fitted = fit_on_inner(labels, views)

    def loss(temperature):
        p = expit(logit(views) / temperature).mean(axis=0)
        return -np.mean(np.where(np.array(labels) == 1, np.log(p), np.log(1 - p)))

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    assert fitted["temperature"] == pytest.approx(best, rel=0.01)
    p = expit(logit(views) / fitted["temperature"]).mean(axis=0)
    called = p >= fitted["threshold_sensitivity_90"]
    assert called[12:].mean() >= 0.9
    assert fitted["n"] == 20
    at_half = ((p >= 0.5)[12:].mean()) + (~(p >= 0.5)[:12]).mean()
    at_youden = (p >= fitted["threshold_youden"])[12:].mean() + (p < fitted["threshold_youden"])[:12].mean()
    assert at_youden >= at_half

"""Predictions of a run: read in order, and a sentence that names the problem in a partial or broken run."""

import json

import numpy as np
import pandas as pd
import pytest

from run_folder.files import InputError
from run_folder.predictions import PREDICTION_COLUMNS, read_predictions, scan_name


def make_predictions(num_folds=5, per_fold=10):
    n = num_folds * per_fold
    label = np.tile([0, 0, 0, 1, 1], n // 5)
    ids = [f"{i:03d}" for i in range(n)]
    return pd.DataFrame(
        {
            "participant_id": ids,
            "session_id": "01",
            "family": ids,
            "fold": np.repeat(np.arange(num_folds), per_fold),
            "label": label,
            "radiology_score": np.where(label == 1, "5", "1"),
            "p_injury": np.linspace(0, 1, n),
            "p_injury_no_tta": np.linspace(1, 0, n),
        }
    )


def write_run(folder, predictions, rule="family"):
    folder.mkdir(parents=True)
    (folder / "splits.json").write_text(json.dumps({"rule": rule, "num_folds": int(predictions["fold"].nunique())}))
    for k, rows in predictions.groupby("fold"):
        (folder / f"fold-{k}").mkdir()
        rows.to_csv(folder / f"fold-{k}" / "predictions.csv", index=False)
    return folder


def test_folds_are_read_in_order(tmp_path):
    predictions = make_predictions(num_folds=12)
    table = read_predictions(write_run(tmp_path / "run", predictions))
    assert list(table.columns) == list(PREDICTION_COLUMNS)
    assert table["participant_id"].tolist() == predictions["participant_id"].tolist()
    assert table["fold"].tolist() == sorted(table["fold"]) and table["fold"].max() == 11
    assert table["p_injury"].to_numpy() == pytest.approx(predictions["p_injury"].to_numpy(), abs=1e-15)


def test_a_family_may_be_in_several_folds_if_the_rule_allows_it(tmp_path):
    predictions = make_predictions().assign(family="one")
    assert len(read_predictions(write_run(tmp_path / "run", predictions, rule="paper"))) == 50


def test_a_scans_name():
    assert scan_name({"participant_id": "A", "session_id": "1"}) == "sub-A ses-1"
    assert scan_name({"participant_id": "A", "session_id": ""}) == "sub-A"
    assert scan_name({"participant_id": "A", "session_id": np.nan}) == "sub-A"


def test_partial_or_broken_run_names_what_is_missing(tmp_path):
    run = write_run(tmp_path / "run", make_predictions())
    (run / "fold-3" / "predictions.csv").unlink()
    with pytest.raises(InputError, match="fold-3/predictions.csv missing \\(4 of 5 folds done\\)"):
        read_predictions(run)
    with pytest.raises(InputError, match="splits.json is missing"):
        read_predictions(tmp_path)
    with pytest.raises(InputError, match="nowhere does not exist"):
        read_predictions(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="p_injury"), "lacks the column\\(s\\) p_injury; it has participant_id"),
        (lambda t: t.assign(p_injury="high"), "p_injury must hold numbers"),
        (lambda t: t.assign(p_injury=[1.5] + [0.5] * 9), "p_injury of sub-010 ses-01 is 1.5"),
        (lambda t: t.assign(p_injury=[None] + [0.5] * 9), "p_injury of sub-010 ses-01 is nan"),
        (lambda t: t.assign(label=2), "label must be 0"),
        (lambda t: t.assign(fold=4), "holds rows of fold\\(s\\) \\[4\\]; expected only fold 1"),
        (
            lambda t: t.assign(participant_id="000", session_id=range(10), family="000"),
            "family 000 is in several folds",
        ),
        (lambda t: t.assign(participant_id="000"), "sub-000 ses-01 was predicted more than once"),
        (lambda t: t.iloc[:0], "has no rows"),
    ],
)
def test_broken_predictions_say_what_is_wrong(tmp_path, change, message):
    run = write_run(tmp_path / "run", make_predictions())
    path = run / "fold-1" / "predictions.csv"
    change(pd.read_csv(path, dtype={"participant_id": str, "session_id": str, "family": str})).to_csv(path, index=False)
    with pytest.raises(InputError, match=message):
        read_predictions(run)

"""The figures on a card come from the run alone, and none of them describes a single infant."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from modeling_gloresnet import GloResNetConfig
from publishing.card import render_card
from publishing.evidence import _table_one, gather_evidence
from publishing.release import read_recipe, write_cards


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))


def test_small_counts_and_counts_that_leave_few_are_hidden():
    scans = pd.DataFrame({"label": [0] * 10 + [1] * 10, "sex": ["M"] * 2 + ["F"] * 8 + ["M"] * 9 + ["F"]})
    assert _table_one(scans, hide_small=True) == [("Male", *["not shown (a count below 5)"] * 2)]
    assert _table_one(scans, hide_small=False) == [("Male", "2 (20.0 %)", "9 (90.0 %)")]
    few = pd.DataFrame({"label": [0] * 6 + [1] * 4, "birth_age": [30.0] * 10})
    assert _table_one(few, hide_small=True)[0][1:] == ("30.00 ± 0.00", "not shown (fewer than 5 scans)")


def test_epochs_chosen_on_the_scored_scans_are_ranked_by_their_last_epoch(run):
    for fold, auc in ((0, 0.6), (1, 0.9)):
        path = run / f"fold-{fold}" / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"selection": "paper"}))
        history = pd.read_csv(run / f"fold-{fold}" / "history.csv")
        history["val_auc"] = [1.0, auc]
        history.to_csv(run / f"fold-{fold}" / "history.csv", index=False)
    evidence = gather_evidence(run)
    assert evidence.best == 1 and evidence.unbiased_auc == {0: 0.6, 1: 0.9}
    write_cards(run, evidence)
    card = (run / "fold-1" / "model" / "README.md").read_text()
    assert "the best: at the last epoch, highest AUC of 2 folds, 0.900" in card
    assert "The AUC at the last epoch involves no such choice" in card and "fold 0 0.600, fold 1 0.900" in card


def test_the_cost_comes_from_the_histories(run):
    seconds = 0
    for part in ("fold-0", "fold-1", "refit"):
        history = pd.read_csv(run / part / "history.csv")
        history["seconds"] = 1800.0
        history.to_csv(run / part / "history.csv", index=False)
        seconds += history["seconds"].sum()
    evidence = gather_evidence(run)
    threads = read_recipe(run)["num_threads"]
    assert evidence.hours == pytest.approx(3.0) and evidence.core_hours == pytest.approx(3.0 * threads)
    write_cards(run, evidence)
    card = (run / "refit" / "model" / "README.md").read_text()
    assert f"3 hours, or {3 * threads} core-hours" in card
    assert f"core-hours x 12 W per core / 1000 = {3 * threads * 12 / 1000:.2g} kWh" in card


def test_a_phantom_card_hides_nothing_and_says_that_it_is_synthetic(run):
    config = GloResNetConfig.from_pretrained(run / "fold-0" / "model")
    config.provenance["synthetic"] = True
    evidence = replace(gather_evidence(run), synthetic=True)
    metrics = json.loads((run / "fold-0" / "metrics.json").read_text())
    card = render_card(config, read_recipe(run), metrics, evidence)
    assert "Trained on synthetic phantoms, not on infants" in card and "To protect the infants" not in card

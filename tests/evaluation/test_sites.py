"""Leave-one-site-out in the report: each site's figures, Table 1, and damage."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import recall_score, roc_auc_score

from evaluation import drawing
from evaluation.report import write_report
from evaluation.study import read_run
from evaluation.subgroups import evaluate_sites
from evaluation.table_one import table_one
from evaluation.uncertainty import Resampling
from run_folder.files import InputError

SITES = ["north", "river", "south"]


@pytest.fixture
def left_out(make_run):
    """A run of three folds that each leave out a site; all scans of the last one, south, are normal."""
    run = make_run("sites", n=60, twin_pairs=6, folds=3)
    splits = json.loads((run / "splits.json").read_text())
    cohort = pd.read_csv(run / "cohort.csv", dtype=str, keep_default_na=False)
    fold = cohort["participant_id"].map({p: entry["fold"] for p, entry in splits["participants"].items()})
    gone = set(cohort["participant_id"][(fold == 2) & (cohort["label"] == "1")])
    gone = set(cohort["participant_id"][cohort["family"].isin(cohort[cohort["participant_id"].isin(gone)]["family"])])
    cohort["site"] = fold.map(dict(enumerate(SITES))).fillna("")
    cohort[~cohort["participant_id"].isin(gone)].to_csv(run / "cohort.csv", index=False)
    participants = {p: entry for p, entry in splits["participants"].items() if p not in gone}
    splits |= {"rule": "site", "sites": SITES, "participants": participants}
    (run / "splits.json").write_text(json.dumps(splits))
    recipe = (run / "recipe.yaml").read_text().replace("split: family", "split: site")
    (run / "recipe.yaml").write_text(recipe)
    predictions = pd.read_csv(run / "fold-2" / "predictions.csv", dtype={"session_id": str})
    predictions[~predictions["participant_id"].isin(gone)].to_csv(run / "fold-2" / "predictions.csv", index=False)
    return run


def test_the_report_gives_the_figures_of_each_site_left_out(left_out, monkeypatch):
    monkeypatch.setattr(drawing, "rendered", lambda figure, kind: b"")
    page = write_report(left_out, resampling=Resampling(120), permutations=20).read_text(encoding="utf-8")
    assert "Leave-one-site-out over 3 sites" in page and "Each site left out, at threshold 0.5." in page
    assert "All scans of south are of one class" in page and "No external validation" not in page
    assert "<td>2</td><td>south</td>" in page  # the table of folds
    parts = {part["name"]: part for part in json.loads((left_out / "cv_metrics.json").read_text())["report"]["sites"]}
    assert list(parts) == SITES
    for fold, site in enumerate(SITES):
        scans = pd.read_csv(left_out / f"fold-{fold}" / "predictions.csv")
        label, called = scans["label"], scans["p_injury"] >= 0.5
        metrics = {name: value["estimate"] for name, value in parts[site]["metrics"].items()}
        assert parts[site]["n"] == len(scans)
        assert metrics["specificity"] == pytest.approx(recall_score(label, called, pos_label=0))
        if site == "south":
            assert (metrics["auc"], metrics["sensitivity"]) == (None, None)
            assert parts[site]["note"] == f"all {len(scans)} scans are normal"
        else:
            assert metrics["auc"] == pytest.approx(roc_auc_score(label, scans["p_injury"]))
            assert metrics["sensitivity"] == pytest.approx(recall_score(label, called))


def test_the_intervals_of_a_site_resample_its_families():
    """Two families that disagree: by hand, a draw has the specificity 0, 1/2 or 1, with probability 1/4, 1/2, 1/4."""
    table = pd.DataFrame(
        {
            "site": list("aaaab"),
            "family": list("FFGGH"),
            "label": [0, 0, 0, 0, 1],
            "p_injury": [0.9, 0.9, 0.1, 0.1, 0.9],
        }
    )
    first, second = evaluate_sites(table, resampling=Resampling(400))
    interval = first.metrics["specificity"]
    assert (interval.estimate, interval.low, interval.high) == (0.5, 0.0, 1.0)
    assert not second.metrics and second.n_families == 1
    assert evaluate_sites(table.assign(site="a")) == [] == evaluate_sites(table.drop(columns="site"))
    assert [part.name for part in evaluate_sites(table.assign(site=list("abba") + [""]))] == ["a", "b", "no site given"]


def test_table_one_compares_the_classes_at_each_site():
    scans = pd.DataFrame({"label": [0] * 10 + [1] * 10, "site": ["n"] * 9 + ["s"] * 5 + ["n"] * 6})
    rows = table_one(scans).set_index("variable")
    assert rows.loc["Site: n", ["normal", "injury"]].tolist() == ["9 (90.0 %)", "6 (60.0 %)"]
    assert rows.loc["Site: n", "p_value"] == pytest.approx(stats.fisher_exact([[9, 1], [6, 4]]).pvalue)
    assert rows.loc["Site: s", "smd"] == pytest.approx(0.3 / np.sqrt((0.1 * 0.9 + 0.4 * 0.6) / 2))
    assert table_one(scans.assign(site="n")).empty


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (
            ["north", "south", "river"],
            "is of the site river in cohort.csv, but was predicted in fold 1, which leaves out",
        ),
        (["north"], "fold 1, which leaves out no site"),
        ("north", "fold 0, which leaves out no site"),
    ],
)
def test_predictions_of_another_site_are_refused(left_out, sites, message):
    splits = json.loads((left_out / "splits.json").read_text())
    (left_out / "splits.json").write_text(json.dumps(splits | {"sites": sites}))
    with pytest.raises(InputError, match=message):
        read_run(left_out)

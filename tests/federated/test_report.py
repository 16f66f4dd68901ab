"""The report of a federated run, on run folders made by hand: figures, pairing, and what is refused."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.uncertainty import Resampling
from federated.__main__ import main
from federated.report import write_federated_report
from run_folder.files import InputError
from run_folder.layout import RunFolder
from tests.evaluation.conftest import write_synthetic_run
from tests.programs import exit_status

FAST = {"resampling": Resampling(150)}
SCANS = ["participant_id", "session_id"]


def part_of(run, target, participants):
    """A copy of a run with some of its participants only."""
    shutil.copytree(run, target)
    for path in (target / "cohort.csv", *target.glob("fold-*/predictions.csv")):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        table[table["participant_id"].isin(participants)].to_csv(path, index=False)
    splits = json.loads((target / "splits.json").read_text())
    splits["participants"] = {p: entry for p, entry in splits["participants"].items() if p in participants}
    (target / "splits.json").write_text(json.dumps(splits))
    return target


def facts(table, **more):
    """What a site says of the scans of one fold."""
    called = table["p_injury"] >= 0.5
    cells = {"tn": (0, 0), "fp": (0, 1), "fn": (1, 0), "tp": (1, 1)}
    counts = {name: int(((table["label"] == y) & (called == c)).sum()) for name, (y, c) in cells.items()}
    auc = roc_auc_score(table["label"], table["p_injury"]) if table["label"].nunique() == 2 else None
    held_out = [int((table["label"] == y).sum()) for y in (0, 1)]
    return {"metrics": {"n": len(table), "confusion_matrix": counts, "auc": auc}, "held_out": held_out} | more


@pytest.fixture(scope="session")
def runs(built_once):
    """Two sites: pooled and alone runs of train.py, the coordinator's run and its sites', and one without `river`."""

    def build(folder):
        pooled = write_synthetic_run(folder / "pooled", n=40, twin_pairs=4, folds=2, noise_seed=1, epochs=1)
        alone = write_synthetic_run(folder / "everyone", n=40, twin_pairs=4, folds=2, noise_seed=2, epochs=1)
        families = sorted(set(pd.read_csv(pooled / "cohort.csv")["family"]))
        coordinator = RunFolder(folder / "federation")
        recipe = {"num_folds": 2, "num_train_epochs": 6}
        about = {"identity": "0a", "recipe": recipe, "sites": ["north", "river"], "local_epochs": 2}
        for run, identity in ((coordinator, "0a"), (coordinator.without("river"), "0b")):
            run.path.mkdir()
            run.federation.write_text(json.dumps(about | {"identity": identity}))
        told = {0: {}, 1: {}, "refit": {}}
        scores = {0: [], 1: []}
        for number, site in enumerate(about["sites"]):
            cohort = pd.read_csv(pooled / "cohort.csv")
            mine = set(cohort["participant_id"][cohort["family"].isin(families[number::2])])
            part_of(alone, folder / f"alone-{site}", mine)
            own = part_of(
                write_synthetic_run(folder / f"all-{site}", n=40, twin_pairs=4, folds=2, epochs=1), folder / site, mine
            )
            (own / "federation.json").write_text(json.dumps({"identity": "0a", "site": site}))
            for fold in (0, 1):
                table = pd.read_csv(own / f"fold-{fold}" / "predictions.csv")
                told[fold][site] = facts(table, synthetic=False)
                scores[fold].append(table.assign(site=site, family=pd.factorize(table["family"])[0]))
            if site == "river":
                table = pd.concat(pd.read_csv(path) for path in own.glob("fold-*/predictions.csv"))
                without = RunFolder(own).without(site)
                without.refit.path.mkdir(parents=True)
                without.federation.write_text(json.dumps({"identity": "0b", "site": site}))
                table = table.assign(fold=2, p_injury=1 - table["p_injury"])
                table.to_csv(without.refit.predictions, index=False)
                told["refit"][site] = facts(table)
        for fold in (0, 1):
            where = coordinator.fold(fold)
            where.path.mkdir()
            where.site_metrics.write_text(json.dumps({"sites": told[fold]}))
            pd.concat(scores[fold])[["site", "family", "label", "p_injury"]].to_csv(where.scores, index=False)
        left_out = coordinator.without("river").refit
        left_out.path.mkdir()
        left_out.site_metrics.write_text(json.dumps({"sites": told["refit"]}))

    return built_once("federated-report", build)


@pytest.fixture
def folder(runs, tmp_path):
    return shutil.copytree(runs, tmp_path / "runs")


def predictions(run):
    return pd.concat(pd.read_csv(path) for path in sorted(run.glob("fold-*/predictions.csv")))


def numbers(folder):
    return json.loads((folder / "federation" / "cv_metrics.json").read_text())


def test_figures_and_differences_of_the_same_scans(folder):
    page = write_federated_report(
        folder / "federation",
        sites=[folder / "north", folder / "river"],
        alone={site: folder / f"alone-{site}" for site in ("north", "river")},
        pooled=folder / "pooled",
        **FAST,
    ).read_text(encoding="utf-8")
    found = numbers(folder)
    concordant, pairs = {"federated": 0.0, "alone": 0.0}, 0
    for site in ("north", "river"):
        federated, alone = predictions(folder / site), predictions(folder / f"alone-{site}")
        assert federated["participant_id"].tolist() == alone["participant_id"].tolist()
        aucs = {
            name: roc_auc_score(t["label"], t["p_injury"]) for name, t in (("federated", federated), ("alone", alone))
        }
        assert found["methods"]["federated"]["sites"][site]["auc"]["estimate"] == pytest.approx(aucs["federated"])
        assert found["methods"]["each site alone"]["sites"][site]["auc"]["estimate"] == pytest.approx(aucs["alone"])
        row = found["differences"][0]
        assert (row["a"], row["b"]) == ("federated", "each site alone")
        assert row["sites"][site]["estimate"] == pytest.approx(aucs["federated"] - aucs["alone"])
        # by hand: the AUC within sites is the share of concordant pairs of scans of one site
        for name, t in (("federated", federated), ("alone", alone)):
            high, low = (t["p_injury"][t["label"] == y].to_numpy() for y in (1, 0))
            concordant[name] += (high[:, None] > low[None, :]).sum()
        pairs += (federated["label"] == 1).sum() * (federated["label"] == 0).sum()
    difference = (concordant["federated"] - concordant["alone"]) / pairs
    assert found["differences"][0]["within_sites"]["estimate"] == pytest.approx(difference)
    assert found["differences"][0]["within_sites"]["low"] < difference < found["differences"][0]["within_sites"]["high"]
    pairs_said = {(row["a"], row["b"]): row["n"] for row in found["differences"]}
    everyone = len(predictions(folder / "pooled"))
    river = len(predictions(folder / "river"))
    assert pairs_said == {
        ("federated", "each site alone"): everyone,
        ("pooled", "each site alone"): everyone,
        ("federated", "pooled"): everyone,
        ("federated", "federated, site left out"): river,
    }
    # the joint model without river was made to rank river's scans the wrong way round
    left_out = found["methods"]["federated, site left out"]["sites"]["river"]["auc"]["estimate"]
    assert left_out == pytest.approx(1 - found["methods"]["federated"]["sites"]["river"]["auc"]["estimate"])
    assert "2 sites (north, river), 3 rounds, 2 folds" in page
    ids = predictions(folder / "pooled")["participant_id"]
    assert not any(name in page for name in ids) and not re.search(r"CC\d{5}", json.dumps(found))


def test_shared_scores_give_the_same_intervals_as_the_run_folders(folder):
    write_federated_report(folder / "federation", sites=[folder / "river", folder / "north"], **FAST)
    by_id = numbers(folder)["methods"]["federated"]["sites"]
    page = write_federated_report(folder / "federation", **FAST).read_text(encoding="utf-8")
    by_score = numbers(folder)["methods"]["federated"]["sites"]
    for site, figures in by_id.items():
        assert by_score[site]["n_families"] == figures["n_families"]
        for name in ("auc", "sensitivity", "specificity", "accuracy"):
            assert by_score[site][name]["estimate"] == pytest.approx(figures[name]["estimate"])
    assert "shared no scores" not in page and "ids do not leave a site" in page


def test_without_scores_the_metrics_of_each_site_remain(folder):
    for path in folder.glob("federation/fold-*/scores.csv"):
        path.unlink()
    page = write_federated_report(folder / "federation", **FAST).read_text(encoding="utf-8")
    assert "north, river shared no scores, so there are no intervals" in page and "95 % intervals" not in page
    told = {row["site"]: row for row in numbers(folder)["told"]["federated"]}
    for site in ("north", "river"):
        table = predictions(folder / site)
        right = ((table["p_injury"] >= 0.5) == table["label"]).mean()
        folds = [roc_auc_score(t["label"], t["p_injury"]) for _, t in table.groupby("fold")]
        assert told[site]["accuracy"] == pytest.approx(right)
        assert told[site]["mean_auc"] == pytest.approx(np.mean(folds))


def test_a_site_that_was_left_out_and_absent_has_no_figures(folder):
    (folder / "federation-without-river" / "refit" / "sites.json").write_text(json.dumps({"sites": {}}))
    write_federated_report(folder / "federation", sites=[folder / "north", folder / "river"], **FAST)
    assert list(numbers(folder)["methods"]) == ["federated"]


def unfinished(folder):
    (folder / "federation" / "fold-1" / "sites.json").unlink()
    return {}


def lacks_scans(folder):
    return {"sites": [folder / "north", folder / "river"], "pooled": folder / "alone-north"}


def other_labels(folder):
    for path in (*folder.glob("pooled/fold-*/predictions.csv"), folder / "pooled" / "cohort.csv"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        table.assign(label=table["label"].map({"0": "1", "1": "0", "": ""})).to_csv(path, index=False)
    return {"sites": [folder / "north", folder / "river"], "pooled": folder / "pooled"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (unfinished, "federation is not finished: fold-1 missing .1 of 2 folds done."),
        (
            lambda folder: {"pooled": folder / "pooled"},
            "--pooled compares the same scans: give the run folder of every",
        ),
        (lambda folder: {"sites": [folder / "north"]}, "run folder of river is missing in --sites"),
        (lambda folder: {"sites": [folder / "north"] * 2}, "are both of the site north"),
        (lambda folder: {"sites": [folder / "pooled"]}, "pooled is not the run folder of a site in this federated run"),
        (lacks_scans, r"alone-north does not have the scans of the federation: it lacks \d+ and has 0 others"),
        (other_labels, "pooled has other labels than the federation"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(folder, arguments, message):
    with pytest.raises(InputError, match=message):
        write_federated_report(folder / "federation", **arguments(folder), **FAST)
    assert not (folder / "federation" / "report.html").exists()


def test_a_folder_without_a_federation_is_refused(folder):
    with pytest.raises(InputError, match="pooled holds no federated run"):
        write_federated_report(folder / "pooled")


def test_sites_left_out_alone_have_no_report(folder):
    """As after `--leave_out each` without `--fold all`: the server's folder itself holds no run."""
    shutil.rmtree(folder / "federation")
    with pytest.raises(InputError, match=r"federation holds no federated run: .* once all folds are trained \(--fold"):
        write_federated_report(folder / "federation")


def test_the_command_prints_the_path_and_refuses_in_one_sentence(folder, capsys):
    sites = ["--sites", str(folder / "north"), str(folder / "river")]
    alone = ["--alone", f"north={folder / 'alone-north'}"]
    assert main(["report", str(folder / "federation"), *sites, *alone]) == 0
    assert capsys.readouterr().out == f"{folder / 'federation' / 'report.html'}\n"
    row = numbers(folder)["differences"][0]
    assert list(row["sites"]) == ["north"] and row["n"] == len(predictions(folder / "north"))
    assert main(["report", str(folder / "federation"), *sites, "--alone", f"south={folder / 'alone-north'}"]) == 1
    errors = capsys.readouterr().err
    assert "There is no site south in the federation" in errors and errors.count("\n") == 1
    assert exit_status(main, ["report", str(folder / "federation"), "--alone", "north"]) == 2

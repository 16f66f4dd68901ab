"""The report: its contents, that it needs no other file, and how it handles unusual or incomplete runs."""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation import drawing, wording
from evaluation.findings import evaluate_study, summary_for_json
from evaluation.report import main, write_comparison, write_external_report, write_report
from evaluation.study import read_run
from evaluation.uncertainty import Resampling
from run_folder.files import InputError
from run_folder.provenance import caution


@pytest.fixture
def unrendered(monkeypatch):
    """Skip rendering, which takes most of the time, in tests that only read the text of the page."""
    monkeypatch.setattr(drawing, "rendered", lambda figure, kind: b"")


FAST = {"resampling": Resampling(120), "permutations": 30}
SMALL = {"n": 60, "twin_pairs": 8}


class Resources(HTMLParser):
    """Collects the resources that a page would fetch, its ids, links and text."""

    def __init__(self):
        super().__init__()
        self.fetched, self.ids, self.links, self.text = [], set(), set(), []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in ("img", "script", "link", "iframe", "video"):
            self.fetched.append(attributes.get("src") or attributes.get("href") or "")
        self.ids.add(attributes.get("id"))
        if tag == "a":
            self.links.add(attributes["href"])

    def handle_data(self, data):
        self.text.append(data)


def read_page(path):
    page = Resources()
    page.feed(path.read_text(encoding="utf-8"))
    return page, re.sub(r"\s+", " ", " ".join(page.text))


@pytest.mark.usefixtures("unrendered")
def test_the_page_needs_no_other_file_and_shows_the_results(make_run):
    run = make_run("plain", **SMALL)
    page, text = read_page(write_report(run, **FAST))
    assert page.fetched and all(address.startswith("data:") for address in page.fetched)
    assert "@import" not in text and "url(" not in text
    assert "0.2.0, commit 0a1b2c3" in text
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert all(link.startswith(("#", "https://doi.org/")) for link in page.links)
    pooled = json.loads((run / "cv_metrics.json").read_text())["pooled"]
    counts = pooled["confusion_matrix"]
    assert f"found {counts['tp']} of {counts['tp'] + counts['fn']} injured scans" in text
    assert f"{pooled['auc']:.3f}" in text
    for heading in ("Table 1.", "Calibration and decisions", "Against chance", "Optimism audit", "Subgroups", "Limits"):
        assert heading in text
    assert "No external validation" in text and "phantom" not in text.split("Methods")[0].lower().split("paper")[0]
    assert "Excluded: poor quality 1" in text
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+|[a-z]+nan[a-z]*", "", text.lower())


def test_numbers_and_figures_are_saved_next_to_the_page(make_run):
    run = make_run(**SMALL)
    write_report(run, **FAST)
    names = (
        "roc",
        "precision_recall",
        "folds",
        "reliability",
        "decision_curve",
        "controls",
        "null",
        "optimism",
        "parts",
    )
    for name in names:
        assert all((run / "figures" / f"{name}.{kind}").stat().st_size > 100 for kind in ("svg", "pdf", "png", "csv"))
    report = json.loads((run / "cv_metrics.json").read_text())["report"]
    table = read_run(run).table
    half = report["thresholds"]["0.5"]["metrics"]
    assert half["auc"]["estimate"] == pytest.approx(roc_auc_score(table["label"], table["p_injury"]))
    assert half["auc"]["low"] < half["auc"]["estimate"] < half["auc"]["high"]
    assert [control["name"] for control in report["controls"]][:2] == ["Majority class", "PMA at scan"]
    assert report["null"]["pooled_auc"]["fixed_predictions"]["p_value"] >= 1 / 31
    assert report["optimism"]["accuracy"]["difference"] >= 0
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]


@pytest.mark.usefixtures("unrendered")
def test_the_same_run_gives_the_same_page(make_run):
    run = make_run(**SMALL)
    first = write_report(run, **FAST).read_bytes()
    assert write_report(run, **FAST).read_bytes() == first


@pytest.mark.usefixtures("unrendered")
def test_a_phantom_cohort_with_images_gets_controls_thumbnails_and_a_banner(make_run):
    run = make_run(n=30, twin_pairs=2, folds=3, images=True, phantom="clear", signal=0.7)
    page, text = read_page(write_report(run, **FAST))
    assert "Evaluation: run (phantom cohort)" in text and "not clinical evidence" in text
    assert "Image quality (motion proxies)" in text and "Tissue and ventricle volumes" in text
    assert sum(address.startswith("data:image/png") for address in page.fetched) > 2
    assert (run / "figures" / "tissue_volumes.csv").is_file()
    controls = json.loads((run / "cv_metrics.json").read_text())["report"]["controls"]
    volumes = next(c for c in controls if c["name"].startswith("Tissue"))
    assert volumes["metrics"]["auc"]["estimate"] > 0.95  # the size of the ventricle gives the label away
    assert "clearly above the network" in text
    # a second report uses the saved measurements; --image_controls without them needs the images
    for image in (run.parent / "run-bids").rglob("*_T2w.nii.gz"):
        image.unlink()
    assert "Image quality" in read_page(write_report(run, **FAST))[1]
    (run / "figures" / "image_quality.csv").unlink()
    assert "Image quality" not in read_page(write_report(run, **FAST))[1].split("--image_controls")[0]
    with pytest.raises(InputError, match="is missing; restore the cohort"):
        write_report(run, image_controls=True, **FAST)


@pytest.mark.usefixtures("unrendered")
def test_a_run_on_phantoms_says_so_without_its_cohort(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.page.study_drawings", lambda findings: [])
    provenance = {"cohort": "phantom-clear", "synthetic": True, "painted": True}
    run = make_run(n=30, twin_pairs=2, folds=2, epochs=2, provenance=provenance)
    fast = {"resampling": Resampling(100), "permutations": 0}
    text = read_page(write_report(run, **fast))[1]
    assert "Evaluation: run (phantom cohort) (painted injuries)" in text
    assert text.count("not clinical evidence") == 2 and "The images are synthetic: the results say nothing" in text
    assert "The injuries are painted: the results say nothing" in text
    joint = make_run("joint", n=30, twin_pairs=2, folds=2, epochs=2, provenance=provenance | {"federation": {}})
    assert "trained on synthetic phantoms, not on infants" in read_page(write_report(joint, **fast))[1]
    text = read_page(write_comparison([run, joint], tmp_path / "both", resampling=Resampling(50)))[1]
    assert "Phantom cohort (unknown)" in text and "trained on synthetic phantoms, not on infants" in text


@pytest.mark.usefixtures("unrendered")
def test_scans_can_be_left_out(make_run):
    run = make_run(n=24, twin_pairs=2, folds=3, images=True, signal=0.3)
    page, text = read_page(write_report(run, with_scans=False, **FAST))
    assert "sub-CC" not in text and not any("image/png" in address for address in page.fetched)
    assert "sub-CC" in read_page(write_report(run, **FAST))[1]


@pytest.mark.usefixtures("unrendered")
def test_selection_by_the_papers_rule_is_called_optimistic(make_run):
    text = read_page(write_report(make_run(selection="paper", **SMALL), **FAST))[1]
    assert "Optimistic: the epoch of each fold was chosen" in text


@pytest.mark.usefixtures("unrendered")
def test_inner_thresholds_have_their_own_columns(make_run):
    text = read_page(write_report(make_run(selection="inner", **SMALL), **FAST))[1]
    assert "threshold Youden (highest sensitivity + specificity on the inner scans; by fold" in text
    assert "Temperatures fitted on the inner scans" in text


def test_inner_scans_that_train_a_local_stream_are_not_called_untouched(make_run):
    run = make_run(selection="inner", n=30, twin_pairs=3, folds=2, epochs=3)
    alone = SimpleNamespace(study=read_run(run))
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text() + "local_stream: 'on'\n")
    both = SimpleNamespace(study=read_run(run))
    assert "used neither to train the network nor for the scores." in wording.selection(alone)
    assert "local" not in wording.selection(alone) and "applied to these probabilities" in wording.temperature(alone)
    said = wording.selection(both)
    assert "neither to train the global stream nor for the scores. The local stream is trained on them too" in said
    assert "to train the network" not in said
    assert "applied to the probabilities of the global stream" in wording.temperature(both)


@pytest.mark.usefixtures("unrendered")
def test_features_and_null_runs_on_request(make_run, tmp_path):
    run = make_run(**SMALL)
    table = read_run(run).table
    features = table[["participant_id", "session_id"]].assign(a=table["label"] + 0.1, b=1.0)
    features.to_csv(tmp_path / "encoder.csv", index=False)
    nulls = [make_run(f"null-{k}", signal=0.0, noise_seed=k, **SMALL) for k in range(3)]
    text = read_page(write_report(run, features=[tmp_path / "encoder.csv"], null_runs=nulls, **FAST))[1]
    assert "Features: encoder" in text and "Retrained null, mean (3 runs)" in text
    report = json.loads((run / "cv_metrics.json").read_text())["report"]
    assert report["null"]["pooled_auc"]["retrained"]["p_value"] == 0.25
    features.iloc[3:].to_csv(tmp_path / "encoder.csv", index=False)
    with pytest.raises(InputError, match="no features for 3 of the 60 scans"):
        write_report(run, features=[tmp_path / "encoder.csv"], **FAST)


@pytest.mark.usefixtures("unrendered")
def test_a_run_with_a_local_stream_compares_its_streams(make_run):
    run, random = make_run("streams", **SMALL), np.random.default_rng(0)
    shares = []
    for path in sorted(run.glob("fold-*/predictions.csv")):
        table = pd.read_csv(path, dtype={"participant_id": str, "session_id": str})
        voices = {name: random.uniform(0, 0.3, len(table)) for name in ("p_local", "p_shares")}
        table.assign(p_global=table["p_injury"], **voices).to_csv(path, index=False)
        shares.append(table[["participant_id", "session_id"]].assign(interior_litres=random.uniform(size=len(table))))
    pd.concat(shares).to_csv(run / "intensity_shares.csv", index=False)
    page, text = read_page(write_report(run, **FAST))
    assert "streams" in page.ids and "Fusion minus stream" in text and "Score 3 against 1-2" in text
    report = json.loads((run / "cv_metrics.json").read_text())["report"]
    assert report["controls"][-1]["name"] == "Intensity shares of the head's interior"
    alone = report["streams"][0]["alone"]
    assert alone["Global stream alone"]["fusion_minus_stream"]["difference"]["estimate"] == 0


@pytest.mark.usefixtures("unrendered")
def test_perfect_predictions(make_run):
    text = read_page(write_report(make_run(signal=40.0, **SMALL), **FAST))[1]
    assert "so the slope is unbounded" in text and "Clopper-Pearson" in text
    assert "None." in text  # no misclassified scan


@pytest.mark.usefixtures("unrendered")
def test_a_cohort_without_covariates(make_run):
    run = make_run(n=40, twin_pairs=4)
    cohort = pd.read_csv(run / "cohort.csv", dtype=str, keep_default_na=False)
    blank = {c: "" for c in ("sex", "birth_age", "birth_weight", "scan_age", "singleton")}
    cohort.assign(**blank).to_csv(run / "cohort.csv", index=False)
    text = read_page(write_report(run, **FAST))[1]
    assert "Majority class" in text and "PMA at scan" not in text


def write_external(folder, table):
    predictions = pd.DataFrame(
        {
            "scan": [f"/d/sub-{p}/ses-1/anat/sub-{p}_ses-1_T2w.nii.gz" for p in table["participant_id"]],
            "p_injury": table["p_injury"],
            "p_injury_no_tta": table["p_injury"],
            "predicted_label": "",
            "status": "ok",
            "message": "",
        }
    )
    predictions.to_csv(folder / "predictions.csv", index=False)
    table.assign(session_id="1")[["participant_id", "session_id", "label", "scan_age", "sex"]].to_csv(
        folder / "labels.tsv", sep="\t", index=False
    )
    return folder / "predictions.csv", folder / "labels.tsv"


@pytest.mark.usefixtures("unrendered")
def test_external_report(cohort_table, tmp_path):
    table = cohort_table(**SMALL)
    predictions, labels = write_external(tmp_path, table)
    path = write_external_report(predictions, labels, **FAST)
    assert path == tmp_path / "predictions-report" / "report.html"
    text = read_page(path)[1]
    assert "External validation: predictions" in text and "nothing was fitted to these scans" in text
    assert "Optimism audit" not in text and "Controls on the same folds" not in text
    metrics = json.loads((path.parent / "metrics.json").read_text())
    assert metrics["auc"] == pytest.approx(roc_auc_score(table["label"], table["p_injury"]))


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("provenance", [{"synthetic": True}, {"painted": True}, None])
def test_external_report_with_the_warnings_of_the_scans_and_the_caution_of_the_model(
    cohort_table, tmp_path, monkeypatch, provenance
):
    monkeypatch.setattr("evaluation.page.study_drawings", lambda findings: [])
    predictions, labels = write_external(tmp_path, cohort_table(n=30, twin_pairs=2))
    doubts = ["It looks darker than the training scans." if row % 3 == 0 and provenance else "" for row in range(30)]
    pd.read_csv(predictions).assign(warnings=doubts).to_csv(predictions, index=False)
    model = tmp_path / "copied"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"provenance": provenance}))
    path = write_external_report(predictions, labels, model=model, resampling=Resampling(100), permutations=0)
    text, metrics = read_page(path)[1], json.loads((path.parent / "metrics.json").read_text())
    assert metrics["caution"] == caution(provenance)
    if provenance:
        assert metrics["caution"] in text and "Scans with warnings: 10 of 30." in text
        assert metrics["flow"]["used with warnings"] == 10 and "Used: with warnings 10" in text
    else:
        assert "trained on" not in text and "Scans with warnings" not in text and "Used: with warnings 0" in text


@pytest.mark.usefixtures("unrendered")
def test_external_report_of_one_class(cohort_table, tmp_path):
    table = cohort_table(**SMALL)
    predictions, labels = write_external(tmp_path, table[table["label"] == 0])
    text = read_page(write_external_report(predictions, labels, tmp_path / "out", **FAST))[1]
    assert "All scans are of one class" in text and "undefined" in text


def test_comparison_report(make_run, tmp_path):
    runs = [
        make_run(name, signal=signal, noise_seed=k, **SMALL)
        for k, (name, signal) in enumerate([("good", 3.0), ("poor", 0.2)])
    ]
    path = write_comparison(runs, tmp_path / "both", resampling=Resampling(200))
    page, text = read_page(path)
    assert "Comparison of 2 runs" in text and "60 scans that all runs predicted" in text
    assert "All runs, mean ± SD" in text and all(address.startswith("data:") for address in page.fetched)
    assert (tmp_path / "both" / "figures" / "comparison_roc.pdf").is_file()


@pytest.mark.usefixtures("unrendered")
def test_command(make_run, tmp_path, capsys):
    run = make_run(n=40, twin_pairs=4)
    fast = ["--draws", "100", "--permutations", "10"]
    assert main([str(run), *fast]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    (run / "fold-2" / "predictions.csv").unlink()
    assert main([str(run), *fast]) == 1
    error = capsys.readouterr().err
    assert "fold-2/predictions.csv missing (4 of 5 folds done)" in error and "Traceback" not in error
    assert main([str(tmp_path / "nowhere"), *fast]) == 1
    assert "does not exist" in capsys.readouterr().err
    for wrong in ([str(run), "--draws", "5"], [str(run / "cohort.csv")], []):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2


@pytest.mark.usefixtures("unrendered")
def test_a_failed_report_keeps_the_old_one(make_run):
    run = make_run(n=40, twin_pairs=4)
    before = write_report(run, **FAST).read_bytes()
    (run / "fold-0" / "history.csv").unlink()
    with pytest.raises(InputError, match="fold-0/history.csv is missing"):
        write_report(run, **FAST)
    assert (run / "report.html").read_bytes() == before


def test_signal_and_noise_are_told_apart(make_run):
    for name, signal in (("signal", 2.0), ("noise", 0.0)):
        findings = evaluate_study(
            read_run(make_run(name, signal=signal, noise_seed=3)), resampling=Resampling(200), permutations=100
        )
        report = summary_for_json(findings)
        p = report["null"]["pooled_auc"]["fixed_predictions"]["p_value"]
        interval = report["thresholds"]["0.5"]["metrics"]["auc"]
        assert (p < 0.02, interval["low"] > 0.5) == ((True, True) if name == "signal" else (False, False))
        assert np.isfinite(report["calibration"]["slope"]["estimate"])

"""Reading run folders: complete ones, and one sentence on the problem for damaged or incomplete ones."""

import json

import pandas as pd
import pytest

from evaluation.metrics import screening_metrics, write_cv_metrics
from evaluation.study import read_run
from evaluation.thresholds import sensitivity_threshold
from run_folder.files import InputError


def test_a_complete_run_is_read(make_run):
    study = read_run(make_run("good", n=60, twin_pairs=8))
    assert (study.name, study.selection, study.external, study.phantom) == ("good", "last", False, None)
    assert len(study.table) == 60 and study.folds == [0, 1, 2, 3, 4]
    assert study.flow["found"] == 63 and study.flow["used"] == 60
    assert study.flow["poor quality"] == study.flow["unlabelled"] == study.flow["unreadable"] == 1
    assert set(study.exclusions["status"]) == {"poor quality", "unlabelled", "unreadable"}
    assert study.table["birth_age"].between(24, 37).all() and study.table["sex"].isin(["M", "F"]).all()
    assert list(study.thresholds) == ["0.5"] and len(study.histories) == 5


def test_each_scan_gets_the_inner_threshold_of_its_fold(make_run):
    run = make_run(selection="inner", n=60, twin_pairs=8)
    study = read_run(run)
    assert list(study.thresholds) == ["0.5", "Youden", "Sensitivity 0.90"]
    recorded = {
        k: json.loads((run / f"fold-{k}/metrics.json").read_text())["inner"]["threshold_youden"] for k in range(5)
    }
    assert study.thresholds["Youden"].tolist() == study.table["fold"].map(recorded).tolist()
    assert "inner scans; by fold" in study.threshold_notes["Youden"]


def test_a_threshold_of_exactly_0_says_that_it_calls_every_scan(make_run):
    """It is the answer to an injured scan on which the local stream is silent and p_global is at most 0.5."""
    labels, fused = [0] * 5 + [1] * 5, [0.1, 0.0, 0.3, 0.2, 0.0, 0.0, 0.9, 0.8, 0.7, 0.6]
    assert sensitivity_threshold(labels, fused) == 0
    run = make_run(selection="inner", n=30, twin_pairs=3, folds=2, epochs=3)
    for fold, values in ((0, (0.0, 0.0004)), (1, (0.41, 0))):
        path = run / f"fold-{fold}" / "metrics.json"
        content = json.loads(path.read_text())
        content["inner"] |= dict(zip(("threshold_youden", "threshold_sensitivity_90"), values, strict=True))
        path.write_text(json.dumps(content))
    study = read_run(run)
    assert study.threshold_notes["Youden"].endswith("; by fold 0.000 (which calls every scan injured), 0.410")
    assert study.threshold_notes["Sensitivity 0.90"].endswith("; by fold 0.000, 0.000 (which calls every scan injured)")


def test_a_phantom_cohort_is_recognised_by_its_source_or_by_its_images(make_run):
    run = make_run("phantom", n=30, twin_pairs=3, folds=3, phantom="dhcp", images=True)
    assert read_run(run).phantom == "dhcp"
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "source": {"data_dir": "/moved/elsewhere"}}))
    assert read_run(run).phantom == "dhcp"


@pytest.mark.parametrize(
    ("provenance", "phantom", "painted", "caution"),
    [
        ({"cohort": "phantom-clear", "synthetic": True}, "unknown", False, ""),
        ({"cohort": "painted", "synthetic": False, "painted": True}, None, True, ""),
        ({"cohort": "infants", "synthetic": False}, None, False, ""),
        (None, None, False, ""),
        ({"synthetic": True, "federation": {}}, None, False, "trained on synthetic phantoms"),
        ({"synthetic": False, "painted": True, "federation": {}}, None, False, "a program painted into"),
    ],
)
def test_without_its_cohort_a_run_is_what_its_models_say(make_run, provenance, phantom, painted, caution):
    """A federation says what any of its sites has; this one's infants may be real."""
    run = make_run(n=30, twin_pairs=3, folds=2, epochs=2, provenance=provenance)
    if provenance is None:  # as runs of earlier versions
        (run / "fold-0" / "model").mkdir()
        (run / "fold-0" / "model" / "config.json").write_text('{"image_size": 32}')
    study = read_run(run)
    assert (study.phantom, study.painted) == (phantom, painted)
    assert caution in study.caution and bool(caution) == bool(study.caution)


def test_one_fold_that_says_so_is_enough(make_run):
    run = make_run(n=30, twin_pairs=3, folds=2, epochs=2, provenance={"synthetic": False})
    (run / "fold-1" / "model" / "config.json").write_text('{"provenance": {"synthetic": true}}')
    assert read_run(run).phantom == "unknown"


def remove(name):
    return lambda run: (run / name).unlink()


def change(name, edit, **read):
    def apply(run):
        table = pd.read_csv(run / name, dtype=str, keep_default_na=False)
        edit(table).to_csv(run / name, index=False)

    return apply


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (remove("splits.json"), "splits.json is missing"),
        (remove("cohort.csv"), "cohort.csv is missing"),
        (remove("recipe.yaml"), "recipe.yaml is missing"),
        (remove("environment.json"), "environment.json is missing"),
        (remove("fold-2/predictions.csv"), "fold-2/predictions.csv missing \\(4 of 5 folds done\\)"),
        (remove("fold-1/metrics.json"), "fold-1/metrics.json is missing"),
        (remove("fold-0/history.csv"), "fold-0/history.csv is missing"),
        (lambda run: (run / "splits.json").write_text('{"num_folds": 5, '), "not valid JSON .* cut short"),
        (lambda run: (run / "fold-0/metrics.json").write_text("{}"), "how the epoch was selected"),
        (lambda run: (run / "recipe.yaml").write_text("a: [1"), "recipe.yaml is not valid YAML"),
        (change("cohort.csv", lambda t: t.drop(columns="label")), "cohort.csv is not a cohort"),
        (change("cohort.csv", lambda t: t.iloc[1:]), "predicted but cohort.csv does not list it as used"),
        (change("fold-3/predictions.csv", lambda t: t.iloc[1:]), "1 scan\\(s\\) of cohort.csv were never predicted"),
        (change("fold-3/predictions.csv", lambda t: t.assign(label=1 - t["label"].astype(int))), "another label"),
        (
            change("fold-3/history.csv", lambda t: t.drop(columns="val_accuracy")),
            "lacks the column\\(s\\) val_accuracy",
        ),
    ],
)
def test_a_damaged_run_is_refused_in_one_sentence(make_run, breakage, message):
    run = make_run(n=40, twin_pairs=4)
    breakage(run)
    with pytest.raises(InputError, match=message) as caught:
        read_run(run)
    assert "\n" not in str(caught.value)


def test_predictions_of_other_splits_are_refused(make_run):
    run = make_run(n=40, twin_pairs=4)
    splits = json.loads((run / "splits.json").read_text())
    next(iter(splits["participants"].values()))["fold"] = 4
    (run / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(InputError, match="was predicted in fold 0, but splits.json has it in fold 4"):
        read_run(run)


def test_metrics_of_a_synthetic_run_are_those_of_its_predictions(make_run):
    run = make_run(n=40, twin_pairs=4)
    write_cv_metrics(run)
    study = read_run(run)
    pooled = json.loads((run / "cv_metrics.json").read_text())["pooled"]
    assert pooled == screening_metrics(study.table["label"], study.table["p_injury"])

"""Every subset of the modalities on the same scans, and runs of different modalities compared."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.comparison import compare_studies
from evaluation.modalities import evaluate_subsets, read_subsets, with_subsets
from evaluation.report import write_comparison, write_report
from evaluation.study import read_run
from evaluation.table_one import table_one
from evaluation.uncertainty import Resampling
from run_folder.files import InputError, read_json
from run_folder.layout import RunFolder

SMALL = {"n": 60, "twin_pairs": 6, "folds": 2, "epochs": 2}


@pytest.fixture
def several(make_run):
    """A run of T2w, T1w and FA: FA tells the injury, the rest is noise; T1w is missing in a third of the scans."""
    run = RunFolder(make_run("several", signal=4.0, noise_seed=1, **SMALL))
    (run.path / "recipe.yaml").write_text((run.path / "recipe.yaml").read_text() + "modalities: T2w,T1w,FA\n")
    cohort = pd.read_csv(run.cohort, dtype=str, keep_default_na=False)
    has = {modality: np.arange(len(cohort)) % n != 0 for modality, n in (("T1w", 3), ("FA", 60))}
    for modality, there in has.items():
        cohort[modality] = np.where(there & (cohort["status"] == "used"), f"/data/{modality}.nii.gz", "")
    cohort.to_csv(run.cohort, index=False)
    held = {(row["participant_id"], row["session_id"]): row for row in cohort.to_dict("records")}
    random = np.random.default_rng(5)
    for fold in (0, 1):
        table = pd.read_csv(run.fold(fold).predictions, dtype={"participant_id": str, "session_id": str})
        rows = []
        for name in ("T2w", "T2w+T1w", "T2w+FA", "T2w+T1w+FA"):
            for row in table.to_dict("records"):
                of_scan = held[row["participant_id"], row["session_id"]]
                present = "+".join(["T2w", *(m for m in ("T1w", "FA") if of_scan[m])])
                p = row["p_injury"] if "FA" in name else random.random()
                keys = {key: row[key] for key in ("participant_id", "session_id", "family", "fold", "label")}
                rows.append({**keys, "modalities": name, "present": present, "p_injury": p})
        pd.DataFrame(rows).to_csv(run.fold(fold).modality_subsets, index=False)
    return run


def test_each_subset_is_scored_on_the_same_scans_and_the_loss_has_an_interval(several):
    study = read_run(several.path)
    subsets = read_subsets(several, study.table)
    whole, complete = evaluate_subsets(study.table, subsets, Resampling(200))
    assert list(whole.subsets) == ["T2w", "T2w+T1w", "T2w+FA", "T2w+T1w+FA"] and (whole.n, complete.n) == (60, 40)
    for part, rows in ((whole, slice(None)), (complete, subsets["present"] == "T2w+T1w+FA")):
        label = study.table["label"][rows]
        for name, (auc, pair) in part.subsets.items():
            assert auc.estimate == pytest.approx(roc_auc_score(label, subsets[name][rows]))
            if pair is not None:
                everything = roc_auc_score(label, subsets["T2w+T1w+FA"][rows])
                assert pair.difference.estimate == pytest.approx(everything - auc.estimate)
    assert whole.subsets["T2w"][1].difference.low > 0.1  # FA is missed
    assert whole.subsets["T2w+FA"][1].difference.estimate == 0  # T1w is not
    assert whole.subsets["T2w+T1w+FA"][1] is None
    assert evaluate_subsets(study.table, None) == []


def test_the_report_shows_the_subsets_the_flow_and_how_many_of_each_class_have_a_modality(several, monkeypatch):
    monkeypatch.setattr("evaluation.page.study_drawings", lambda findings: [])  # the figures are those of any run
    page = write_report(several.path, permutations=0, resampling=Resampling(100), with_scans=False).read_text()
    assert "Without a modality" in page and "<b>T2w+T1w+FA</b>" in page and "Scans with every modality" in page
    assert "Used: with T1w" in page and "T1w available" in page
    report = read_json(several.cv_metrics)["report"]
    assert report["modalities"][0]["shown"]["T2w"]["all_minus_shown"]["difference"]["low"] > 0.1
    rows = table_one(read_run(several.path).table).set_index("variable")
    counts = [int(rows.loc["T1w available", label].split()[0]) for label in ("normal", "injury")]
    assert sum(counts) == 40


def test_a_run_of_several_modalities_is_also_compared_on_what_the_other_run_has(several, make_run, tmp_path):
    alone = make_run("alone", signal=0.3, noise_seed=2, **SMALL)
    page = write_comparison([alone, several.path], tmp_path / "out", resampling=Resampling(100)).read_text()
    assert "several, shown T2w only" in page and "<td>T2w+T1w+FA</td>" in page
    study = read_run(several.path)
    subsets = read_subsets(several, study.table)
    studies = with_subsets([read_run(alone), study.__class__(**{**study.__dict__, "subsets": subsets})])
    result = compare_studies(studies, Resampling(200))
    assert result.names == ("alone", "several", "several, shown T2w only")
    assert result.differences["several", "several, shown T2w only"].difference.low > 0
    shown = result.differences["alone", "several, shown T2w only"]
    assert shown.auc_b == pytest.approx(roc_auc_score(study.table["label"], subsets["T2w"]))


def test_runs_of_t2w_alone_stay_as_they_are_and_damage_is_named(several, make_run, tmp_path):
    alone = make_run("alone", **SMALL)
    study = read_run(alone)
    assert read_subsets(RunFolder(alone), study.table) is None and with_subsets([study]) == [study]
    assert "Network of" not in write_comparison([alone, alone], tmp_path / "out", resampling=Resampling(50)).read_text()
    file = several.fold(1).modality_subsets
    whole, table = file.read_text(), pd.read_csv(file)
    table.assign(p_injury=table["p_injury"] * 0.5).to_csv(file, index=False)
    study = read_run(several.path)
    with pytest.raises(InputError, match="modality_subsets.csv and predictions.csv disagree, e.g. on sub-CC"):
        read_subsets(several, study.table)
    file.write_text(whole.replace(",0.", ",7.", 1))
    with pytest.raises(InputError, match="is damaged"):
        read_subsets(several, study.table)
    file.unlink()
    with pytest.raises(InputError, match=r"fold-1.modality_subsets\.csv"):
        read_subsets(several, study.table)

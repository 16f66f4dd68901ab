"""Comparison of runs: paired on shared scans, and refused if that is impossible."""

import pytest
from sklearn.metrics import roc_auc_score

from evaluation.comparison import compare_studies
from evaluation.study import read_run
from evaluation.uncertainty import Resampling
from run_folder.files import InputError


def test_two_runs_of_one_cohort(make_run):
    strong = read_run(make_run("strong", signal=3.0, noise_seed=1))
    weak = read_run(make_run("weak", signal=0.5, noise_seed=2))
    result = compare_studies([strong, weak], resampling=Resampling(500))
    assert result.names == ("strong", "weak") and result.same_folds and len(result.table) == 128
    difference = result.differences["strong", "weak"]
    auc = [roc_auc_score(s.table["label"], s.table["p_injury"]) for s in (strong, weak)]
    assert (difference.auc_a, difference.auc_b) == (pytest.approx(auc[0]), pytest.approx(auc[1]))
    assert difference.difference.low > 0 and difference.p_value < 0.01
    assert result.metrics["weak"]["auc"].estimate == pytest.approx(auc[1])


def test_three_runs_are_compared_in_pairs_and_equal_names_made_unique(make_run, tmp_path):
    studies = [read_run(make_run(f"{k}/same", n=40, twin_pairs=4, noise_seed=k)) for k in range(3)]
    result = compare_studies(studies, resampling=Resampling(100))
    assert result.names == ("same (1)", "same (2)", "same (3)") and len(result.differences) == 3


def test_only_shared_scans_count(make_run):
    whole = read_run(make_run("whole", n=40, twin_pairs=4))
    part = read_run(make_run("part", n=40, twin_pairs=4, noise_seed=1))
    reduced = type(part)(**{**part.__dict__, "table": part.table.iloc[5:].reset_index(drop=True)})
    result = compare_studies([whole, reduced], resampling=Resampling(50))
    assert len(result.table) == 35 and result.left_out == {"whole": 5, "part": 0}


def test_different_folds_are_detected(make_run):
    a = read_run(make_run("a", n=40, twin_pairs=4))
    renamed = type(a)(**{**a.__dict__, "name": "b", "table": a.table.assign(fold=(a.table["fold"] + 1) % 5)})
    other = type(a)(**{**a.__dict__, "name": "c", "table": a.table.assign(fold=a.table["fold"] // 2)})
    assert compare_studies([a, renamed], resampling=Resampling(20)).same_folds
    assert not compare_studies([a, other], resampling=Resampling(20)).same_folds


def test_runs_that_cannot_be_compared_are_refused(make_run):
    a = read_run(make_run("a", n=40, twin_pairs=4))
    turned = type(a)(**{**a.__dict__, "name": "b", "table": a.table.assign(label=1 - a.table["label"])})
    with pytest.raises(InputError, match="labelled differently in a and b"):
        compare_studies([a, turned])
    strangers = type(a)(**{**a.__dict__, "name": "b", "table": a.table.assign(session_id="9")})
    with pytest.raises(InputError, match="no scan in common"):
        compare_studies([a, strangers])
    with pytest.raises(InputError, match="at least two runs"):
        compare_studies([a])

"""Parts of the cohort: which scans belong to them, and their metrics."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.subgroups import SENSITIVITY_ANALYSES, SUBGROUPS, evaluate_parts
from evaluation.uncertainty import Resampling


def chosen(name, table):
    return SENSITIVITY_ANALYSES[name][1](table).tolist()


def test_which_scans_belong():
    table = pd.DataFrame(
        {
            "participant_id": ["A", "A", "B", "C"],
            "session_id": ["2", "1", "1", "1"],
            "family": ["F", "F", "F", "G"],
            "radiology_score": ["5", "3", "4", ""],
            "scan_age": [36.9, 37.0, 40.0, np.nan],
        }
    )
    assert chosen("Score 5 against 1-2", table) == [True, False, False, False]
    assert chosen("Score 3 against 1-2", table) == [False, True, False, False]
    assert chosen("Without score 4", table) == [True, True, False, True]
    assert chosen("One sibling per family", table) == [True, True, False, True]
    assert chosen("First session only", table) == [True, False, True, True]  # by age, not by session id
    assert chosen("PMA 37 weeks or more at scan", table) == [False, True, True, False]


def test_age_groups_do_not_overlap_and_leave_no_gap():
    ages = pd.DataFrame({"scan_age": np.arange(26, 46, 0.1), "birth_age": np.arange(26, 46, 0.1), "sex": "M"})
    pma = [rule(ages) for name, (_, rule) in SUBGROUPS.items() if name.startswith("PMA")]
    birth = [rule(ages) for name, (_, rule) in SUBGROUPS.items() if name.startswith("Born")]
    assert (np.sum(pma, axis=0) == 1).all() and (np.sum(birth, axis=0) == 1).all()


def test_metrics_of_a_part_use_only_its_scans(cohort_table):
    table = cohort_table()
    threshold = np.where(table["fold"] == 0, 0.9, 0.5)
    parts = {part.name: part for part in evaluate_parts(table, SUBGROUPS, threshold, resampling=Resampling(200))}
    boys = table[table["sex"] == "M"]
    assert parts["Boys"].metrics["auc"].estimate == pytest.approx(roc_auc_score(boys["label"], boys["p_injury"]))
    called = (boys["p_injury"] >= threshold[table["sex"] == "M"])[boys["label"] == 1]
    assert parts["Boys"].metrics["sensitivity"].estimate == pytest.approx(called.mean())
    assert parts["Boys"].n + parts["Girls"].n == parts["All scans"].n == 128
    assert next(iter(parts)) == "All scans"


def test_parts_without_two_classes_or_data(cohort_table):
    table = cohort_table().drop(columns="scan_age")
    table.loc[table["sex"] == "F", "label"] = 0
    parts = {
        part.name: part
        for part in evaluate_parts(table, {**SUBGROUPS, **SENSITIVITY_ANALYSES}, resampling=Resampling(50))
    }
    assert parts["Girls"].metrics == {} and "are normal" in parts["Girls"].note
    assert not any("PMA" in name or "session" in name for name in parts)
    assert "Born at 37 weeks or later" not in parts  # there is no such scan

"""Table 1, checked with the p-values of the paper, with scipy and by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evaluation.published import COHORT, TABLE_1
from evaluation.table_one import (
    compare_proportions,
    fold_counts,
    score_counts,
    standardised_mean_difference,
    standardised_proportion_difference,
    table_one,
)


@pytest.mark.parametrize("name", ["birth_age", "birth_weight", "scan_age"])
def test_welch_gives_the_p_values_of_the_paper(name):
    (mean0, sd0), (mean1, sd1), printed = TABLE_1[name]
    n0, n1 = COHORT["normal"], COHORT["injury"]
    welch = stats.ttest_ind_from_stats(mean0, sd0, n0, mean1, sd1, n1, equal_var=False).pvalue
    assert welch == pytest.approx(printed, abs=0.0035)  # the means are printed to two decimals
    if name == "birth_age":  # a test that assumes equal variances does not
        assert abs(stats.ttest_ind_from_stats(mean0, sd0, n0, mean1, sd1, n1).pvalue - printed) > 0.01


def test_yates_correction_gives_the_p_value_of_the_paper():
    normal, injury, printed = TABLE_1["male"]
    p_value, test = compare_proportions(np.array([[normal, 74 - normal], [injury, 54 - injury]]))
    assert p_value == pytest.approx(printed, abs=0.0005) and test == "chi-square, Yates"


def test_small_counts_use_fisher():
    counts = np.array([[1, 9], [4, 3]])
    p_value, test = compare_proportions(counts)
    assert (p_value, test) == (pytest.approx(stats.fisher_exact(counts).pvalue), "Fisher")
    assert compare_proportions(np.array([[3, 0], [4, 0]])) == (None, "")


def test_standardised_differences_by_hand():
    assert standardised_mean_difference(np.array([1.0, 2, 3]), np.array([3.0, 4, 5])) == pytest.approx(2.0)
    assert standardised_proportion_difference(0.5, 0.7) == pytest.approx(0.2 / np.sqrt((0.25 + 0.21) / 2))
    assert standardised_mean_difference(np.array([1.0]), np.array([2.0, 3.0])) is None
    assert standardised_proportion_difference(0.0, 0.0) is None


def test_table_of_a_cohort(cohort_table):
    scans = cohort_table()
    table = table_one(scans).set_index("variable")
    row = table.loc["Gestational age at birth (weeks)"]
    a, b = (scans.loc[scans["label"] == k, "birth_age"] for k in (0, 1))
    assert row["normal"] == f"{a.mean():.2f} ± {a.std():.2f}" and row["n_injury"] == len(b)
    assert row["p_value"] == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    male = table.loc["Male", "normal"]
    assert male.startswith(f"{(scans[scans['label'] == 0]['sex'] == 'M').sum()} (")
    assert list(table.index)[-1] == "Multiple birth"


def test_unknown_variables_are_left_out_and_missing_values_counted():
    scans = pd.DataFrame(
        {
            "label": [0, 0, 0, 1, 1],
            "birth_age": [30.0, 31, np.nan, 29, 28],
            "birth_weight": np.nan,
            "sex": ["M", "", "F", "M", "M"],
        }
    )
    table = table_one(scans).set_index("variable")
    assert list(table.index) == ["Gestational age at birth (weeks)", "Male"]
    assert table.loc["Gestational age at birth (weeks)", ["n_normal", "n_injury"]].tolist() == [2, 2]
    assert table.loc["Male", ["normal", "n_normal"]].tolist() == ["1 (50.0 %)", 2]
    one_sided = table_one(scans[scans["label"] == 0]).set_index("variable")
    assert one_sided.loc["Male", "injury"] == "none known" and one_sided.loc["Male", "p_value"] is None


def test_counts_by_score_and_fold():
    scans = pd.DataFrame(
        {
            "participant_id": ["A", "A", "B", "C"],
            "family": ["F", "F", "F", "G"],
            "radiology_score": ["1", "3", "3", ""],
            "label": [0, 1, 1, 0],
            "fold": [0, 0, 0, 1],
        }
    )
    scores = score_counts(scans).set_index("score")
    assert scores.loc["3", ["scans", "infants", "families"]].tolist() == [2, 2, 1]
    assert "unknown" in scores.index
    assert fold_counts(scans).iloc[0].tolist() == [0, 3, 2, 2, 1]

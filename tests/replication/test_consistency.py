"""Reachability of published rows: a row printed from a matrix is reachable, and impossible rows are found."""

import runpy

import numpy as np
import pytest

from evaluation.metrics import metrics_from_counts
from evaluation.published import TABLE_2_COLUMNS, TABLE_2_MEANS
from replication import consistency
from replication.consistency import check_row, main, sizes_reaching, stratified_folds
from replication.reachability import Reported, matrices_of
from run_folder.files import InputError


@pytest.mark.parametrize(
    ("text", "value", "half_unit"),
    [
        ("75.18%", 0.7518, 0.00005),
        ("75.18 %", 0.7518, 0.00005),
        (".450", 0.45, 0.0005),
        ("0.45", 0.45, 0.005),
        ("1", 1, 0.5),
        ("−0.1", -0.1, 0.05),
    ],
)
def test_printed_decimals_set_the_precision(text, value, half_unit):
    figure = Reported.parse(text)
    assert (figure.value, figure.half_unit) == (pytest.approx(value), pytest.approx(half_unit))


def test_metrics_of_all_matrices_equal_those_of_the_evaluation():
    matrices, values = matrices_of(7, 5)
    assert len(matrices) == 8 * 6 and np.all(matrices[:, 0] + matrices[:, 1] == 7)
    for row, (tn, fp, fn, tp) in enumerate(matrices.tolist()):
        expected, undefined = metrics_from_counts(tn, fp, fn, tp)
        for name, value in expected.items():
            assert values[name][row] == pytest.approx(0.0 if name in undefined else value)


@pytest.mark.parametrize("seed", range(15))
def test_every_row_printed_from_a_matrix_is_reachable(seed):
    random = np.random.default_rng(seed)
    tp, tn = int(random.integers(1, 54)), int(random.integers(1, 74))
    values, _ = metrics_from_counts(tn, 74 - tn, 54 - tp, tp)
    row = {name: f"{100 * values[name]:.2f}%" if name == "accuracy" else f"{values[name]:.3f}" for name in values}
    verdict = check_row(row, 74, 54)[0]
    assert verdict.reachable and (tn, 74 - tn, 54 - tp, tp) in verdict.matrices


@pytest.mark.parametrize("seed", range(3))
def test_every_mean_over_folds_is_reachable(seed):
    random = np.random.default_rng(seed)
    each = []
    for normal, injury in stratified_folds(30, 20, 5):
        tn, tp = int(random.integers(2, normal)), int(random.integers(1, injury))
        each.append(metrics_from_counts(tn, normal - tn, injury - tp, tp)[0])
    row = {name: f"{np.mean([fold[name] for fold in each]):.3f}" for name in ("accuracy", "sensitivity", "f1")}
    verdict = check_row(row, 30, 20, folds=5)[1]
    assert verdict.reachable and len(verdict.matrices) == 5
    # the means of the matrices found print as the row does
    again = [metrics_from_counts(*matrix)[0] for matrix in verdict.matrices]
    for name, text in row.items():
        assert np.mean([fold[name] for fold in again]) == pytest.approx(float(text), abs=0.0005 + 1e-6)


def test_mean_over_folds_agrees_with_trying_every_pair_of_matrices():
    folds = [(3, 2), (2, 2)]
    tables = [matrices_of(*fold)[1] for fold in folds]
    names = ("accuracy", "f1", "mcc")
    means = np.stack([(tables[0][n][:, None] + tables[1][n][None, :]).ravel() / 2 for n in names], axis=1)
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(40):
        near = means[random.integers(len(means))] + random.normal(scale=0.01, size=3)
        row = {n: f"{v:.2f}" for n, v in zip(names, near, strict=True)}
        printed = np.array([float(v) for v in row.values()])
        expected = bool((np.abs(means - printed) <= 0.005 + 1e-9).all(axis=1).any())
        assert check_row(row, 5, 4, folds=folds)[1].reachable == expected
        outcomes.add(expected)
    assert outcomes == {True, False}


def test_the_papers_table_2_is_not_reachable_from_one_matrix():
    for row in TABLE_2_MEANS.values():
        for rounding in ("nearest", "any"):
            verdict = check_row(dict(zip(TABLE_2_COLUMNS, row, strict=True)), 74, 54, rounding=rounding)[0]
            assert not verdict.reachable and not verdict.other_f1


def test_the_row_of_gloresnet_computed_by_hand():
    # 75.18 % of 128 is 96.2 scans; 96 and 97 print as 75.00 and 75.78
    assert check_row({"accuracy": "75.18%"}, 74, 54)[0].conflicts == (("accuracy",),)
    # accuracy is a weighted mean of sensitivity and specificity, so it cannot be below both, even after rounding
    assert check_row({"accuracy": "0.750", "sensitivity": ".76", "specificity": ".81"}, 74, 54)[0].conflicts == (
        ("accuracy", "sensitivity", "specificity"),
    )
    verdict = check_row(dict(zip(TABLE_2_COLUMNS, TABLE_2_MEANS["GloResNet, mean"], strict=True)), 74, 54, 5)[1]
    assert verdict.reading == "mean over 5 folds" and not verdict.reachable
    assert verdict.conflicts[0] == ("accuracy",)
    assert verdict.conflicts[1] == ("sensitivity", "specificity", "mcc")


def test_peak_accuracy_needs_a_fold_of_11_22_or_33():
    assert sizes_reaching("81.82%", 40) == [11, 22, 33]


def test_another_definition_of_f1_is_named():
    # tn 60 fp 14 fn 20 tp 34: F1 of the injury class 0.667, of the normal class 0.779, macro 0.723, weighted 0.732
    row = {"accuracy": "73.44%", "sensitivity": "0.630", "specificity": "0.811", "f1": "0.732"}
    verdict = check_row(row, 74, 54)[0]
    assert not verdict.reachable and verdict.other_f1 == ("f1_weighted",)


def test_auc_is_bounded_by_its_operating_point():
    row = {"sensitivity": "0.90", "specificity": "0.90"}
    assert check_row({**row, "auc": "0.82"}, 10, 10)[0].reachable
    assert check_row({**row, "auc": "0.80"}, 10, 10)[0].conflicts == (("sensitivity", "specificity", "auc"),)
    assert not check_row({**row, "auc": "0.995"}, 10, 10)[0].reachable


def test_rounding_any_allows_truncated_decimals():
    assert not check_row({"accuracy": "0.66"}, 2, 1)[0].reachable
    assert check_row({"accuracy": "0.66"}, 2, 1, rounding="any")[0].reachable


@pytest.mark.parametrize(("normal", "injury", "folds"), [(74, 54, 5), (28, 20, 5), (9, 7, 4)])
def test_folds_are_even(normal, injury, folds):
    each = stratified_folds(normal, injury, folds)
    assert [sum(counts) for counts in zip(*each, strict=True)] == [normal, injury]
    assert np.ptp(np.sum(each, axis=1)) <= 1 and np.ptp(each, axis=0).max() <= 1


@pytest.mark.parametrize(
    ("row", "counts", "message"),
    [
        ({"kappa": "0.4"}, (3, 3), "Give values of accuracy"),
        ({}, (3, 3), "got none"),
        ({"accuracy": "high"}, (3, 3), "is not a number; write 0.76 or 75.18%"),
        ({"accuracy": "0.5"}, (0, 0), "Class counts must not be negative"),
    ],
)
def test_a_bad_row_gives_one_sentence(row, counts, message):
    with pytest.raises(InputError, match=message):
        check_row(row, *counts)


def test_the_command_checks_a_row_or_a_table(tmp_path, capsys):
    arguments = ["--normal", "6", "--injury", "4", "--accuracy", "70%", "--sensitivity", ".75"]
    assert main([*arguments, "--specificity", ".67"]) == 0
    assert "one matrix: reachable, e.g. tn 4 fp 2 fn 1 tp 3" in capsys.readouterr().out
    table = tmp_path / "published.csv"
    table.write_text("name,normal,injury,folds,accuracy,f1\nA,74,54,,75.18%,.780\nB,6,4,2,0.70,\n")
    assert main(["--table", str(table)]) == 0
    out = capsys.readouterr().out
    assert "A (74 normal, 54 injured)\n  one matrix: NOT reachable; impossible: accuracy\n" in out
    assert "mean over 2 folds: reachable" in out
    assert main(["--table", str(tmp_path / "none.csv")]) == 1
    assert "none.csv is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["--accuracy", "70%"])
    assert caught.value.code == 2


def test_the_command_without_arguments_checks_table_2(monkeypatch, capsys):
    monkeypatch.setitem(consistency.COHORT, "folds", 5)
    monkeypatch.setattr(
        consistency,
        "check_row",
        lambda row, normal, injury, folds=None, rounding="nearest": check_row(row, normal, injury),
    )  # the fold means take 20 s and are tested above
    assert main([]) == 0
    out = capsys.readouterr().out
    assert out.count("NOT reachable") == 9 and "81.82% needs 11, 22, 33" in out


def test_the_former_command_names_the_new_one(capsys):
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("evaluation.consistency", run_name="__main__")
    assert caught.value.code == 2
    assert "this command is now python -m replication.consistency" in capsys.readouterr().err

"""Where the files of a run are: the names that users and other programs rely on."""

from pathlib import Path

import pytest

from run_folder.files import InputError
from run_folder.layout import ModelFolder, RunFolder


def test_names_of_a_runs_files():
    run = RunFolder("runs/demo")
    below = {str(path.relative_to("runs/demo")) for path in run.files}
    assert below == {
        *("splits.json", "recipe.yaml", "environment.json", "cohort.csv", "intensity_shares.csv"),
        *("cv_metrics.json", "report.html"),
    }
    assert run.figures == Path("runs/demo/figures") and run.lock == Path("runs/demo/.lock")
    assert str(run) == "runs/demo" and run == RunFolder(Path("runs/demo"))


def test_names_of_a_models_files():
    fold = RunFolder("runs/demo").fold(3)
    assert fold == ModelFolder(Path("runs/demo/fold-3")) and str(fold) == "runs/demo/fold-3"
    assert fold.run == RunFolder("runs/demo")
    found = [fold.config, fold.card, fold.predictions, fold.metrics, fold.history, fold.checkpoints, fold.lock]
    names = ["model/config.json", "model/README.md", "predictions.csv", "metrics.json", "history.csv", "checkpoints"]
    assert [str(path.relative_to(fold.path)) for path in found] == [*names, ".lock"]


def test_a_model_is_found_by_its_number_or_name():
    run = RunFolder("runs/demo")
    assert run.trained(2) == run.fold(2) == run.folds(3)[2]
    assert run.trained("refit") == run.refit and run.refit.path.name == "refit"
    assert run.trained("ensemble") == run.ensemble and run.ensemble.path.name == "ensemble"


def test_a_run_has_a_name_even_when_given_as_a_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunFolder(".").name == tmp_path.name


def test_existing_folds(tmp_path):
    for name in ("fold-1", "fold-0", "fold-x", "refit"):
        (tmp_path / name).mkdir()
    assert [fold.path.name for fold in RunFolder(tmp_path).existing_folds()] == ["fold-0", "fold-1"]


@pytest.mark.parametrize("count", [10**9, 101, 1, 0, -1, True, 5.0, "5", None, [], {}])
def test_a_number_of_folds_that_no_run_has_is_refused(count):
    with pytest.raises(InputError, match="runs/demo is damaged: its number of folds .num_folds. is .*, not 2 to 100"):
        RunFolder("runs/demo").folds(count)

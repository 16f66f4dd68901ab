"""Starting and continuing a run in a folder, and the lock of a fold."""

import importlib.metadata
import multiprocessing

import pytest
import yaml

from machine.cores import available_cores
from run_folder.files import read_json
from run_folder.layout import ModelFolder, RunFolder
from training.recipe import load_recipe
from training.run import RunError, claim_fold, open_run

SOURCE = {"data_dir": "/data/bids", "labels": None}


def test_the_number_of_threads_is_chosen_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    recipe = open_run(RunFolder(tmp_path), load_recipe("demo"), SOURCE, num_processes=1)
    assert recipe.num_threads == available_cores()
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["num_threads"] == available_cores()
    monkeypatch.setattr("training.run.available_cores", lambda: 64)
    assert open_run(RunFolder(tmp_path), load_recipe("demo"), SOURCE, num_processes=1) == recipe


def test_the_environment_of_a_run_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr("training.run.project_version", lambda: {"version": "1.2.3", "commit": "abc-dirty"})
    open_run(RunFolder(tmp_path), load_recipe("demo"), SOURCE, num_processes=1)
    recorded = read_json(RunFolder(tmp_path).environment)
    assert recorded["gloresnet"] == {"version": "1.2.3", "commit": "abc-dirty"}
    assert recorded["source"] == SOURCE and recorded["packages"]["torch"] == importlib.metadata.version("torch")


def test_processes_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("training.run.available_cores", lambda: 12)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert open_run(RunFolder(tmp_path), load_recipe("demo"), SOURCE, num_processes=8).num_threads == 3


@pytest.mark.parametrize(
    ("settings", "source", "processes", "message"),
    [
        ({"seed": 1}, SOURCE, 1, "seed: 1, not 42"),
        ({}, SOURCE | {"labels": "/other.csv"}, 1, "labels: '/other.csv', not None"),
        ({}, SOURCE, 2, "number of processes: 2, not 1"),
    ],
)
def test_other_settings_are_refused_and_named(tmp_path, settings, source, processes, message):
    open_run(RunFolder(tmp_path), load_recipe("demo"), SOURCE, num_processes=1)
    with pytest.raises(RunError, match=message):
        open_run(RunFolder(tmp_path), load_recipe("demo", **settings), source, num_processes=processes)


def test_a_run_killed_in_its_first_second_can_be_started_again(tmp_path):
    load_recipe("demo").save(tmp_path / "recipe.yaml")
    (tmp_path / ".environment.json.partial").write_text("{")
    open_run(RunFolder(tmp_path), load_recipe("demo"), SOURCE, num_processes=1)


def test_overwrite_removes_only_the_files_of_a_run(tmp_path):
    open_run(RunFolder(tmp_path), load_recipe("demo"), SOURCE, num_processes=1)
    (tmp_path / "fold-0" / "model").mkdir(parents=True)
    (tmp_path / "fold-gate").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    open_run(RunFolder(tmp_path), load_recipe("demo", seed=1), SOURCE, num_processes=1, overwrite=True)
    assert not (tmp_path / "fold-0").exists()
    assert (tmp_path / "fold-gate").is_dir() and (tmp_path / "notes.txt").is_file()


def hold(folder, holding, release):
    with claim_fold(ModelFolder(folder), True):
        holding.set()
        release.wait(30)


def test_a_fold_is_trained_by_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    holding, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "fold-0", holding, release))
    other.start()
    assert holding.wait(60)
    with pytest.raises(RunError, match="Another process is training"), claim_fold(RunFolder(tmp_path).fold(0), True):
        pass
    release.set()
    other.join(30)
    with claim_fold(RunFolder(tmp_path).fold(0), True):
        pass

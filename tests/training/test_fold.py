"""A fold in this process, on a tiny network and random volumes."""

import resource

import pandas as pd
import pytest
import torch

from run_folder.files import WriteError
from run_folder.layout import RunFolder
from training.data import split_scans
from training.fold import open_fold
from training.recipe import load_recipe

SETTINGS = {"architecture": "compact", "image_size": 16, "per_device_train_batch_size": 2, "num_folds": 2}
RECIPE = load_recipe("demo", num_train_epochs=2, **SETTINGS)


def state(fold):
    return {name: value.clone() for name, value in fold.state().items()}


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_stopped_fold_continues_to_the_same_weights_and_predictions(data, tmp_path):
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    with open_fold(0, data, RECIPE, whole) as fold:
        first, second = fold.epoch(1), fold.epoch(2)
        expected, result = state(fold), fold.finish()
    with open_fold(0, data, RECIPE, stopped) as fold:
        fold.epoch(1)
    with open_fold(0, data, RECIPE, stopped) as fold:
        before = state(fold)
        assert fold.epoch(1)["train_loss"] == first["train_loss"]
        assert equal(before, fold.state())  # the checkpoint has this epoch, so it was not trained again
        assert fold.epoch(2)["train_loss"] == second["train_loss"]
        assert equal(expected, fold.state())
        fold.finish()
    assert whole.fold(0).predictions.read_bytes() == stopped.fold(0).predictions.read_bytes()
    assert pd.read_csv(whole.fold(0).history)["selected"].tolist() == [0, 1]
    assert result.metrics["n"] == 4 and result.metrics["train_scans"] == 4
    assert result.network.config.provenance["cohort"] == "noise" and not result.network.training
    assert not whole.fold(0).metrics.exists()  # train.py writes it last


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_one_before(data, tmp_path):
    whole, run = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    with open_fold(0, data, RECIPE, whole) as fold:
        fold.epoch(1), fold.epoch(2)
        expected = state(fold)
    with open_fold(0, data, RECIPE, run) as fold:
        fold.epoch(1)
        weights = fold.folder.checkpoints / "epoch-001" / "model.safetensors"
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # the weights fit and the state of AdamW, of twice their size, does not: torch fails in the middle of a file
        resource.setrlimit(resource.RLIMIT_FSIZE, (weights.stat().st_size * 3 // 2, before[1]))
        try:
            with pytest.raises(WriteError, match="epoch-002 could not be written: is its disk full?"):
                fold.epoch(2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [path.name for path in fold.folder.checkpoints.iterdir()] == ["epoch-001"]
    with open_fold(0, data, RECIPE, run) as fold:
        fold.epoch(2)
        assert equal(expected, fold.state())


def test_epochs_are_trained_in_order(data, tmp_path):
    with open_fold(0, data, RECIPE, RunFolder(tmp_path)) as fold:
        for number in (0, 2):
            with pytest.raises(ValueError, match=f"0 epochs are trained, so the next is not epoch {number}"):
                fold.epoch(number)


def test_an_epoch_starts_from_the_weights_it_is_given(data, tmp_path):
    def train(run, weights=None, **options):
        with open_fold(0, data, RECIPE, RunFolder(tmp_path / run), **options) as fold:
            initial = state(fold)
            fold.epoch(1, weights)
            return initial, state(fold)

    initial, trained = train("own")
    other, _ = train("other_seed", seed=7)
    assert not equal(initial, other)
    assert equal(trained, train("given", initial)[1])
    assert not equal(trained, train("given_others", other)[1])
    assert not equal(trained, train("other_loss", loss_weights=torch.tensor([0.2, 1.8]))[1])


def test_the_refit_trains_on_every_scan_and_holds_none_out(data, tmp_path):
    run = RunFolder(tmp_path)
    with open_fold("refit", data, RECIPE, run) as fold:
        fold.epoch(1)
        result = fold.finish()
    assert result.metrics is None and result.network.config.provenance["train_scans"] == 8
    assert run.refit.history.is_file() and not run.refit.predictions.exists()


def test_the_inner_scans_come_out_of_the_training_part(data):
    last = split_scans(1, data, RECIPE)
    inner = split_scans(1, data, load_recipe("demo", selection="inner", **SETTINGS))
    assert not last.inner and inner.inner and inner.held_out == last.held_out
    assert {*inner.train, *inner.inner} == set(last.train)

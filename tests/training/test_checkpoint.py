"""Checkpoints: what they restore, which damage they notice, and that reading one runs no code."""

import hashlib
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from run_folder.files import InputError
from run_folder.layout import RunFolder
from training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from training.fold import open_fold
from training.recipe import load_recipe

ROOT = Path(__file__).parent.parent.parent
RECIPE = load_recipe(
    "demo", architecture="compact", image_size=16, per_device_train_batch_size=2, num_folds=2, num_train_epochs=3,
    selection="inner",
)  # fmt: skip


def state(fold):
    """Everything that the next epoch depends on, apart from the random numbers."""
    kept = fold.optimizer.state_dict()
    moments = {f"{n}.{name}": value for n, tensors in kept["state"].items() for name, value in tensors.items()}
    own = {name: value.clone() for name, value in {**fold.state(), **moments, **(fold.selected or {})}.items()}
    return own, kept["param_groups"], [{**row, "seconds": 0} for row in fold.history]


def assert_equal(first, second):
    assert first[0].keys() == second[0].keys() and first[1:] == second[1:]
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name]), name


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Both folds of a run after three epochs, and the state of fold 0 then."""
    run = RunFolder(tmp_path_factory.mktemp("trained") / "run")
    for number in (1, 0):
        with open_fold(number, data, RECIPE, run) as fold:
            for epoch in (1, 2, 3):
                fold.epoch(epoch)
            expected = state(fold)
    return run, expected


@pytest.fixture
def stopped(trained, tmp_path):
    """A copy of that run, and the checkpoints of fold 0."""
    run = RunFolder(shutil.copytree(trained[0].path, tmp_path / "run"))
    return run, run.fold(0).checkpoints


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_fold(path):
    shutil.copyfile(path.parents[3] / "fold-1" / "checkpoints" / path.parent.name / path.name, path)


def other_epoch(path):
    shutil.copyfile(path.parents[1] / "epoch-002" / path.name, path)


def one_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def folder(path):
    path.unlink()
    path.mkdir()


def loop(path):
    path.unlink()
    path.symlink_to(path.name)


DAMAGES = [
    ("optimizer.safetensors", half, "were saved"),
    ("model.safetensors", one_bit, "SHA-256"),
    ("selected.safetensors", half, "were saved"),
    ("progress.json", half, "were saved"),
    ("random-0.json", half, "were saved"),
    ("manifest.json", half, "not valid JSON"),
    ("random-0.json", Path.unlink, "is missing"),
    ("manifest.json", Path.unlink, "is missing"),
    ("optimizer.safetensors", other_epoch, "another checkpoint"),
    ("optimizer.safetensors", other_fold, "another checkpoint"),
    ("model.safetensors", folder, "is missing"),
    ("model.safetensors", loop, "is missing"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES, ids=[f"{d.__name__}-{n}" for n, d, _ in DAMAGES])
def test_a_damaged_file_is_named_and_the_epoch_before_is_used(data, stopped, capsys, name, damage, message):
    run, folder = stopped
    damage(folder / "epoch-003" / name)
    with open_fold(0, data, RECIPE, run) as fold:
        assert len(fold.history) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if "epoch-003" in line]
    assert f"epoch-003/{name} is " in sentence and message in sentence
    assert sentence.endswith("Training continues after epoch 2.")


def test_training_from_the_epoch_before_gives_the_same_weights_and_replaces_the_damaged_one(data, trained, stopped):
    run, folder = stopped
    half(folder / "epoch-003" / "optimizer.safetensors")
    with open_fold(0, data, RECIPE, run) as fold:
        fold.epoch(3)
        assert_equal(state(fold), trained[1])
    assert [path.name for path in checkpoints(folder)] == ["epoch-003", "epoch-002"]
    with open_fold(0, data, RECIPE, run) as fold:
        assert_equal(state(fold), trained[1])


def rewrite(checkpoint, name, change):
    """Change a file and its entry in the manifest, as somebody might who means it."""
    path = checkpoint / name
    if path.suffix == ".json":
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    else:
        tensors = load_file(path)
        save_file(change(tensors), path)
    content = path.read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = json.loads((checkpoint / "manifest.json").read_text()) | {name: entry}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def not_a_number(tensors):
    next(value for value in tensors.values() if value.is_floating_point()).view(-1)[0] = float("nan")
    return tensors


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.safetensors", not_a_number, "is not finite"),
        ("optimizer.safetensors", not_a_number, "is not finite"),
        ("optimizer.safetensors", lambda tensors: {"exp_avg.99999": torch.zeros(1)}, "does not fit this network"),
        ("model.safetensors", lambda tensors: {"bias": torch.zeros(1)}, "does not fit this network"),
        ("optimizer.safetensors", lambda tensors: {"step.0": torch.ones(())}, "lacks a part of the optimizer's state"),
        ("optimizer.safetensors", lambda tensors: {}, "lacks a part of the optimizer's state"),
        ("progress.json", lambda progress: progress | {"history": [1, 1, 1]}, "does not count the epochs from 1"),
        ("progress.json", lambda progress: progress | {"fold": 1}, "renamed, or copied here"),
        ("progress.json", lambda progress: progress | {"history": None}, "renamed, or copied here"),
        ("random-0.json", lambda state: state | {"torch": [1, 2]}, "does not hold random states"),
        ("random-0.json", lambda state: {}, "does not hold random states"),
    ],
)
def test_content_that_cannot_be_is_damage_too(data, stopped, capsys, name, change, message):
    run, folder = stopped
    rewrite(folder / "epoch-003", name, change)
    with open_fold(0, data, RECIPE, run) as fold:
        assert len(fold.history) == 2
    assert message in capsys.readouterr().err


def test_checkpoints_of_another_fold_are_refused_and_nothing_starts_again(data, stopped):
    run, folder = stopped
    shutil.rmtree(folder)
    shutil.copytree(run.fold(1).checkpoints, folder)
    with pytest.raises(InputError) as caught, open_fold(0, data, RECIPE, run):
        pass
    assert re.search(r"epoch-003 holds 3 epochs of fold 1: .*epoch-002 holds 2 epochs of fold 1: ", str(caught.value))
    assert str(caught.value).endswith(f"delete {folder} to train this fold from the start.")
    assert len(checkpoints(folder)) == 2
    shutil.rmtree(folder)
    with open_fold(0, data, RECIPE, run) as fold:
        assert fold.history == []


def test_a_checkpoint_with_another_name_is_refused(data, stopped):
    run, folder = stopped
    (folder / "epoch-003").rename(folder / "epoch-004")
    shutil.rmtree(folder / "epoch-002")
    with pytest.raises(InputError, match="epoch-004 holds 3 epochs of fold 0: it was renamed, or copied here"):
        with open_fold(0, data, RECIPE, run):
            pass


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


PICKLES = ("custom_checkpoint_0.pkl", "optimizer.bin", "random_states_0.pkl", "scheduler.bin", "sampler.bin")


def plant(folder, marker):
    """Put a malicious pickle, bare and in torch's format, under every name that Accelerate reads."""
    for name in (*PICKLES, "pytorch_model.bin", "scaler.pt"):
        torch.save(Bomb(marker), folder / name)
    for name in ("history.json", "random-1.json", "optimizer.pkl", "history.pkl"):
        (folder / name).write_bytes(pickle.dumps(Bomb(marker)))


def test_a_pickle_in_a_checkpoint_is_never_executed(data, trained, stopped, tmp_path):
    run, folder = stopped
    for checkpoint in checkpoints(folder):
        plant(checkpoint, tmp_path / "executed")
    plant(folder, tmp_path / "executed")
    with open_fold(0, data, RECIPE, run) as fold:
        assert_equal(state(fold), trained[1])
    for name in ("model.safetensors", "optimizer.safetensors", "progress.json", "random-0.json", "manifest.json"):
        torch.save(Bomb(tmp_path / "executed"), folder / "epoch-003" / name)
        (folder / "epoch-002" / name).write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(InputError, match="No checkpoint can be used"), open_fold(0, data, RECIPE, run):
        pass
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_of_an_earlier_version_is_refused_unread(data, trained, tmp_path):
    run, marker = RunFolder(tmp_path / "run"), tmp_path / "executed"
    old = run.fold(0).checkpoints / "epoch-001"
    with open_fold(1, data, RECIPE, run) as fold:
        fold.accelerator.register_for_checkpointing(fold.schedule)
        fold.accelerator.save_state(str(old))
    assert {path.name for path in old.iterdir()} >= set(PICKLES[:3])  # what the earlier version left, and read again
    for name in PICKLES:
        torch.save(Bomb(marker), old / name)
    with pytest.raises(InputError, match="earlier version.* pickle .*finish this fold with that version.*delete "):
        with open_fold(0, data, RECIPE, run):
            pass
    assert not marker.exists()
    torch.load(old / "optimizer.bin", weights_only=False)
    assert marker.exists()  # the trap works


def test_no_code_of_this_project_loads_a_pickle():
    dangerous = re.compile(
        r"pickle\.loads?\(|joblib|dill|shelve|allow_pickle=True|weights_only=False|\.load_state\(|read_pickle"
        r"|torch\.load\((?!.*weights_only=True)|yaml\.(unsafe_|full_)load\(|yaml\.load\((?!text, Loader=_PlainLoader)"
    )
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in ROOT.rglob("*.py")
        if not {"tests", ".venv", "build"} & set(path.relative_to(ROOT).parts)
        for line in path.read_text(encoding="utf-8").splitlines()
        if dangerous.search(line)
    ]
    assert found == []


def test_random_numbers_continue_where_they_were(data, stopped):
    run, _ = stopped
    drawn = []
    for _ in range(2):
        with open_fold(0, data, RECIPE, run):
            drawn.append((torch.rand(1).item(), torch.randn(1).item()))
    assert drawn[0] == drawn[1]


def test_an_unfinished_checkpoint_is_ignored(tmp_path):
    (tmp_path / ".epoch-007.partial").mkdir()
    assert checkpoints(tmp_path) == []
    for name in ("epoch-002", "epoch-010", "epoch-last"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["epoch-010", "epoch-002"]


def test_a_float16_fold_whose_first_steps_were_left_out_continues(data, tmp_path):
    run = RunFolder(tmp_path / "run")
    with open_fold(0, data, RECIPE, run) as fold:
        # as after an epoch in which every gradient was infinite: the optimizer made no step, and the scale was halved
        fold.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15)
        history = [{"epoch": 1}]
        folder = fold.folder.checkpoints
        save_checkpoint(fold.accelerator, folder, 0, fold.model, fold.optimizer, history, None)
        fold.accelerator.scaler = torch.amp.GradScaler("cpu")
        restored, _ = load_checkpoint(fold.accelerator, folder, 0, fold.model, fold.optimizer)
        assert restored == history and fold.accelerator.scaler.get_scale() == 2.0**15
        fold.accelerator.scaler = None  # in other precisions every step is made
        with pytest.raises(InputError, match="lacks a part of the optimizer's state"):
            load_checkpoint(fold.accelerator, folder, 0, fold.model, fold.optimizer)

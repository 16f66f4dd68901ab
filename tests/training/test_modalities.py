"""Several modalities in training: dropout, augmentation and mixup of presence, and the table of subsets."""

import dataclasses

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Array4D, Dataset, Features, List, Value

import train
from cohort.folds import make_splits
from cohort.modalities import Channel
from cohort.phantom import generate_phantom_cohort
from cohort.scans import Scan
from run_folder.layout import RunFolder
from run_folder.tables import read_table
from training.augmentation import augment, draw_augmentation
from training.data import TrainingData
from training.fold import open_fold
from training.mixup import Mixing, mix_presence
from training.modalities import drop_modalities, subset_name, subsets
from training.outcome import subset_table
from training.recipe import RecipeError, load_recipe

SETTINGS = {"architecture": "compact", "image_size": 16, "per_device_train_batch_size": 2, "num_folds": 2}
PRESENCE = [[True, True, True], [True, False, True], [True, True, False], [True, False, False]] * 2


def test_dropout_keeps_t2w_adds_nothing_and_follows_its_probability_and_seed():
    all_there = torch.ones((4000, 3), dtype=torch.bool)
    kept = drop_modalities(np.random.default_rng(3), all_there, 0.2)
    assert kept[:, 0].all() and kept[:, 1:].float().mean(dim=0).tolist() == pytest.approx([0.8, 0.8], abs=0.03)
    assert kept[:, 1].logical_and(kept[:, 2]).float().mean().item() == pytest.approx(0.64, abs=0.03)  # independent
    assert torch.equal(kept, drop_modalities(np.random.default_rng(3), all_there, 0.2))
    some = torch.tensor(PRESENCE)
    assert torch.equal(drop_modalities(np.random.default_rng(3), some, 0.0), some)
    assert drop_modalities(np.random.default_rng(3), some, 1.0).sum() == len(some)


def test_a_mixture_has_the_modalities_that_both_scans_have():
    mixing = Mixing(np.array([0.9, 0.1, 0.5, 0.5]), np.array([1, 0, 3, 2]))
    mixed = mix_presence(torch.tensor(PRESENCE[:4]), mixing)
    assert mixed.tolist() == [[True, False, True]] * 2 + [[True, False, False]] * 2


def test_all_channels_are_turned_and_flipped_alike():
    volume = torch.rand((2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    drawn = draw_augmentation(np.random.default_rng(1), 2, rotation_degrees=10, flip_prob=0.5)
    both = augment(torch.cat([volume, 2 * volume], dim=1), drawn)
    assert torch.equal(both[:, :1], augment(volume, drawn)) and torch.allclose(both[:, 1:], 2 * both[:, :1])


def test_subsets_all_hold_t2w():
    named = [subset_name(subset) for subset in subsets(["T2w", "FA", "MD"])]
    assert named == ["T2w", "T2w+FA", "T2w+MD", "T2w+FA+MD"]


def test_a_scan_has_all_modalities_in_whatever_order_they_are_named():
    blank = {field.name: None for field in dataclasses.fields(Scan)}
    both = Scan(**blank | {"channels": (Channel("FA", "f", None), Channel("MD", "m", None))})
    shown = {subset: {0: np.array([0.5])} for subset in subsets(["T2w", "MD", "FA"])}
    assert set(subset_table({both: 0}, [both], shown, 0)["present"]) == {"T2w+MD+FA"}


@pytest.fixture(scope="module")
def data():
    blank = {field.name: None for field in dataclasses.fields(Scan)} | {"status": "used", "session_id": "1"}
    scans = []
    for i, (_, *held) in enumerate(PRESENCE):
        channels = tuple(Channel(m, f"{m}{i}", None) for m, there in zip(("FA", "MD"), held, strict=True) if there)
        named = {"participant_id": f"P{i}", "family": f"F{i}", "label": i % 2, "channels": channels}
        scans.append(Scan(**blank | named))
    values = np.random.default_rng(0).normal(size=(8, 3, 16, 16, 16)).astype(np.float32)
    values *= np.array(PRESENCE)[:, :, None, None, None]
    features = Features(pixel_values=Array4D((3, 16, 16, 16), "float32"), presence=List(Value("bool"), length=3))
    volumes = Dataset.from_dict({"pixel_values": values, "presence": PRESENCE}, features=features)
    splits = make_splits(scans, num_folds=2, seed=0, split="family")
    return TrainingData("noise", True, {scan: row for row, scan in enumerate(scans)}, volumes, splits)


def test_a_stopped_fold_with_dropout_continues_to_the_same_bytes_and_answers_every_subset(data, tmp_path):
    recipe = load_recipe("demo", num_train_epochs=2, modalities="T2w, FA,MD", modality_dropout=0.5, **SETTINGS)
    assert recipe.channels == ["T2w", "FA", "MD"]
    whole, stopped, without = (RunFolder(tmp_path / name) for name in ("whole", "stopped", "without"))
    with open_fold(0, data, recipe, whole) as fold:
        fold.epoch(1), fold.epoch(2)
        expected, result = {name: value.clone() for name, value in fold.state().items()}, fold.finish()
    with open_fold(0, data, recipe, stopped) as fold:
        fold.epoch(1)
    with open_fold(0, data, recipe, stopped) as fold:
        fold.epoch(2)
        assert all(torch.equal(value, expected[name]) for name, value in fold.state().items())
        fold.finish()
    for name in ("predictions", "modality_subsets"):
        assert getattr(whole.fold(0), name).read_bytes() == getattr(stopped.fold(0), name).read_bytes()
    with open_fold(0, data, dataclasses.replace(recipe, modality_dropout=0.0), without) as fold:
        fold.epoch(1), fold.epoch(2)
        assert not all(torch.equal(value, expected[name]) for name, value in fold.state().items())

    assert result.network.config.modalities == ["T2w", "FA", "MD"] and not result.network.training
    predictions = pd.read_csv(whole.fold(0).predictions).set_index("participant_id")["p_injury"]
    table = pd.read_csv(whole.fold(0).modality_subsets)
    assert len(table) == 4 * len(predictions)
    chosen = {name: part.set_index("participant_id") for name, part in table.groupby("modalities")}
    assert chosen["T2w+FA+MD"]["p_injury"].equals(predictions.loc[chosen["T2w+FA+MD"].index])
    lacks = chosen["T2w"]["present"] == "T2w"  # such a scan is answered alike, whatever is shown
    assert (chosen["T2w"]["p_injury"] == chosen["T2w+FA+MD"]["p_injury"]).equals(lacks)
    volume = torch.tensor(np.array(data.volumes[:]["pixel_values"], np.float32))
    there = torch.tensor([[True, True, False]] * 8) & torch.tensor(PRESENCE)
    by_hand = result.network.predict_proba(volume, presence=there)[:, 1].numpy()
    for participant, p in chosen["T2w+FA"]["p_injury"].items():
        assert p == pytest.approx(by_hand[int(participant[1:])], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalities": "FA,T2w"}, "give T2w, then any of T1w, FA, MD"),
        ({"modalities": "T2w,T2w"}, "each once"),
        ({"modalities": "T2w,ADC"}, "modalities is"),
        ({"modalities": "T2w,FA", "architecture": "vit_base", "init": "random"}, "need a ResNet"),
        ({"modalities": "T2w,FA", "local_stream": "on"}, "local_stream on takes T2w alone"),
        ({"modality_dropout": 1.5}, "modality_dropout is 1.5"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("demo", **settings)


def test_train_finds_the_modalities_of_a_cohort_and_refuses_one_that_has_changed(tmp_path, capsys):
    options = {"preset": "diffuse", "num_subjects": 6, "voxel_size": 5, "missing": 0.34, "progress": False}
    cohort = generate_phantom_cohort(tmp_path / "cohort", num_workers=1, **options)
    small = ["--architecture", "compact", "--image_size", "16", "--num_folds", "2", "--num_train_epochs", "1"]
    small += ["--data_dir", str(cohort), "--recipe", "demo", "--output_dir", str(tmp_path / "run"), "--fold", "0"]
    several = ["--also", str(cohort / "dmri_eddy_pipeline"), "--modalities", "T2w,T1w,FA,MD", "--num_threads", "1"]
    assert train.main([*small, *several]) == 0
    assert "used with T1w" in capsys.readouterr().out
    run = RunFolder(tmp_path / "run")
    assert len(read_table(run.fold(0).modality_subsets)) == 8 * len(read_table(run.fold(0).predictions))
    assert {"T1w", "FA", "FA_transform", "MD"} <= set(read_table(run.cohort).columns)
    assert '"T1w"' in (run.fold(0).model / "config.json").read_text()
    assert train.main([*small, *several[2:]]) == 2  # other roots than before
    assert "also: None, not" in capsys.readouterr().err
    first, second, *_ = sorted(cohort.glob("sub-*/ses-*/anat/*_T1w.nii.gz"))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())  # of another infant
    assert train.main([*small[:-1], "1", *several]) == 1
    assert "have the same image file" in capsys.readouterr().err
    image = nibabel.load(second)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj) * np.float32(1.1), nibabel.load(second).affine), second)
    first.write_bytes(kept)
    assert train.main([*small[:-1], "1", *several]) == 1
    assert "Image files have changed" in capsys.readouterr().err
    first.unlink()
    assert train.main([*small[:-1], "1", *several]) == 1
    assert "when this run was started, and now has" in capsys.readouterr().err
    assert train.main([*small, "--also", str(cohort)]) == 2
    assert "add --modalities" in capsys.readouterr().err

"""`train.py --local_stream on` from scans to a report, in this process."""

import numpy as np
import pandas as pd
import pytest
import torch

import train
from screening.loading import load_pytorch_model
from training.local import scorer, stream
from training.recipe import RecipeError, load_recipe

from .conftest import write_brains

SETTINGS = (
    "--fold 0 --image_size 16 --num_folds 2 --num_train_epochs 1 --per_device_train_batch_size 4 --selection inner"
)


def run(cohort, folder):
    flags = [
        "--data_dir",
        cohort,
        "--output_dir",
        folder,
        "--recipe",
        "demo",
        "--local_stream",
        "on",
        *SETTINGS.split(),
    ]
    return train.main([str(flag) for flag in flags])


def test_a_fold_with_a_local_stream(brains, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(scorer, "RANDOM", 30)
    monkeypatch.setattr(stream, "PARTS", 2)
    assert run(brains, tmp_path) == 0
    fold = tmp_path / "fold-0"
    table = pd.read_csv(fold / "predictions.csv")
    silence = (1 - table["p_local"]) * (1 - table["p_shares"])
    assert len(table) == 4 and table["p_injury"].between(1 - silence - 1e-9, 1).all()
    assert pd.read_csv(tmp_path / "intensity_shares.csv").shape == (8, 11)

    # the exported folder answers the same from the scan's file
    model, processor = load_pytorch_model(str(fold / "model"))
    row, name = table.iloc[0], f"sub-{table['participant_id'][0]}"
    inputs = processor(str(brains / name / "anat" / f"{name}_T2w.nii.gz"), return_tensors="pt")
    said = model.predict_streams(**inputs)
    with pytest.warns(UserWarning, match="that of the global stream"):
        own = model.predict_views(inputs["pixel_values"])[:, 0, 1].numpy()
    assert row["p_global"] == pytest.approx(own.mean(), abs=1e-5)
    fused = 1 - (1 - np.maximum(0, 2 * own - 1)) * silence[0]
    assert row["p_injury"] == pytest.approx(fused.mean(), abs=1e-5)
    assert abs(said["members"].mean(dim=1)[0, 0, 1].item() - row["p_injury"]) < 1e-5
    assert torch.allclose(said["p_local"], torch.tensor([row["p_local"]], dtype=torch.float32), atol=1e-5)

    # a fold that was stopped while it finished ends with the same bytes
    before = (fold / "predictions.csv").read_bytes()
    for name in ("metrics.json", "predictions.csv", "local/network-0.safetensors"):
        (fold / name).unlink()
    assert run(brains, tmp_path) == 0
    assert (fold / "predictions.csv").read_bytes() == before


def test_a_cohort_that_is_too_small_is_refused_before_the_first_epoch(quick, tmp_path, capsys):
    assert run(write_brains(tmp_path / "bids", subjects=6), tmp_path / "run") == 1
    assert "at least two families of each class" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("fold-*/checkpoints/*"))


def test_other_networks_than_resnets_have_no_local_stream():
    with pytest.raises(RecipeError, match="local_stream on needs a ResNet"):
        load_recipe("demo", architecture="vit_base", local_stream="on")
    assert load_recipe("paper").local_stream == load_recipe("demo").local_stream == "off"


def test_yaml_may_write_on_and_off_without_quotes(tmp_path):
    for word in ("on", "off"):
        (tmp_path / "own.yaml").write_text(f"local_stream: {word}\n")
        assert load_recipe(str(tmp_path / "own.yaml")).local_stream == word

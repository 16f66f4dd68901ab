"""Features of a frozen encoder, scan by scan, and the command that writes them."""

import numpy as np
import pandas as pd
import pytest
import torch

from cohort.scans import find_scans, write_cohort
from explanation.embedding import encode, frozen_features, main
from modeling_gloresnet import GloResNetConfig, GloResNetModel
from preprocessing import GloResNetImageProcessor
from training.recipe import load_recipe


@pytest.fixture
def run(shared_tiny_cohort, tmp_path):
    """The files of a run folder that the features need."""
    load_recipe("demo", image_size=16, framing="field_of_view").save(tmp_path / "recipe.yaml")
    write_cohort(find_scans(shared_tiny_cohort), tmp_path / "cohort.csv")
    return tmp_path


def test_features_equal_the_encoders_output_scan_by_scan(run, shared_tiny_cohort):
    table = frozen_features(run, "random", seed=3)
    torch.manual_seed(3)
    encoder = GloResNetModel(GloResNetConfig(image_size=16)).eval()
    processor = GloResNetImageProcessor(image_size=16)
    assert table.shape == (12, 514)
    for scan, row in zip(find_scans(shared_tiny_cohort), table.to_dict("split")["data"], strict=True):
        assert row[:2] == [scan.participant_id, scan.session_id]
        with torch.no_grad():
            expected = encoder(**processor(scan.image, return_tensors="pt")).pooler_output[0].numpy()
        assert np.allclose(row[2:], expected, atol=1e-5)


def test_features_are_computed_in_evaluation_mode():
    encoder = GloResNetModel(GloResNetConfig(image_size=16, stem_channels=4, widths=[4, 8, 8, 16])).train()
    volumes = [{"pixel_values": torch.randn(1, 16, 16, 16)} for _ in range(5)]
    assert torch.allclose(encode(encoder, volumes, 1), encode(encoder, volumes, 5), atol=1e-5)


def test_medicalnet_weights_are_used_when_given(run, tmp_path):
    encoder = GloResNetModel(GloResNetConfig(image_size=16))
    state = {f"module.{key.removeprefix('stem.')}": value for key, value in encoder.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "resnet_10.pth")
    table = frozen_features(run, str(tmp_path / "resnet_10.pth"))
    assert not table.drop(columns=["participant_id", "session_id"]).equals(
        frozen_features(run, "random").drop(columns=["participant_id", "session_id"])
    )


def test_the_command_writes_a_table(run, tmp_path, capsys):
    assert main([str(run), "--init", "random", "--output", str(tmp_path / "features.csv")]) == 0
    assert "512 features of 12 scans" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "features.csv").shape == (12, 514)


def test_a_folder_without_a_run_is_one_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere"), "--output", str(tmp_path / "f.csv")]) == 1
    said = capsys.readouterr().err
    assert "is not the folder of a run" in said and said.count("\n") == 1
    assert not (tmp_path / "f.csv").exists()

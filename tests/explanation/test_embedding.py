"""Frozen features: the encoder's own, scan by scan, and what the report makes of them."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cohort.scans import find_scans, write_cohort
from explanation.embedding import encode, frozen_features
from modeling_gloresnet import GloResNetConfig, GloResNetModel
from preprocessing import GloResNetImageProcessor
from tests.programs import run_program
from training.recipe import load_recipe

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def run(shared_tiny_cohort, tmp_path):
    """As much of a run folder as the features need."""
    load_recipe("demo", image_size=16).save(tmp_path / "recipe.yaml")
    write_cohort(find_scans(shared_tiny_cohort), tmp_path / "cohort.csv")
    return tmp_path


def test_features_are_the_encoders_own_scan_by_scan(run, shared_tiny_cohort):
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


def test_features_are_taken_in_evaluation_mode():
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


def test_the_command_writes_a_table_and_names_what_is_missing(run, tmp_path):
    def call(*arguments):
        return run_program(["-m", "explanation.embedding", *arguments], ROOT, os.environ)

    done = call(run, "--init", "random", "--output", tmp_path / "features.csv")
    assert done.returncode == 0 and "512 features of 12 scans" in done.stdout
    assert pd.read_csv(tmp_path / "features.csv").shape == (12, 514)
    missing = call(tmp_path / "nowhere", "--output", tmp_path / "f.csv")
    assert missing.returncode == 1 and "is no run folder" in missing.stderr and "Traceback" not in missing.stderr
    assert not (tmp_path / "f.csv").exists()

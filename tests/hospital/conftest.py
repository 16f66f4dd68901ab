"""A model with random weights, tiny studies, and the tools of Debian that check DICOM files."""

import os
import shutil

import pytest
import torch

from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A model that says it was trained on phantoms."""
    folder = tmp_path_factory.mktemp("hospital") / "model"
    torch.manual_seed(3)
    config = GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16], head_init_std=3.0)
    config.provenance = {"cohort": "phantom-clear", "synthetic": True, "run": "r", "fold": 4, "train_scans": 39}
    export_model(GloResNetForImageClassification(config), GloResNetImageProcessor(image_size=32), folder, "card")
    return folder


def require_tools(*names: str) -> None:
    """Skip a test if a program is missing, or fail under CI."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        message = f"not installed: {', '.join(missing)} (Debian: orthanc, orthanc-dicomweb, dcmtk, dicom3tools)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)

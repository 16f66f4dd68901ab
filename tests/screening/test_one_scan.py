"""One scan's answer, against the network asked directly."""

import json

import nibabel
import numpy as np
import pytest
import torch

from modeling_gloresnet import (
    GloResNetConfig,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
)
from preprocessing import GloResNetImageProcessor, VolumeError
from screening.model import is_trained
from screening.one_scan import screen_scan
from screening.pytorch import PyTorchModel


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    config = GloResNetConfig(
        image_size=16, stem_channels=4, widths=[4, 8, 8, 16], head_init_std=3.0, temperature=1.7, threshold=0.3
    )
    return GloResNetForImageClassification(config).eval()


def write(path, data=None, affine=None):
    data = np.random.default_rng(0).gamma(2, 50, (20, 14, 12)).astype(np.float32) if data is None else data
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-2.0, 1.5, 1.0, 1.0]) if affine is None else affine), path)
    return str(path)


def test_the_answer_is_the_networks_own(model, tmp_path):
    processor = GloResNetImageProcessor(image_size=16)
    scan = write(tmp_path / "scan.nii.gz")
    answer = screen_scan(PyTorchModel(model), processor, scan)
    views = model.predict_views(processor(scan, return_tensors="pt").pixel_values)[:, 0, 1].tolist()
    assert answer["p_injury"] == pytest.approx(np.mean(views), abs=1e-6)
    assert [answer["p_injury_no_tta"], answer["p_injury_mirrored"]] == pytest.approx(views, abs=1e-6)
    assert answer["view_spread"] == pytest.approx(abs(views[0] - views[1]), abs=1e-6)
    assert answer["predicted_label"] == ("injury" if np.mean(views) >= 0.3 else "normal")
    assert answer["calibrated"] and answer["temperature"] == 1.7 and answer["threshold"] == 0.3
    done = answer["preprocessing"]
    assert done["stored_shape"] == [20, 14, 12] and done["stored_spacing_mm"] == [2.0, 1.5, 1.0]
    assert done["stored_orientation"] == "LAS" and done["field_of_view_mm"] == [40.0, 21.0, 12.0]
    low, high = done["intensity_window"]
    assert done["intensity_range"][0] <= low < high <= done["intensity_range"][1]
    json.dumps(answer, allow_nan=False)


def test_an_ensemble_tells_its_members_apart(model, tmp_path):
    torch.manual_seed(2)
    other = GloResNetForImageClassification(model.config).eval()
    ensemble = GloResNetEnsembleForImageClassification.from_members([model, other])
    processor, scan = GloResNetImageProcessor(image_size=16), write(tmp_path / "scan.nii.gz")
    answer = screen_scan(PyTorchModel(ensemble), processor, scan)
    pixel_values = processor(scan, return_tensors="pt").pixel_values
    each = [member.predict_proba(pixel_values)[0, 1].item() for member in (model, other)]
    assert answer["p_injury_members"] == pytest.approx(each, abs=1e-6)
    assert answer["member_spread"] == pytest.approx(np.std(each, ddof=1), abs=1e-6)
    assert answer["p_injury"] == pytest.approx(np.mean(each), abs=1e-6) and answer["calibrated"]


def test_without_the_mirrored_view_there_is_no_spread(model, tmp_path):
    model.config.test_time_augmentation = False
    try:
        answer = screen_scan(PyTorchModel(model), GloResNetImageProcessor(image_size=16), write(tmp_path / "scan.nii"))
    finally:
        model.config.test_time_augmentation = True
    assert answer["p_injury_mirrored"] is None and answer["view_spread"] is None


def test_a_mask_is_applied_where_the_model_demands_one(model, tmp_path):
    processor = GloResNetImageProcessor(image_size=16, brain_mask="required")
    scan, brain = write(tmp_path / "scan.nii.gz"), np.zeros((20, 14, 12), np.uint8)
    brain[5:15, 3:11, 3:9] = 1
    mask = write(tmp_path / "mask.nii.gz", brain)
    answer = screen_scan(PyTorchModel(model), processor, scan, mask)
    expected = model.predict_proba(processor(scan, mask=mask, return_tensors="pt").pixel_values)[0, 1].item()
    assert answer["p_injury"] == pytest.approx(expected, abs=1e-6)
    elsewhere = write(
        tmp_path / "shifted.nii.gz", brain, np.array([[-2, 0, 0, 30], [0, 1.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    )
    with pytest.raises(ValueError, match=r"^shifted.nii.gz is shifted by up to"):
        screen_scan(PyTorchModel(model), processor, scan, elsewhere)
    with pytest.raises(ValueError, match="No mask was given"):
        screen_scan(PyTorchModel(model), processor, scan)


def test_messages_name_the_scan_and_no_folder(model, tmp_path):
    flat = write(tmp_path / "flat.nii.gz", np.ones((9, 9, 9), np.float32))
    with pytest.raises(ValueError) as caught:
        screen_scan(PyTorchModel(model), GloResNetImageProcessor(image_size=16), flat)
    assert str(caught.value).startswith("flat.nii.gz is constant") and str(tmp_path) not in str(caught.value)
    assert isinstance(caught.value.__cause__, VolumeError)


def test_only_a_model_that_says_what_it_learned_from_is_trained(model):
    assert not is_trained(model)
    model.config.provenance = {"cohort": "c", "synthetic": True, "run": "r", "fold": 0, "train_scans": 8}
    try:
        assert is_trained(model)
    finally:
        model.config.provenance = None

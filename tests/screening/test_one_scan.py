"""The answer for one scan, compared with the network called directly."""

import json
import sys
import warnings

import nibabel
import numpy as np
import pytest
import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from cohort.phantom import make_phantom_scan
from modeling_gloresnet import (
    BaselineConfig,
    GloResNetConfig,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
)
from modeling_gloresnet.inference_gloresnet import ScreeningInference
from preprocessing import (
    GloResNetImageProcessor,
    VolumeError,
    VolumeWarning,
    correct_bias,
    preparation_gloresnet,
    read_volume,
)
from screening import one_scan
from screening.many_scans import screen
from screening.model import is_trained
from screening.one_scan import screen_scan
from screening.pytorch import PyTorchModel
from screening.requests import Request


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


def test_the_answer_is_that_of_the_network(model, tmp_path):
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


def test_an_ensemble_reports_each_member(model, tmp_path):
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


class Baseline(ScreeningInference, nn.Module):
    """A stand-in for a baseline that does not need MONAI."""

    def __init__(self):
        super().__init__()
        self.config, self.num_labels = BaselineConfig(image_size=32), 2
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, pixel_values):
        mean = pixel_values[:, 0, :16].mean(dim=(1, 2, 3))
        return ImageClassifierOutputWithNoAttention(logits=torch.stack([mean, -mean], dim=1))


def test_a_baseline_is_screened_as_a_single_network(tmp_path):
    baseline, processor = Baseline(), GloResNetImageProcessor(image_size=32)
    model, scan = PyTorchModel(baseline), write(tmp_path / "scan.nii")
    answer = screen_scan(model, processor, scan)
    expected = baseline.predict_proba(processor(scan, return_tensors="pt").pixel_values)[0, 1].item()
    assert answer["p_injury"] == pytest.approx(expected, abs=1e-6)
    assert answer["p_injury_members"] is answer["member_spread"] is None and not answer["calibrated"]
    assert model.networks == () and model.dtype == "float32"


def test_without_the_mirrored_view_there_is_no_spread(model, tmp_path):
    model.config.test_time_augmentation = False
    try:
        answer = screen_scan(PyTorchModel(model), GloResNetImageProcessor(image_size=16), write(tmp_path / "scan.nii"))
    finally:
        model.config.test_time_augmentation = True
    assert answer["p_injury_mirrored"] is None and answer["view_spread"] is None


def test_a_mask_is_applied_if_the_model_requires_one(model, tmp_path):
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


@pytest.mark.parametrize("damage", [lambda cube: cube * 0, lambda cube: cube * 0.99, lambda cube: cube + 0.01, np.sqrt])
def test_a_channel_that_is_not_standardised_gets_no_answer(model, tmp_path, damage):
    class Older(GloResNetImageProcessor):  # it does not check what it returns
        def preprocess(self, *arguments, **options):
            batch = super().preprocess(*arguments, **options)
            with np.errstate(invalid="ignore"):
                batch["pixel_values"] = damage(batch["pixel_values"])
            return batch

    scan, processor, answering = write(tmp_path / "scan.nii.gz"), Older(image_size=16), PyTorchModel(model)
    with pytest.raises(ValueError, match=r"^scan.nii.gz has mean .* after standardising, not 0 and 1"):
        screen_scan(answering, processor, scan)
    (row,) = screen([Request(scan)], answering, processor)
    assert row["status"] == "error" and row["p_injury"] == "" and "after standardising" in row["message"]


def test_a_model_counts_as_trained_if_it_records_its_training_scans(model):
    assert not is_trained(model)
    model.config.provenance = {"cohort": "c", "synthetic": True, "run": "r", "fold": 0, "train_scans": 8}
    try:
        assert is_trained(model)
    finally:
        model.config.provenance = None


def test_doubts_about_the_files_come_before_differences_from_the_training_scans(model, tmp_path, monkeypatch):
    scan = write(tmp_path / "scan.nii.gz")
    brain = np.zeros((20, 14, 12), np.uint8)
    brain[5:15, 3:11, 3:9] = 1
    mask = write(tmp_path / "mask.nii.gz", brain)
    monkeypatch.setattr(one_scan, "read_volume", lambda path: read_volume(path)._replace(warnings=("Left is unsure.",)))
    processor = GloResNetImageProcessor(image_size=16, brain_mask="required")
    first, second = screen_scan(PyTorchModel(model), processor, scan, mask)["warnings"]
    assert first == "Left is unsure." and second.startswith("The model has no record of its training scans")


def test_the_processor_warns_of_nothing_that_is_in_the_answer(model, tmp_path, recwarn):
    """Its warnings would be printed between the lines of a progress bar."""

    class Doubtful(GloResNetImageProcessor):
        def preprocess(self, *arguments, **options):
            warnings.warn("The mask is a map of probabilities.", stacklevel=1)
            return super().preprocess(*arguments, **options)

    screen_scan(PyTorchModel(model), Doubtful(image_size=16), write(tmp_path / "scan.nii.gz"))
    assert not [warning for warning in recwarn if "probabilities" in str(warning.message)]


def head(path):
    """A phantom, cut at the front."""
    scan = make_phantom_scan(36.0, voxel_size=4.0).image()
    nibabel.save(scan.slicer[:, : scan.shape[1] - 6], path)
    return str(path)


def test_a_framed_scan_is_the_processors_and_brings_the_warnings_about_its_head(model, tmp_path):
    processor, scan = GloResNetImageProcessor(image_size=16, framing="head"), head(tmp_path / "scan.nii.gz")
    with pytest.warns(VolumeWarning, match="front"):
        expected = processor(scan, return_tensors="np").pixel_values[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume, cube = one_scan.read_inputs(processor, scan, search=False)[:2]
    np.testing.assert_array_equal(cube, expected)
    assert volume.frame is not None and any("edge of the scan at the front" in w for w in volume.warnings)
    answer = screen_scan(PyTorchModel(model), processor, scan)
    assert volume.warnings[0] in answer["warnings"]
    assert answer["preprocessing"]["framing"] == "head"
    assert answer["preprocessing"]["spacing_mm"] == [round(150 / 16, 3)] * 3
    assert json.loads(json.dumps(answer)) == answer


def test_a_framed_scan_with_a_mask_is_the_processors(tmp_path):
    scan = make_phantom_scan(36.0, voxel_size=4.0)
    image, mask = str(tmp_path / "scan.nii.gz"), str(tmp_path / "mask.nii.gz")
    nibabel.save(scan.image(), image)
    nibabel.save(nibabel.Nifti1Image(scan.brain_mask, scan.affine), mask)
    processor = GloResNetImageProcessor(image_size=16, framing="head", brain_mask="required")
    volume, cube = one_scan.read_inputs(processor, image, mask, search=False)[:2]
    np.testing.assert_array_equal(cube, processor(image, mask=mask, return_tensors="np").pixel_values[0])
    np.testing.assert_array_equal(volume.data, read_volume(image).data)  # for display, without the mask


@pytest.mark.parametrize("framing", ["field_of_view", "head"])
def test_a_bias_field_is_removed_once_and_the_scan_stays_as_it_is_for_display(model, tmp_path, monkeypatch, framing):
    pytest.importorskip("SimpleITK")
    scan = make_phantom_scan(36.0, voxel_size=4.0)
    image, mask = str(tmp_path / "scan.nii.gz"), str(tmp_path / "mask.nii.gz")
    nibabel.save(scan.image(), image)
    nibabel.save(nibabel.Nifti1Image(scan.brain_mask, scan.affine), mask)
    done = []
    monkeypatch.setattr(
        preparation_gloresnet, "correct_bias", lambda *args, **kw: (done.append(1), correct_bias(*args, **kw))[1]
    )
    for masked, brain in (("none", None), ("required", mask)):
        processor = GloResNetImageProcessor(image_size=16, framing=framing, bias_correction="n4", brain_mask=masked)
        expected = processor(image, mask=brain, return_tensors="np").pixel_values[0]
        done.clear()
        volume, cube = one_scan.read_inputs(processor, image, brain, search=False)[:2]
        assert len(done) == 1
        np.testing.assert_array_equal(cube, expected)
        np.testing.assert_array_equal(volume.data, read_volume(image).data)
        assert (volume.frame is None) == (framing == "field_of_view") and not volume.bias_corrected
        place = one_scan.framed_scan(processor, image, brain)
        assert (place.frame, place.warnings) == (volume.frame, volume.warnings)
    answer = screen_scan(PyTorchModel(model), processor, image, mask)
    assert answer["preprocessing"]["bias_correction"] == "n4"
    (row,) = screen([Request(image)], PyTorchModel(model), GloResNetImageProcessor(image_size=16, bias_correction="n4"))
    assert row["status"] == "ok"
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    (row,) = screen([Request(image)], PyTorchModel(model), GloResNetImageProcessor(image_size=16, bias_correction="n4"))
    assert (row["status"], row["p_injury"]) == ("error", "") and "pip install SimpleITK" in row["message"]


def test_a_processor_from_before_framing_gets_an_array(tmp_path):
    class Earlier:
        def __call__(self, image, mask=None, return_tensors=None):
            assert isinstance(image, np.ndarray)
            return GloResNetImageProcessor(image_size=16)(image, return_tensors="np")

    volume, _ = one_scan.read_inputs(Earlier(), write(tmp_path / "scan.nii.gz"), search=False)[:2]
    assert volume.frame is None

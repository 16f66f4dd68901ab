"""The image processor as users call it."""

import json
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch

from preprocessing import (
    GloResNetImageProcessor,
    VolumeError,
    VolumeWarning,
    local_inputs,
    map_volume,
    read_volume,
)
from tests.brains import brain_with_spot


@pytest.fixture
def scan(tmp_path):
    data = np.random.default_rng(0).normal(100, 20, (20, 24, 18)).astype(np.float32)
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.0, 1.0, 1.5, 1.0])), path)
    return path


def test_the_default_is_a_cube_of_128_voxels_as_in_the_paper(scan):
    pixel_values = GloResNetImageProcessor()(scan, return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 1, 128, 128, 128) and pixel_values.dtype == torch.float32
    assert abs(pixel_values.mean()) < 1e-5 and abs(pixel_values.std(correction=0) - 1) < 1e-4


def test_every_form_of_one_scan_gives_the_same_values(scan):
    processor = GloResNetImageProcessor(image_size=32)
    volume = read_volume(scan)
    expected = map_volume(volume, 32)
    forms = [str(scan), scan, nibabel.load(scan), volume, volume.data, volume.data[None], volume.data[..., None]]
    for form in [*forms, volume.data[None, None], [scan], (scan,)]:
        pixel_values = processor(form, return_tensors="np").pixel_values
        assert isinstance(pixel_values, np.ndarray)
        np.testing.assert_array_equal(pixel_values, expected[None, None])
    other_order = torch.from_numpy(volume.data.copy(order="C"))
    found = processor(other_order, return_tensors="np").pixel_values
    np.testing.assert_allclose(found, expected[None, None], rtol=0, atol=5e-6)


def test_batches_keep_their_order(scan):
    processor = GloResNetImageProcessor(image_size=16)
    data = read_volume(scan).data
    scans = [data, data[::-1], scan]
    batch = processor(scans, return_tensors="pt").pixel_values
    assert batch.shape == (3, 1, 16, 16, 16)
    np.testing.assert_allclose(batch[1, 0].numpy(), batch[0, 0].numpy()[::-1], atol=1e-5)
    np.testing.assert_array_equal(batch[0], batch[2])
    stacked = processor(np.stack([data, data[::-1]])[:, None], return_tensors="pt").pixel_values
    np.testing.assert_array_equal(stacked, batch[:2])
    listed = processor(scans)["pixel_values"]
    assert isinstance(listed, list) and listed[0].shape == (1, 16, 16, 16)


def test_messages_name_the_scan(scan, tmp_path):
    processor = GloResNetImageProcessor(image_size=16)
    with pytest.raises(VolumeError, match="gone.nii does not exist"):
        processor([scan, tmp_path / "gone.nii"])
    with pytest.raises(VolumeError, match="image 1 is constant"):
        processor([scan, np.ones((5, 5, 5))])
    with pytest.raises(VolumeError, match="the image is constant"):
        processor(np.ones((5, 5, 5)))
    with pytest.raises(VolumeError, match="list of 3D arrays"):
        processor(np.ones((4, 5, 5, 5)))
    with pytest.raises(VolumeError, match="empty"):
        processor([])
    with pytest.raises(ValueError):
        processor(scan, return_tensors="tensorflow-like")


def test_settings_are_checked():
    for image_size in (15, 513, 128.0, "128", True, None):
        with pytest.raises(ValueError, match="image_size"):
            GloResNetImageProcessor(image_size=image_size)
    for eps in (0, -1e-6, 2e-3, 1e9, float("nan"), float("inf"), "x"):
        with pytest.raises(ValueError, match="eps"):
            GloResNetImageProcessor(eps=eps)
    with pytest.raises(ValueError, match="brain_mask"):
        GloResNetImageProcessor(brain_mask="optional")


@pytest.mark.parametrize("factor", [1e-5, 1e-9, 1e-38])
def test_a_contrast_that_is_lost_in_eps_is_refused(scan, factor):
    processor, data = GloResNetImageProcessor(image_size=16), read_volume(scan).data
    for source in (data * np.float32(factor), (data - 50) * np.float32(factor) + np.float32(factor)):
        with pytest.raises(VolumeError, match=r"SD 0.* after standardising, not 0 and 1: check .* scaling"):
            processor([scan, source])
    with pytest.raises(ValueError, match="eps is 1000.0: give a small number"):
        GloResNetImageProcessor(image_size=16, eps=1e3)
    assert abs(processor(data * np.float32(1e-3), return_tensors="np").pixel_values.std() - 1) < 1e-3


def test_inputs_of_the_local_stream(scan):
    processor = GloResNetImageProcessor(image_size=16, local_stream=True)
    brains = [brain_with_spot(), brain_with_spot(radius=26)]
    each = [local_inputs(read_volume(brain)) for brain in brains]
    counts = [len(found.valid) for found in each]
    assert counts[0] > counts[1] > 50
    with pytest.warns(VolumeWarning, match="answered by the global stream alone: .* 1.5 mm"):
        batch = processor([brains[1], scan, brains[0]], return_tensors="pt")
    assert batch["local_patches"].shape == (3, counts[0], 2, 11, 11, 11) and batch["local_valid"].dtype == torch.bool
    assert batch["local_valid"].sum(dim=1).tolist() == [counts[1], 0, counts[0]]
    for row, found in ((0, each[1]), (2, each[0])):
        np.testing.assert_array_equal(batch["local_patches"][row, : len(found.valid)], found.patches)
        np.testing.assert_array_equal(batch["local_positions"][row, : len(found.valid)], found.positions)
        np.testing.assert_array_equal(batch["local_shares"][row], found.shares)
    assert batch["local_shares"][1].isnan().all()
    alone = processor(scan, return_tensors="np", local_stream=False)
    assert list(alone) == ["pixel_values"]
    np.testing.assert_array_equal(alone["pixel_values"][0], batch["pixel_values"][1])
    with pytest.warns(VolumeWarning, match="without an affine"):
        assert processor(read_volume(scan).data)["local_valid"][0].tolist() == [False]


def test_the_local_stream_searches_inside_the_mask(scan):
    processor = GloResNetImageProcessor(image_size=16, local_stream=True, brain_mask="required")
    brain = brain_with_spot()
    half = np.zeros(brain.shape, np.uint8)
    half[: brain.shape[0] // 2] = np.asarray(brain.dataobj)[: brain.shape[0] // 2] > 0  # stored LAS: the right half
    found = processor(brain, mask=nibabel.Nifti1Image(half, brain.affine), return_tensors="np")
    left_border = (brain.affine @ [brain.shape[0] // 2, 0, 0, 1])[0]
    assert found["local_valid"].all() and found["local_positions"][0, :, 0].min() > left_border + 2


def test_masks_are_required_if_the_model_was_trained_with_them(scan):
    data = read_volume(scan).data
    brain = np.zeros(data.shape, dtype=np.uint8)
    brain[4:14, 5:20, 3:12] = 1
    masked = GloResNetImageProcessor(image_size=16, brain_mask="required")
    plain = GloResNetImageProcessor(image_size=16)
    one = masked(scan, mask=brain, return_tensors="np").pixel_values
    np.testing.assert_array_equal(one, plain(data * brain, return_tensors="np").pixel_values)
    two = masked([scan, data], mask=[brain, brain], return_tensors="np").pixel_values
    np.testing.assert_array_equal(two, np.concatenate([one, one]))
    with pytest.raises(VolumeError, match="leave the mask out"):
        plain(scan, mask=brain)
    with pytest.raises(VolumeError, match="No mask was given"):
        masked(scan)
    with pytest.raises(VolumeError, match="2 scans came with 1 masks"):
        masked([scan, scan], mask=brain)
    with pytest.raises(VolumeError, match="mask 1 is an empty mask"):
        masked([scan, scan], mask=[brain, brain * 0])
    with pytest.raises(VolumeError, match="own grid"):
        masked(scan, mask=brain[1:])


def test_saved_settings_are_loaded_again_and_can_be_overridden(tmp_path):
    GloResNetImageProcessor(image_size=24, eps=1e-5, brain_mask="required").save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (stored["image_size"], stored["eps"], stored["brain_mask"]) == (24, 1e-5, "required")
    assert set(stored["auto_map"]) == {"AutoImageProcessor", "AutoFeatureExtractor"}
    again = GloResNetImageProcessor.from_pretrained(tmp_path)
    assert (again.image_size, again.eps, again.brain_mask) == (24, 1e-5, "required")
    assert GloResNetImageProcessor.from_pretrained(tmp_path, image_size=48).image_size == 48


def test_the_saved_folder_is_enough_in_a_fresh_process_without_this_project(scan, tmp_path):
    folder = tmp_path / "model"
    GloResNetImageProcessor(image_size=16).save_pretrained(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = f"""
import importlib.util, numpy
from transformers import AutoFeatureExtractor, AutoImageProcessor
assert importlib.util.find_spec("preprocessing") is None
for auto in (AutoImageProcessor, AutoFeatureExtractor):
    processor = auto.from_pretrained({str(folder)!r}, trust_remote_code=True)
    pixel_values = processor({str(scan)!r}, return_tensors="pt")["pixel_values"]
    numpy.save(auto.__name__, pixel_values.numpy())
    try:
        processor("absent.nii")
    except ValueError as error:
        assert "does not exist" in str(error)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    run = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    expected = GloResNetImageProcessor(image_size=16)(scan, return_tensors="np").pixel_values
    for name in ("AutoImageProcessor", "AutoFeatureExtractor"):
        np.testing.assert_array_equal(np.load(elsewhere / f"{name}.npy"), expected)

"""Image measurements: the effect of blur, ghosts, noise, intensity scale and voxel size."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from evaluation.measures import (
    QUALITY,
    image_quality,
    measure_quality,
    measure_volumes,
    read_ras,
    tissue_volumes,
)
from run_folder.files import InputError


def head(noise=3.0, seed=0):
    grid = np.stack(np.meshgrid(*[np.arange(40) - 19.5] * 3, indexing="ij"))
    radius = np.sqrt((grid**2).sum(axis=0))
    volume = np.where(radius < 15, 100 + 40 * (np.sin(grid[0] * 0.7) > 0), 4.0)
    return (volume + np.random.default_rng(seed).normal(scale=noise, size=volume.shape)).clip(0).astype(np.float32)


def test_each_artefact_changes_its_quality_measures():
    clean = image_quality(head())
    assert set(clean) == set(QUALITY)
    blurred = image_quality(ndimage.gaussian_filter(head(), 1.5))
    assert blurred["edge_strength"] < 0.75 * clean["edge_strength"] and blurred["noise"] < 0.5 * clean["noise"]
    ghosted = image_quality(head() + 0.12 * np.roll(head(), 15, axis=1))
    assert ghosted["background"] > 1.5 * clean["background"]
    assert ghosted["entropy_focus"] > clean["entropy_focus"]
    striped = head()
    striped[:, :, ::2] *= 1.2
    assert image_quality(striped)["slice_jumps"] > 3 * clean["slice_jumps"]
    assert image_quality(head(noise=12))["noise"] > 2 * clean["noise"]


def test_quality_does_not_depend_on_the_intensity_scale():
    assert image_quality(7 * head()) == pytest.approx(image_quality(head()), rel=1e-3)
    with pytest.raises(InputError, match="constant volume"):
        image_quality(np.ones((5, 5, 5)))


def test_entropy_focus_is_0_for_one_bright_voxel_and_1_for_equal_voxels():
    point = np.zeros((6, 6, 6))
    point[2, 2, 2] = 1
    assert image_quality(point)["entropy_focus"] == pytest.approx(0)
    even = np.ones((10, 10, 10))
    even[0, 0, 0] = 0  # not constant
    assert image_quality(even)["entropy_focus"] == pytest.approx(1, abs=1e-3)


def test_volumes_by_hand_in_any_axis_order(tmp_path):
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[:5] = 3  # 500 voxels of white matter
    labels[5, :, :2] = 5  # 20 voxels of ventricle
    labels[9, 9, 9] = 4  # background is not counted
    affine = np.array([[0, 0, -0.5, 0], [2.0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1.0]])  # voxel 2 x 1.5 x 0.5 mm
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "dseg.nii.gz")
    volumes = tissue_volumes(tmp_path / "dseg.nii.gz")
    assert volumes["white_matter_ml"] == pytest.approx(500 * 1.5 / 1000)
    assert volumes["ventricles_ml"] == pytest.approx(0.03)
    assert volumes["ventricle_share"] == pytest.approx(20 / 520)
    _, size = read_ras(tmp_path / "dseg.nii.gz")
    assert sorted(size) == pytest.approx([0.5, 1.5, 2.0])
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "empty.nii.gz")
    with pytest.raises(InputError, match="no voxel with a DrawEM-9"):
        tissue_volumes(tmp_path / "empty.nii.gz")


def test_volumes_are_millilitres_in_every_unit_of_the_header(tmp_path):
    labels = np.zeros((10, 10, 10), dtype=np.uint8)
    labels[2:5, 2:5, 2:5] = 5
    image = nib.Nifti1Image(labels, np.diag([2e-3, 2e-3, 2e-3, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "metres.nii.gz")
    assert tissue_volumes(tmp_path / "metres.nii.gz")["ventricles_ml"] == pytest.approx(27 * 8 / 1000)


def test_scans_without_a_file_are_left_out(tmp_path):
    nib.save(nib.Nifti1Image(head(), np.eye(4)), tmp_path / "a.nii.gz")
    scans = pd.DataFrame(
        {"participant_id": ["A", "B"], "session_id": ["1", "1"], "image": [str(tmp_path / "a.nii.gz"), ""]}
    )
    assert measure_quality(scans)["participant_id"].tolist() == ["A"]
    assert measure_volumes(scans).empty
    (tmp_path / "bad.nii.gz").write_bytes(b"not an image")
    with pytest.raises(InputError, match="bad.nii.gz cannot be read"):
        measure_quality(scans.assign(image=str(tmp_path / "bad.nii.gz")))

"""The cohort of warped newborn scans with painted injuries, on a small made-up brain."""

import nibabel
import numpy as np
import pandas as pd
import pytest

from cohort.phantom.growth import VENTRICLES, WHITE_MATTER
from cohort.phantom.pathology import PUNCTATE
from cohort.scans import find_scans
from replication.newborn_injuries import paint_spots, warp
from replication.newborns import main

SPACING = np.array([1.5, 1.25, 2.0])
AFFINE = np.diag([-1.5, 1.25, 2.0, 1.0])  # stored from right to left


def write_brain(folder, name):
    """Ellipsoids: cortex, white matter, and two ventricles in it."""
    shape = (54, 62, 36)
    r, a, s = ((np.arange(n) - (n - 1) / 2) * step for n, step in zip(np.array(shape), SPACING, strict=True))
    r, a, s = r[:, None, None], a[None, :, None], s[None, None, :]
    size = np.sqrt((r / 38) ** 2 + (a / 36) ** 2 + (s / 33) ** 2)
    ventricle = ((np.abs(r) - 9) / 4) ** 2 + (a / 14) ** 2 + (s / 6) ** 2 < 1
    labels = np.where(size < 0.8, np.where(r > 0, 2, 41), 3)  # the first axis runs to the left
    labels = np.where(ventricle, np.where(r > 0, 4, 43), labels) * (size < 1)
    noise = np.random.default_rng(len(name)).normal(0, 5, shape)
    data = (np.select([size >= 1, ventricle, size < 0.8], [0, 800, 400], 280) + noise) * (size < 1)
    nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), AFFINE), folder / f"{name}_T2w_brain.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.int16), AFFINE), folder / f"{name}_Segmentation.nii.gz")


def test_each_infant_becomes_a_family_of_two_normal_and_two_injured_scans(tmp_path):
    for name in ("A1", "B2"):
        write_brain(tmp_path, name)
    out = tmp_path / "out"
    assert main(["--scans", str(tmp_path), "--output", str(out), "--num_workers", "1"]) == 0
    found = find_scans(out, brain_mask="required")
    assert [scan.family for scan in found] == ["A1"] * 4 + ["B2"] * 4
    assert [scan.radiology_score for scan in found] == ["1", "1", "3", "5"] * 2
    assert [scan.label for scan in found] == [0, 0, 1, 1] * 2
    truth = pd.read_csv(out / "truth.tsv", sep="\t")
    lesions = pd.read_csv(out / "lesions.tsv", sep="\t")
    growth = (truth["ventricles_ml"] / truth["ventricles_before_ml"]).tolist()
    assert max(growth[:3] + growth[4:7]) < 1.4 and min(growth[3], growth[7]) > 2.2
    for scan, row in zip(found, truth.to_dict("records"), strict=True):
        image = nibabel.load(scan.image)
        data, brain = image.get_fdata(), nibabel.load(scan.mask).get_fdata() > 0
        np.testing.assert_allclose(image.header.get_zooms(), SPACING, rtol=1e-6)
        assert not data[~brain].any() and not brain[[0, -1]].any() and not brain[:, [0, -1]].any()
        tissues = nibabel.load(scan.segmentation).get_fdata()
        assert np.median(data[tissues == VENTRICLES]) > 600  # labels and intensities moved together
        assert row["ventricles_ml"] == pytest.approx((tissues == VENTRICLES).sum() * SPACING.prod() / 1000, abs=0.01)
        mask = nibabel.load(scan.image.replace("restore_T2w", "lesion_mask")).get_fdata()
        spots = lesions[lesions["participant_id"] == scan.participant_id]
        assert len(spots) == row["punctate_count"]
        for spot in spots.to_dict("records"):
            at = np.linalg.inv(image.affine) @ [spot["x_mm"], spot["y_mm"], spot["z_mm"], 1]
            near = tuple(slice(int(v) - 1, int(v) + 3) for v in at[:3])
            assert (mask[near] == PUNCTATE).any() and data[near].min() < 385


def test_a_spot_takes_away_its_contrast_times_its_volume():
    shape, spacing = (70, 70, 70), np.array([0.8, 0.9, 1.0])
    level, white = 100.0, np.full(shape, WHITE_MATTER)
    white[[0, -1]] = 0
    painted, mask, spots = paint_spots(np.full(shape, level, np.float32), white, spacing, np.random.default_rng(3))
    assert 2 <= len(spots) <= 6 and {spot.shape for spot in spots} == {"ellipsoid", "tube"}
    expected = sum(np.pi / 6 * spot.diameter**3 * spot.contrast for spot in spots)
    taken = (level - painted[1:-1]).sum(dtype=np.float64) / level * spacing.prod()
    assert taken == pytest.approx(expected, rel=0.03)
    volume = sum(np.pi / 6 * spot.diameter**3 for spot in spots)
    assert (mask > 0).sum() * spacing.prod() == pytest.approx(volume, rel=0.25)


def test_a_warp_is_smooth_and_does_not_fold():
    spacing = np.array([2.0, 1.5, 2.5])
    positions = warp((40, 50, 30), spacing, np.random.default_rng(0))
    jacobian = np.stack([np.stack(np.gradient(each)) for each in positions]).transpose(2, 3, 4, 0, 1)
    assert np.linalg.det(jacobian).min() > 0.5
    moved = (positions - np.indices(positions.shape[1:])) * spacing[:, None, None, None]
    assert 1 < np.abs(moved).max() < 15


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / "A1_Segmentation.nii.gz").unlink(), "0 segmentations"),
        (lambda folder: (folder / "A1_T2w_brain.nii.gz").unlink(), "no scan named"),
        (lambda folder: (folder / "out").mkdir() or (folder / "out" / "mine").touch(), "not empty"),
        (
            lambda folder: nibabel.save(
                nibabel.Nifti1Image(np.zeros((5, 5, 5), np.int16), AFFINE), folder / "A1_Segmentation.nii.gz"
            ),
            "another grid",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, capsys, change, sentence):
    write_brain(tmp_path, "A1")
    change(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["--scans", str(tmp_path), "--output", str(tmp_path / "out"), "--num_workers", "1"]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before

"""The table of answers against the field of view."""

import warnings

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from replication import framing
from replication.changes import biased, changes, changes_of_scan, thick_slices
from replication.framing import main, mean_of_models, residual_bias, summary
from screening.loading import load_model
from screening.one_scan import screen_scan
from tests.brains import brain_with_spot


def test_the_summary_counts_changes_flips_warnings_and_refusals():
    rows = pd.DataFrame(
        [
            ("none", 0, 0.40, "", "", ""),
            ("none", 1, 0.90, "far", "", ""),
            ("neck", 0, 0.55, "", "", ""),
            ("neck", 1, 0.85, "far", "touches", ""),
            ("cut", 0, np.nan, "", "", "too little of the head"),
            ("cut", 1, 0.70, "", "", ""),
        ],
        columns=["change", "phantom", "p_injury", "warnings", "head_warnings", "refused"],
    )
    table = summary(rows).set_index("change")
    assert table.loc["neck", "mean change of p"] == pytest.approx(0.10)
    assert table.loc["neck", ["flips", "answered", "with a warning", "about the head"]].tolist() == [1, 2, 1, 1]
    assert table.loc["cut", ["flips", "answered", "refused"]].tolist() == [0, 1, 1]
    assert table.loc["cut", "mean change of p"] == pytest.approx(0.20)


def test_the_mean_of_models_is_that_of_their_answers_and_refuses_with_one_of_them():
    rows = pd.DataFrame(
        [
            ("a", 0, 1, "none", 0.2, "", "", ""),
            ("b", 0, 1, "none", 0.6, "far", "", ""),
            ("a", 0, 1, "cut", 0.2, "", "", ""),
            ("b", 0, 1, "cut", np.nan, "", "", "too little"),
        ],
        columns=["model", "phantom", "injured", "change", "p_injury", "warnings", "head_warnings", "refused"],
    )
    mean = mean_of_models(rows).set_index("change")
    assert mean.loc["none", "p_injury"] == pytest.approx(0.4) and mean.loc["none", "warnings"] == "far"
    assert np.isnan(mean.loc["cut", "p_injury"]) and mean.loc["cut", "refused"] == "too little"
    assert mean["model"].unique().tolist() == ["mean of 2 models"] and len(mean) == 2


def test_a_given_scan_keeps_its_head_through_every_change():
    data = np.zeros((30, 34, 28), np.float32)
    data[8:22, 9:27, 6:20] = 100
    data[9:12, 20:25, 15:18] = 400  # left, at the front, high up
    affine = np.array([[-3.0, 0, 0, 40], [0, 2.5, 0, -30], [0, 0, 4.0, -20], [0, 0, 0, 1]])
    flipped = nibabel.Nifti1Image(data[::-1], affine)
    images = dict(changes_of_scan(flipped))
    plain = images.pop("none")
    place = centre(plain)
    for name, image in images.items():
        moved = np.linalg.norm(centre(image) - place)
        assert moved < (12 if "turned" in name or "thick" in name else 1e-3 if "bias" not in name else 2), name
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert (np.array(images["padded by 20 mm"].shape) - plain.shape).tolist() == [14, 16, 10]
    assert images["cropped to 3 mm around it"].shape == (16, 22, 16)
    # nodding forwards by 15 degrees about the middle of the head turns front and top down
    at = place - nibabel.affines.apply_affine(plain.affine, np.argwhere(plain.get_fdata()).mean(axis=0))
    turned = centre(images["turned by 15 degrees, nodding forwards"]) - (place - at)
    c, s = np.cos(np.radians(15)), np.sin(np.radians(15))
    np.testing.assert_allclose(turned, [at[0], c * at[1] + s * at[2], c * at[2] - s * at[1]], atol=0.7)


def centre(image):
    """The mean position, mostly of the brightest part, in mm."""
    weights = image.get_fdata() ** 4
    places = np.moveaxis(np.indices(image.shape), 0, -1)
    return nibabel.affines.apply_affine(image.affine, (places * weights[..., None]).sum((0, 1, 2)) / weights.sum())


def test_thick_slices_are_means_at_the_middle_of_their_slices():
    affine = np.diag([-2.0, 1.0, 3.0, 1.0])
    data = np.random.default_rng(0).random((5, 4, 7)).astype(np.float32)
    thick = thick_slices(nibabel.Nifti1Image(data, affine), 2, 3)
    np.testing.assert_allclose(thick.get_fdata()[..., 1], data[..., 3:6].mean(axis=2), rtol=1e-6)
    assert nibabel.affines.voxel_sizes(thick.affine).tolist() == [2, 1, 9]
    np.testing.assert_allclose(thick.affine @ [0, 0, 1, 1], affine @ [0, 0, 4, 1])


def test_the_bias_field_has_the_stated_range():
    field = biased(nibabel.Nifti1Image(np.ones((9, 8, 7), np.float32), np.eye(4))).get_fdata()
    assert [field.min(), field.max()] == pytest.approx([0.607, 1.649], abs=1e-3)


def test_n4_removes_a_good_part_of_the_field_of_a_coarse_phantom():
    pytest.importorskip("SimpleITK")
    (left,) = residual_bias(1, "varied", 2.5).to_dict("records")
    assert left["before"] > 0.08
    assert max(left["after"], left["after_masked"]) < 0.6 * left["before"]


@pytest.mark.parametrize("base", ["varied", "fixed"])
def test_the_changes_are_what_their_names_say(base):
    images = dict(changes(1, 4.0, base))
    plain, shapes = images["none"], {name: np.array(image.shape) for name, image in images.items()}
    height = shapes["none"][2]
    assert shapes["20 mm more neck"].tolist() == [*plain.shape[:2], height + 5]
    assert shapes["head 10 mm higher"].tolist() == list(plain.shape)
    again = images["scanned again, half a voxel aside"].get_fdata()
    assert again.shape == (plain.shape[0] + 1, plain.shape[1] + 1, plain.shape[2])
    assert 0.9 < np.corrcoef(again[1:, 1:].ravel(), plain.get_fdata().ravel())[0, 1] < 1
    assert shapes["30 % larger in plane"] / plain.shape == pytest.approx([1.3, 1.3, 1], abs=0.05)
    lost = [height - shapes[f"lowest {part} of the head missing"][2] for part in ("tenth", "quarter")]
    brain = images["none"].get_fdata()[:, :, :].max(axis=(0, 1)) > 100
    assert lost[0] < lost[1] < 0.5 * brain.sum() + 8
    assert shapes["axial slices 2 times as thick"][2] == height // 2


def test_a_model_of_several_modalities_is_told_that_it_has_t2w_alone(tmp_path):
    torch.manual_seed(0)
    config = GloResNetConfig(image_size=16, stem_channels=4, widths=[4, 8, 8, 16], modalities=["T2w", "FA"])
    model, folder = GloResNetForImageClassification(config).eval(), tmp_path / "model"
    torch.nn.init.constant_(model.presence.weight[1], 3)
    export_model(model, GloResNetImageProcessor(16, modalities=["T2w", "FA"]), folder, "card")
    image = brain_with_spot()
    row = framing.measure([str(folder)], iter([(0, 0, 0, [("none", image)])]), 1).iloc[0]
    nibabel.save(image, tmp_path / "scan.nii")
    expected = screen_scan(*load_model(str(folder)), str(tmp_path / "scan.nii"))
    assert row["p_injury"] == pytest.approx(expected["p_injury"], abs=1e-6) and row["p_injury"] > 0.8


def test_a_model_answers_with_both_streams(tmp_path):
    torch.manual_seed(0)
    config = GloResNetConfig(image_size=16, stem_channels=4, widths=[4, 8, 8, 16], local_stream=True, local_scorers=1)
    folder = tmp_path / "model"
    export_model(
        GloResNetForImageClassification(config).eval(), GloResNetImageProcessor(16, local_stream=True), folder, "card"
    )
    image = brain_with_spot()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "This model has a local stream")
        row = framing.measure([str(folder)], iter([(0, 0, 0, [("none", image)])]), 1).iloc[0]
    nibabel.save(image, tmp_path / "scan.nii")
    expected = screen_scan(*load_model(str(folder)), str(tmp_path / "scan.nii"))
    assert expected["streams"] == ["global", "local"] and expected["p_local"] > 0
    assert row["p_injury"] == pytest.approx(expected["p_injury"], abs=1e-6) != expected["p_global"]


def test_the_command_writes_a_table_per_model(tmp_path, capsys):
    torch.manual_seed(0)
    config = GloResNetConfig(image_size=16, stem_channels=4, widths=[4, 8, 8, 16], head_init_std=3.0)
    model = GloResNetForImageClassification(config).eval()
    for name in ("head", "field_of_view"):
        export_model(model, GloResNetImageProcessor(image_size=16, framing=name), tmp_path / name, "card")
    models = [str(tmp_path / "head"), str(tmp_path / "field_of_view")]
    (tmp_path / "scans").mkdir()
    scan = framing.phantom(0, 4.0).image()
    nibabel.save(scan, tmp_path / "scans" / "a_T2w.nii.gz")
    nibabel.save(scan, tmp_path / "scans" / "a_T1w.nii.gz")
    arguments = ["--output", str(tmp_path / "out"), "--num_phantoms", "1", "--voxel_size", "4", "--mean", "--no_n4"]
    arguments += ["--scans", str(tmp_path / "scans")]
    assert main([*models, *arguments]) == 0
    rows = pd.read_csv(tmp_path / "out" / "framing.csv", keep_default_na=False)
    assert set(rows["model"]) == {*models, "mean of 2 models"} and len(rows) == 3 * len(set(rows["change"]))
    refused = rows[rows["refused"] != ""]
    assert set(refused["model"]) == {models[0], "mean of 2 models"}
    assert "lowest quarter of the head missing" in set(refused["change"])
    assert str(tmp_path) not in " ".join(refused["refused"])
    scans = pd.read_csv(tmp_path / "out" / "scans.csv", keep_default_na=False)
    assert set(scans["phantom"]) == {"a_T2w.nii.gz"} and "turned by 15 degrees to the side" in set(scans["change"])
    text = (tmp_path / "out" / "framing.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert all(f"## {name}" in text for name in models) and "phantom is never clinical evidence" in text
    assert framing.main([str(tmp_path / "gone"), *arguments]) == 2
    assert framing.main([models[0], *arguments[:-1], str(tmp_path)]) == 2  # a folder without scans

"""The table of answers against the field of view."""

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from replication import framing
from replication.framing import biased, changes, main, residual_bias, summary, thick_slices


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
    assert shapes["30 % larger in plane"] / plain.shape == pytest.approx([1.3, 1.3, 1], abs=0.05)
    lost = [height - shapes[f"lowest {part} of the head missing"][2] for part in ("tenth", "quarter")]
    brain = images["none"].get_fdata()[:, :, :].max(axis=(0, 1)) > 100
    assert lost[0] < lost[1] < 0.5 * brain.sum() + 8
    assert shapes["axial slices 2 times as thick"][2] == height // 2


def test_the_command_writes_a_table_per_model(tmp_path, capsys):
    torch.manual_seed(0)
    config = GloResNetConfig(image_size=16, stem_channels=4, widths=[4, 8, 8, 16], head_init_std=3.0)
    model = GloResNetForImageClassification(config).eval()
    for name in ("head", "field_of_view"):
        export_model(model, GloResNetImageProcessor(image_size=16, framing=name), tmp_path / name, "card")
    models = [str(tmp_path / "head"), str(tmp_path / "field_of_view")]
    arguments = ["--output", str(tmp_path / "out"), "--num_phantoms", "1", "--voxel_size", "4"]
    assert main([*models, *arguments]) == 0
    rows = pd.read_csv(tmp_path / "out" / "framing.csv", keep_default_na=False)
    assert set(rows["model"]) == set(models) and len(rows) == 2 * len(set(rows["change"]))
    refused = rows[rows["refused"] != ""]
    assert set(refused["model"]) == {models[0]}
    assert "lowest quarter of the head missing" in set(refused["change"])
    assert str(tmp_path) not in " ".join(refused["refused"])
    text = (tmp_path / "out" / "framing.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert all(f"## {name}" in text for name in models) and "phantom is never clinical evidence" in text
    assert framing.main([str(tmp_path / "gone"), *arguments]) == 2

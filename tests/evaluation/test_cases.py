"""Missed cases and false alarms, their thumbnails, and the true injuries of phantoms."""

import base64
import io

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evaluation.cases import phantom_truth, thumbnail, thumbnails, wrong_by_score, wrong_calls
from run_folder.files import InputError

TABLE = pd.DataFrame(
    {
        "participant_id": ["A", "B", "C", "D", "E"],
        "session_id": "1",
        "label": [1, 1, 0, 0, 1],
        "radiology_score": ["3", "3", "1", "2", "5"],
        "p_injury": [0.4, 0.1, 0.6, 0.9, 0.95],
        "image": None,
    }
)


def test_the_most_confident_errors_come_first():
    missed, alarms = wrong_calls(TABLE)
    assert missed["participant_id"].tolist() == ["B", "A"] and alarms["participant_id"].tolist() == ["D", "C"]
    assert wrong_calls(TABLE, np.array([0.3, 0.3, 0.3, 0.3, 0.99]))[0]["participant_id"].tolist() == ["B", "E"]


def test_errors_by_score():
    table = wrong_by_score(TABLE).set_index("score")
    assert table.loc["3", ["n", "wrong", "share"]].tolist() == [2, 2, 1.0]
    assert table.loc["5", "wrong"] == 0 and table.loc["1", "label"] == 0


def decode(address):
    assert address.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


def test_thumbnail_shows_anterior_up_and_the_patients_right_on_the_left(tmp_path):
    volume = np.zeros((40, 50, 30), np.float32)
    volume[5:35, 5:45, 5:25] = 50
    volume[30:34, 40:44, 5:25] = 200  # right, anterior
    nib.save(nib.Nifti1Image(volume[::-1], np.diag([-1.0, 1, 1, 1])), tmp_path / "scan.nii.gz")  # x is reversed
    picture = decode(thumbnail(tmp_path / "scan.nii.gz"))
    axial = picture[:, : picture.shape[1] // 2]
    row, column = np.argwhere(axial > 150).mean(axis=0)
    assert row < axial.shape[0] / 2 and column < axial.shape[1] / 2


def test_thumbnail_keeps_true_proportions(tmp_path):
    volume = np.full((30, 30, 60), 100, np.float32)
    volume[0] = 0
    nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2.0, 0.5, 1])), tmp_path / "scan.nii.gz")  # 60 x 60 x 30 mm
    picture = decode(thumbnail(tmp_path / "scan.nii.gz"))
    coronal = picture[:, picture.shape[1] // 2 + 2 :]
    rows = np.flatnonzero((coronal > 0).any(axis=1))
    assert len(rows) / coronal.shape[1] == pytest.approx(0.5, abs=0.05)


def test_no_image_no_thumbnail(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        thumbnail(tmp_path / "none.nii.gz")
    (tmp_path / "bad.nii.gz").write_text("x")
    table = pd.DataFrame({"image": [None, str(tmp_path / "gone.nii.gz"), str(tmp_path / "bad.nii.gz")]})
    assert thumbnails(table) == [None, None, None]


def test_true_injuries_of_phantoms(tmp_path):
    image = tmp_path / "sub-A" / "ses-1" / "anat" / "sub-A_ses-1_T2w.nii.gz"
    (tmp_path / "truth.tsv").write_text(
        "participant_id\tsession_id\tinjuries\tmotion\nA\t1\tivh:minor:left cystic_pvl:large\t0.0\nB\t1\tnone\t1.0\n"
    )
    truth = phantom_truth(pd.DataFrame({"image": [str(image)]}))
    assert truth == {("A", "1"): "IVH (minor, left); cystic PVL (large)", ("B", "1"): "no injury; motion"}
    assert phantom_truth(pd.DataFrame({"image": ["/nowhere/a/b/c.nii"]})) == {}
    assert phantom_truth(pd.DataFrame({"image": [None]})) == {}

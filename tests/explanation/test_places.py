from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from cohort.painted.scan import MASK_VALUES
from explanation.places import lesion_mask, nearest_lesion, places_markdown, summarise_places


def test_the_lesion_mask_of_an_image_is_never_the_image():
    names = ("desc-restore_T2w.nii.gz", "T2w.nii.gz", "desc-preproc_T2w.nii", "t2w.NII.GZ")
    for name in names:
        found = lesion_mask(f"/data/sub-A_desc-restore_T2w/sub-A_ses-1p1_{name}")
        assert found == Path("/data/sub-A_desc-restore_T2w/sub-A_ses-1p1_desc-lesion_mask.nii.gz"), name


def test_wide_ventricles_are_no_lesion():
    values = np.zeros((8, 8, 8), np.uint8)
    values[1, 1, 1], values[5:, 5:, 5:] = MASK_VALUES["spot"], MASK_VALUES["ventricles"]
    distances, diameter = nearest_lesion(nibabel.Nifti1Image(values, np.eye(4)), np.array([[6.0, 6.0, 6.0]]))
    assert np.isclose(distances, 5 * 3**0.5) and np.isclose(diameter, (6 / np.pi) ** (1 / 3))


def test_distances_are_millimetres_from_the_nearest_voxel_of_a_lesion():
    affine = np.array([[-0.5, 0, 0, 10], [0, 0.5, 0, -5], [0, 0, 2.0, 0], [0, 0, 0, 1]])
    lesions = np.zeros((20, 20, 20), np.uint8)
    lesions[4, 6, 3], lesions[10:12, 10:12, 10] = 3, 3
    mask = nibabel.Nifti1Image(lesions, affine)
    places = np.array([[8.0, -2.0, 6.0], [8.0, -2.0, 3.0], [8.0 - 3, -2.0 + 4, 6.0 - 12]])
    distances, diameter = nearest_lesion(mask, places)
    assert np.allclose(distances, [0, 3, 13])
    assert np.isclose(diameter, (6 * 4 * 0.5 / np.pi) ** (1 / 3))  # four voxels of 0.5 mm3
    assert nearest_lesion(mask, np.zeros((0, 3)))[0].shape == (0,)


def test_shares_by_size_count_silence_as_not_found():
    table = pd.DataFrame(
        {
            "family": ["A", "B", "C", "D"],
            "radiology_score": ["3", "3", "5", "3"],
            "diameter_mm": [1.5, 2.0, 3.5, 2.7],
            "distance_mm": [9.0, 1.0, 3.0, np.nan],
            "nearest_of_5_mm": [2.0, 1.0, 3.0, np.nan],
        }
    )
    summary = summarise_places(table).set_index("scans")
    assert summary.loc["all scans with lesions", "top"].estimate == 0.5
    assert summary.loc["all scans with lesions", "top_5"].estimate == 0.75
    assert np.isclose(summary.loc["score 3", "top"].estimate, 1 / 3)
    assert summary.loc["largest lesion 0 to 2 mm", "top"].estimate == 0
    assert summary.loc["largest lesion 3 mm or more", "n"] == 1
    assert "| score 3 | 3 | 0.33 (0.06 to 0.79) |" in places_markdown(summary.reset_index())
    none = summary.loc["largest lesion 0 to 2 mm", "top"]
    assert none.low == 0 and np.isclose(none.high, 3.8416 / 4.8416, atol=1e-3)  # z^2 / (n + z^2), by hand
    twice = summarise_places(pd.concat([table, table])).set_index("scans").loc["score 3", "top"]
    assert twice == summary.loc["score 3", "top"]  # a second scan of the same family tells nothing new
    assert "never clinical evidence" in places_markdown(summary.reset_index())

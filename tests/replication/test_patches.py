import json

import numpy as np
import pandas as pd

from cohort.scans import find_scans
from preprocessing import GloResNetImageProcessor, read_volume
from preprocessing.resampling_gloresnet import standardise
from replication.patches import cut, patch_cohort, starts, whole_scans
from training.recipe import load_recipe


def test_patches_are_adjacent_around_the_middle_of_an_axis():
    assert starts(116, 32, 2) == [26, 58]
    assert starts(290, 128, 2) == [17, 145]
    assert starts(60, 32, 3) == [-2, 30]  # two patches cover the axis
    assert starts(20, 32, 2) == [-6]


def test_a_patch_has_the_lowest_value_outside_the_scan():
    data = np.arange(27, dtype=np.float32).reshape(3, 3, 3) + 5
    patch = cut(data, (1, -1, 0), 3)
    assert (patch[:2, 1:, :] == data[1:, :2, :]).all() and (patch[2] == 5).all() and (patch[:, 0] == 5).all()


def test_patches_have_native_spacing_and_the_label_of_their_scan(shared_tiny_cohort, tmp_path):
    recipe = load_recipe("paper", image_size=16)
    folder, labels = patch_cohort(shared_tiny_cohort, None, recipe, tmp_path, 2)
    patches = find_scans(folder, labels)
    whole = {scan.participant_id: scan for scan in find_scans(shared_tiny_cohort)}
    assert len(patches) == len(whole) == 12 and all(scan.status == "used" for scan in patches)
    assert all(scan.label == whole[scan.participant_id].label for scan in patches)
    assert all(scan.family == whole[scan.participant_id].family for scan in patches)
    scan = patches[0]
    data = read_volume(whole[scan.participant_id].image).data  # 12 x 14 x 11: padded, not resized
    pixel_values = GloResNetImageProcessor(image_size=16)(scan.image, return_tensors="np")["pixel_values"][0, 0]
    np.testing.assert_allclose(pixel_values, standardise(cut(data, (-2, -1, -3), 16)), atol=1e-5)
    image = read_volume(scan.image)
    centre = image.affine @ [8, 8, 8, 1]  # the spacing and position of the scan
    np.testing.assert_allclose(centre[:3], 0.5 * np.array([6, 7, 5]))
    before = labels.stat().st_mtime_ns
    assert patch_cohort(shared_tiny_cohort, None, recipe, tmp_path, 2)[1].stat().st_mtime_ns == before


def test_the_probability_of_a_scan_is_the_mean_over_its_patches():
    rows = [("a", "7p0", 0.2), ("a", "7p11", 0.4), ("a", "8p0", 0.9), ("b", "p0", 0.5)]
    table = pd.DataFrame(rows, columns=["participant_id", "session_id", "p_injury"])
    table = table.assign(p_injury_no_tta=table["p_injury"], family="f", fold=0, label=1, radiology_score="5")
    found = whole_scans(table)
    assert found["session_id"].tolist() == ["7", "8", ""]
    np.testing.assert_allclose(found["p_injury"], [0.3, 0.9, 0.5])
    assert json.loads(found.iloc[0][["fold", "label"]].to_json()) == {"fold": 0, "label": 1}

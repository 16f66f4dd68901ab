"""The vendored file, and what Python passes to the viewer component."""

import hashlib
import json
import re

import numpy as np
import pytest

import viewer
from viewer.niivue import STATIC


def test_the_vendored_file_matches_the_checksum_in_its_readme():
    named = re.search(r"sha256 \| `([0-9a-f]{64})`", (STATIC / "README.md").read_text()).group(1)
    assert hashlib.sha256((STATIC / "niivue.umd.js").read_bytes()).hexdigest() == named
    assert "BSD 2-Clause" in (STATIC / "LICENSE-niivue.txt").read_text()


def test_the_script_has_a_relative_address_and_nothing_points_to_another_host():
    assert 'src="gradio_api/file=' in viewer.head()
    assert viewer.static_paths() == [STATIC]
    own = viewer.head() + viewer.css() + "".join(path.read_text() for path in STATIC.glob("[!n]*.js"))
    assert not re.search(r"https?://|localStorage|@import", own)


def test_a_scene_is_json_with_gradio_files_and_the_affines_that_nibabel_reads(tmp_path, scan_file):
    path = scan_file(tmp_path / "scan.nii.gz", "PIR")
    scene = viewer.scene(path, path, low=np.float32(3), high=900, peak=np.array([1.0, 2, 3]), name="one")
    assert json.loads(json.dumps(scene)) == scene
    assert scene["scan"]["file"]["meta"] == {"_type": "gradio.FileData"}
    assert scene["scan"]["file"]["path"] == str(path)
    # PIR: the first stored axis runs posterior, the second inferior, the third right
    assert np.sign(np.array(scene["scan"]["affine"])[[1, 2, 0], [0, 1, 2]]).tolist() == [-1, -1, 1]
    assert (scene["cal_min"], scene["cal_max"], scene["peak"]) == (3.0, 900.0, [1.0, 2.0, 3.0])
    assert viewer.scene(path, low=0, high=1)["overlay"] is viewer.scene(path, low=0, high=1)["frame"] is None
    with pytest.raises(ValueError, match="give two positions"):
        viewer.scene(path, low=0, high=1, frame=[[1, 2, 3], [4, float("nan"), 6]])


@pytest.mark.parametrize("low, high, peak", [(5, 5, None), (9, 1, None), (float("nan"), 1, None), (0, 1, [1, 2])])
def test_a_scene_with_an_empty_window_or_an_invalid_peak_is_refused(tmp_path, scan_file, low, high, peak):
    with pytest.raises(ValueError, match="give t"):
        viewer.scene(scan_file(tmp_path / "scan.nii.gz"), low=low, high=high, peak=peak)

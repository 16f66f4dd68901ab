import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from cohort.painted.spots import Lesion
from cohort.scans import CohortError, find_scans
from preprocessing import GloResNetImageProcessor
from training.local.bank import build_bank, copies_for, local_inputs_of, near_injuries, shares_table
from training.local.scorer import packed

PROCESSOR = GloResNetImageProcessor()


def hashed(folder):
    scans = [scan for scan in find_scans(folder) if scan.status == "used"][:2]
    return {scan: hashlib.sha256(Path(scan.image).read_bytes()).hexdigest() for scan in scans}


def test_a_bank_is_made_once_and_found_again_for_a_copied_cohort(brains, quick, tmp_path):
    scans = hashed(brains)
    bank = build_bank(scans, PROCESSOR, 1, num_workers=1)
    normal, injured = scans
    material = bank.normal(normal)
    inputs = local_inputs_of(normal.image, None, PROCESSOR)
    assert np.array_equal(material.as_acquired, packed(inputs.patches))
    assert np.allclose(bank.shares([normal])[0], inputs.shares)
    assert len(material.painted) == 1 and 5 < len(material.painted[0]) < 60
    # what is painted is darker in its middle than a candidate of the scan
    assert material.painted[0][:, 0, 5, 5, 5].mean() < material.as_acquired[:, 0, 5, 5, 5].mean()
    assert not np.array_equal(material.moved[:50], material.as_acquired[:50])
    assert not [path for path in bank.folder.glob(f"{bank.names[injured]}*") if "painted" in path.name]

    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in bank.folder.glob("*.npy")}
    assert len(files) == 4 + 2
    damaged = next(path for path in files if path.name.endswith("painted-0.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-10])
    copied = hashed(shutil.copytree(brains, tmp_path / "copy"))
    smaller = GloResNetImageProcessor(image_size=32, framing="head")  # what a candidate is does not depend on these
    again = build_bank(copied, smaller, 1, num_workers=1)
    assert damaged.read_bytes() == files[damaged][0]
    untouched = [path for path in files if bank.names[injured] in path.name]
    assert all(path.stat().st_mtime_ns == files[path][1] for path in untouched)
    assert again.folder == bank.folder and [*again.names.values()] == [*bank.names.values()]


def test_a_scan_that_cannot_be_searched_has_no_candidates(brains, quick, monkeypatch):
    monkeypatch.setattr("preprocessing.interior_gloresnet.COARSEST_MM", 0.5)
    scans = {scan: content[::-1] for scan, content in hashed(brains).items()}  # other scans, for the cache
    bank = build_bank(scans, PROCESSOR, 1, num_workers=1)
    normal = next(iter(scans))
    assert len(bank.candidates(normal)) == 0 and len(bank.normal(normal).painted[0]) == 0
    assert shares_table([normal], bank).iloc[0, 2:].isna().all()


def test_a_scan_that_has_gone_is_named(brains, quick, tmp_path):
    scans = hashed(shutil.copytree(brains, tmp_path / "copy"))
    scans = {scan: f"gone {content}" for scan, content in scans.items()}
    next(iter(scans)) and Path(next(iter(scans)).image).unlink()
    with pytest.raises(CohortError, match="P00"):
        build_bank(scans, PROCESSOR, 1, num_workers=1)


def test_a_candidate_is_painted_if_it_lies_within_1_mm_or_two_fifths_of_the_diameter():
    lesions = [
        Lesion("spot", (10.0, 10.0, 10.0), diameter, -0.2, 1.0, (0, 0, 0), np.ones((1, 1, 1), np.float32))
        for diameter in (1.5, 5.0)
    ]
    voxels = np.array([[10, 10, 11], [10, 10, 12], [13, 10, 10]])
    spacing = np.array([0.7, 0.9, 0.9])
    assert near_injuries(voxels, spacing, lesions[:1]).tolist() == [True, False, False]  # 0.9, 1.8, 2.1 mm
    assert near_injuries(voxels, spacing, lesions[1:]).tolist() == [True, True, False]
    assert near_injuries(voxels, spacing, []).tolist() == [False] * 3


def test_few_normal_scans_are_painted_more_often():
    assert [copies_for(number) for number in (0, 12, 20, 48, 64, 80, 300)] == [8, 8, 8, 4, 3, 2, 2]

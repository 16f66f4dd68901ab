"""Which scans files, folders, BIDS trees and patterns name."""

import os

import pytest

from cohort.images import CohortError
from screening.errors import NoScansError
from screening.requests import Request, find_mask, find_requests


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def scans(*sources):
    return [request.scan for request in find_requests(list(map(str, sources)))]


def test_folders_patterns_and_repeats_give_each_scan_once_in_order(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    touch(tree / "b" / "two.nii", tree / "c.nii.gz", tree / "a.mgz", tree / "notes.txt")
    touch(tree / "._c.nii.gz")  # a shadow file that macOS leaves on shared disks
    touch(tmp_path / "s0.nii.gz", tmp_path / "s1.nii.gz")
    monkeypatch.chdir(tmp_path)
    first = tmp_path / "s1.nii.gz"
    found = scans(first, "tree", tmp_path / "s[01].nii.gz", "./tree/a.mgz", "s1.nii.gz")
    assert found == [str(first), "tree/a.mgz", "tree/b/two.nii", "tree/c.nii.gz", str(tmp_path / "s0.nii.gz")]


def test_a_missing_file_stays_a_request_and_an_empty_folder_is_a_problem(tmp_path):
    (tmp_path / "empty").mkdir()
    missing, empty = find_requests(["gone.nii", str(tmp_path / "empty")])
    assert missing == Request("gone.nii")
    assert "empty holds no scans: check the path" in empty.problem


def test_sources_without_any_scan_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoScansError, match=r"no scans found: .*empty holds no scans.* no\*such.nii holds no scans"):
        find_requests([str(tmp_path / "empty"), "no*such.nii"])


def test_a_session_gives_its_bias_corrected_image(tmp_path):
    anat = tmp_path / "sub-01" / "ses-1" / "anat"
    touch(*(anat / f"sub-01_ses-1_{suffix}.nii.gz" for suffix in ("T2w", "T1w", "desc-restore_T2w")))
    expected = [str(anat / "sub-01_ses-1_desc-restore_T2w.nii.gz")]
    assert scans(tmp_path) == scans(anat.parent.parent) == scans(anat.parent) == scans(anat) == expected


def test_an_ambiguous_session_is_a_problem(tmp_path):
    touch(*(tmp_path / "sub-01" / "anat" / f"sub-01_run-{run}_T2w.nii.gz" for run in (1, 2)))
    touch(tmp_path / "sub-02" / "anat" / "sub-02_T2w.nii.gz")
    ambiguous, chosen = find_requests([str(tmp_path)])
    assert ambiguous.scan == str(tmp_path / "sub-01" / "anat")
    assert "several T2-weighted images" in ambiguous.problem and not chosen.problem


def test_a_mask_is_found_in_anat_folders_only(tmp_path):
    anat = tmp_path / "sub-01" / "anat"
    scan, mask = anat / "sub-01_T2w.nii.gz", anat / "sub-01_desc-brain_mask.nii.gz"
    touch(scan, mask, tmp_path / "scan.nii")
    assert os.path.samefile(find_mask(str(scan)), mask)
    with pytest.raises(CohortError, match="no brain mask next to it"):
        find_mask(str(tmp_path / "scan.nii"))

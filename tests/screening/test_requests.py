"""Which scans files, folders, BIDS trees and patterns name."""

import os
from pathlib import Path

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


def test_extensions_may_be_in_upper_case(tmp_path):
    names = ["A.NII", "B.NII.GZ", "C.Nii.gz", "D.MGZ", "E.MGH"]
    touch(*(tmp_path / name for name in names), tmp_path / "F.TXT", tmp_path / "._B.NII.GZ")
    assert scans(tmp_path) == [str(tmp_path / name) for name in names]


def test_linked_folders_are_read_once(tmp_path):
    touch(tmp_path / "disk" / "b.nii", tmp_path / "study" / "a.nii")
    (tmp_path / "study" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "study")
    assert scans(tmp_path / "study") == [str(tmp_path / "study" / name) for name in ("a.nii", "more/b.nii")]


def test_every_session_gives_an_image_or_a_reason(tmp_path):
    """The names of issue 17, each of which was left out without a word."""
    for subject, name in [
        ("01", "_T2w.NII.GZ"),
        ("02", "_desc-preproc_T2w.nii.gz"),
        ("03", "_T2W.nii"),
        ("04", "_T1w.nii"),
    ]:
        touch(tmp_path / f"sub-{subject}" / "anat" / f"sub-{subject}{name}")
    touch(tmp_path / "sub-05" / "ses-1" / "func" / "sub-05_ses-1_bold.nii.gz")
    touch(tmp_path / "sub-05" / "ses-2" / "anat" / "sub-05_ses-2_T2w.nii")
    (tmp_path / "sub-06").mkdir()
    found = find_requests([str(tmp_path)])
    assert [request.scan.removeprefix(f"{tmp_path}/") for request in found] == [
        "sub-01/anat/sub-01_T2w.NII.GZ",
        "sub-02/anat/sub-02_desc-preproc_T2w.nii.gz",
        "sub-03/anat/sub-03_T2W.nii",
        "sub-04/anat",
        "sub-05/ses-1",
        "sub-05/ses-2/anat/sub-05_ses-2_T2w.nii",
        "sub-06",
    ]
    problems = [request.problem for request in found if request.problem]
    assert "has no T2-weighted image: found sub-04_T1w.nii in" in problems[0]
    assert "ses-1 has no T2-weighted image: it has no folder anat." in problems[1] and "datalad get" in problems[2]
    assert find_requests([str(tmp_path / "sub-05")]) == found[4:6]


def test_a_tree_without_any_image_names_the_first_reasons(tmp_path):
    for number in range(50):
        touch(tmp_path / f"sub-{number:02}" / "anat" / f"sub-{number:02}_T1w.nii.gz")
    with pytest.raises(NoScansError, match="found sub-02_T1w.nii.gz in .* and 47 more like these") as caught:
        find_requests([str(tmp_path)])
    assert "sub-03" not in str(caught.value)


def test_acquisition_and_run_choose_among_several_images(tmp_path):
    anat = tmp_path / "sub-01" / "anat"
    touch(*(anat / f"sub-01_acq-{kind}_run-{run}_T2w.nii.gz" for kind in ("fast", "sharp") for run in ("01", "02")))
    touch(tmp_path / "sub-02" / "anat" / "sub-02_T2w.nii.gz", tmp_path / "loose.nii")
    sources = [str(tmp_path), str(tmp_path / "loose.nii")]
    chosen = find_requests(sources, acquisition="sharp", run="2")
    assert [Path(request.scan).name for request in chosen] == [
        "sub-01_acq-sharp_run-02_T2w.nii.gz", "sub-02_T2w.nii.gz", "loose.nii",
    ]  # fmt: skip
    assert not any(request.problem for request in chosen)
    assert "--acquisition or --run" in find_requests(sources)[0].problem
    assert "for --run 3" in find_requests(sources, run="3")[0].problem


def test_a_mask_is_found_in_anat_folders_only(tmp_path):
    anat = tmp_path / "sub-01" / "anat"
    scan, mask = anat / "sub-01_T2w.nii.gz", anat / "sub-01_desc-brain_mask.nii.gz"
    touch(scan, mask, tmp_path / "scan.nii")
    assert os.path.samefile(find_mask(str(scan)), mask)
    with pytest.raises(CohortError, match="no brain mask next to it"):
        find_mask(str(tmp_path / "scan.nii"))


def test_a_plain_folder_of_files_with_bids_names_is_not_a_tree(tmp_path):
    names = ["ses-1.nii.gz", "sub-01_T2w.nii.gz", "sub-02_T2w.nii.gz"]
    touch(*(tmp_path / name for name in names))
    assert scans(tmp_path) == [str(tmp_path / name) for name in names]

"""Which file of an `anat` folder is used as image and as mask. No test opens an image."""

import re
from pathlib import Path

import pytest

from cohort.images import CohortError, list_sessions, mask_of, not_fetched, parse_name, session_images


def add(root: Path, participant: str, session: str = "", names=("desc-restore_T2w",), extension=".nii.gz") -> Path:
    """Empty files of one session, as in a release."""
    stem = f"sub-{participant}" + (f"_ses-{session}" if session else "")
    anat = root.joinpath(*stem.split("_"), "anat")
    anat.mkdir(parents=True, exist_ok=True)
    for name in names:
        (anat / f"{stem}_{name}{extension}").touch()
    return anat


@pytest.mark.parametrize(
    "names, chosen",
    [
        (("T2w", "desc-biasfield_T2w", "space-T1w_T2w"), "T2w"),
        (("run-1_T2w", "run-2_T2w", "desc-restore_T2w"), "desc-restore_T2w"),
        (("acq-tse_run-1_T2w",), "acq-tse_run-1_T2w"),
        (("desc-biasfield_T2w", "desc-restore_space-T1w_T2w", "T1w", "desc-brain_mask"), None),
        (("desc-preproc_T2w", "T1w"), "desc-preproc_T2w"),
        (("desc-preproc_T2w", "T2w"), "T2w"),
        (("T2W",), "T2W"),
        (("desc-restore_t2w", "T2w"), "desc-restore_t2w"),
    ],
)
def test_names_are_matched_by_entity(tmp_path, names, chosen):
    add(tmp_path, "other", "1")
    anat = add(tmp_path, "01", "1", names)
    (anat / "._sub-01_ses-1_T2w.nii.gz").touch()  # macOS leaves such files
    (anat / "sub-01_ses-1_T2w.json").touch()
    images = {found.participant_id: found.image for found in list_sessions(tmp_path)}
    assert images.get("01") == (chosen and str(anat / f"sub-01_ses-1_{chosen}.nii.gz"))


def test_the_mask_belongs_to_the_run_of_the_image(tmp_path):
    anat = add(tmp_path, "01", names=("run-2_T2w", "run-1_desc-brain_mask", "run-2_desc-brain_mask", "desc-brain_mask"))
    assert list_sessions(tmp_path)[0].mask == str(anat / "sub-01_run-2_desc-brain_mask.nii.gz")
    (anat / "sub-01_run-2_desc-brain_mask.nii.gz").unlink()
    (anat / "sub-01_desc-brain_mask.nii.gz").unlink()
    assert list_sessions(tmp_path)[0].mask is None


@pytest.mark.parametrize("extension", [".NII.GZ", ".NII", ".Nii.gz"])
def test_extensions_in_upper_case_are_read(tmp_path, extension):
    anat = add(tmp_path, "01", "1", ("T2w", "desc-brain_mask"), extension)
    found = list_sessions(tmp_path)[0]
    assert found.image == str(anat / f"sub-01_ses-1_T2w{extension}")
    assert found.mask == mask_of(found.image) == str(anat / f"sub-01_ses-1_desc-brain_mask{extension}")


def test_several_images_for_one_session_are_refused(tmp_path):
    anat = add(tmp_path, "01", "1", names=("run-1_T2w", "run-2_T2w"))
    complaint = "sub-01 ses-1 has several.*run-1_T2w.nii.gz, .*run-2_T2w.nii.gz.*--acquisition or --run"
    assert re.search(complaint, list_sessions(tmp_path)[0].problem)
    with pytest.raises(CohortError, match=complaint):
        session_images(anat)


RUNS = ("acq-tse_run-01_T2w", "acq-tse_run-02_T2w", "acq-haste_T2w")


@pytest.mark.parametrize(
    "names, acquisition, run, chosen",
    [
        (RUNS, "haste", None, "acq-haste_T2w"),
        (RUNS, "acq-tse", "1", "acq-tse_run-01_T2w"),
        (RUNS, "tse", "run-02", "acq-tse_run-02_T2w"),
        (RUNS, "tse", None, None),
        (RUNS, None, "3", "acq-haste_T2w"),  # it names no run
        (RUNS, "space", None, None),
        (("T2w", "acq-tse_T2w"), "tse", None, "acq-tse_T2w"),
        (("T2w", "acq-tse_T2w"), "haste", None, "T2w"),
        (("T2w",), "tse", "2", "T2w"),
        (("acq-haste_T2w",), "tse", None, None),  # the only image, but of another acquisition
        (("run-1_T2w", "run-2_T2w", "desc-restore_T2w"), None, "2", "desc-restore_T2w"),
    ],
)
def test_acquisition_and_run_choose_among_several_images(tmp_path, names, acquisition, run, chosen):
    anat = add(tmp_path, "01", "1", names)
    (found,) = list_sessions(tmp_path, acquisition=acquisition, run=run)
    assert found.image == (chosen and str(anat / f"sub-01_ses-1_{chosen}.nii.gz"))
    if chosen:
        assert session_images(anat, acquisition=acquisition, run=run) == found
        assert not found.status and not found.problem


def test_an_image_of_another_acquisition_is_named(tmp_path):
    add(tmp_path, "01", names=("acq-haste_T2w",))
    (found,) = list_sessions(tmp_path, acquisition="tse", run="2")
    assert found.status == "no image"
    assert "no T2-weighted image for --acquisition tse and --run 2: found sub-01_acq-haste_T2w.nii.gz" in found.problem


def test_every_session_without_a_usable_image_is_listed_with_the_reason(tmp_path):
    add(tmp_path, "01", "1")
    anat = add(tmp_path, "01", "2", names=("T1w", "desc-biasfield_T2w"))
    add(tmp_path, "01", "3", names=("run-1_T2w", "run-2_T2w"))
    (tmp_path / "sub-01" / "ses-4" / "func").mkdir(parents=True)
    (tmp_path / "sub-02").mkdir()
    add(tmp_path, "03", names=())
    found = list_sessions(tmp_path)
    assert [(each.participant_id, each.session_id, each.status) for each in found] == [
        *(("01", "1", ""), ("01", "2", "no image"), ("01", "3", "several images"), ("01", "4", "no image")),
        *(("02", "", "no image"), ("03", "", "no image")),
    ]
    assert [each.image is None for each in found] == [bool(each.problem) for each in found]
    assert f"found sub-01_ses-2_T1w.nii.gz, sub-01_ses-2_desc-biasfield_T2w.nii.gz in {anat}" in found[1].problem
    assert "no folder anat in" in found[3].problem and "datalad get -n" in found[4].problem
    assert "found no NIfTI file" in found[5].problem


def test_several_masks_leave_the_image_usable(tmp_path):
    anat = add(tmp_path, "01", names=("T2w", "desc-brain_mask"))
    add(tmp_path, "01", names=("desc-brain_mask",), extension=".nii")
    found = session_images(anat)
    assert found.image and found.mask is None and "several brain masks" in found.mask_problem
    with pytest.raises(CohortError, match="several brain masks"):
        mask_of(found.image)


def test_the_mask_of_an_image_among_several(tmp_path):
    anat = add(tmp_path, "01", names=("run-1_T2w", "run-2_T2w", "run-2_desc-brain_mask", "desc-brain_mask"))
    assert mask_of(anat / "sub-01_run-2_T2w.nii.gz") == str(anat / "sub-01_run-2_desc-brain_mask.nii.gz")
    assert mask_of(anat / "sub-01_run-1_T2w.nii.gz") == str(anat / "sub-01_desc-brain_mask.nii.gz")
    assert mask_of(tmp_path / "scan.nii.gz") is None


def test_files_that_were_not_fetched(tmp_path):
    annex, lost, lfs, unlocked, whole = (
        tmp_path / f"{name}.nii.gz" for name in ("annex", "lost", "lfs", "un", "whole")
    )
    annex.symlink_to("../../.git/annex/objects/1z/9w/MD5E-s1.nii.gz/MD5E-s1.nii.gz")
    lost.symlink_to("elsewhere.nii.gz")
    lfs.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    unlocked.write_text("/annex/objects/MD5E-s1.nii.gz\n")
    whole.write_bytes(b"\x1f\x8b" + bytes(10))
    assert "has not been fetched: run `datalad get annex.nii.gz` in its folder" in not_fetched(annex)
    assert "broken link to elsewhere.nii.gz" in not_fetched(lost)
    assert "has not been fetched: run `git lfs pull`" in not_fetched(lfs)
    assert "run `datalad get un.nii.gz`" in not_fetched(unlocked)
    assert not_fetched(whole) == not_fetched(tmp_path / "nowhere.nii.gz") == ""


def test_both_formats_of_one_image_are_refused(tmp_path):
    add(tmp_path, "01")
    add(tmp_path, "01", extension=".nii")
    assert re.search("several.*restore_T2w.nii, .*restore_T2w.nii.gz", list_sessions(tmp_path)[0].problem)


def test_participant_and_session_come_from_the_folder_names(tmp_path):
    anat = add(tmp_path, "CC00754AN12", "07")
    found = session_images(anat)
    assert (found.participant_id, found.session_id) == ("CC00754AN12", "07")
    assert found.image == str(anat / "sub-CC00754AN12_ses-07_desc-restore_T2w.nii.gz")
    assert (found.mask, found.segmentation) == (None, None)


@pytest.mark.parametrize("name", ["sub-01_T2w.json", "T2w.nii.gz", "sub-01_T2w_copy-2.nii.gz", "sub-01_old_T2w.nii.gz"])
def test_other_names_are_not_images(name):
    assert parse_name(name) is None

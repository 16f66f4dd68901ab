"""Which file of an `anat` folder is used as image and as mask. No test opens an image."""

from pathlib import Path

import pytest

from cohort.images import CohortError, find_images, parse_name, session_images


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
    ],
)
def test_names_are_matched_by_entity(tmp_path, names, chosen):
    add(tmp_path, "other", "1")
    anat = add(tmp_path, "01", "1", names)
    (anat / "._sub-01_ses-1_T2w.nii.gz").touch()  # macOS leaves such files
    (anat / "sub-01_ses-1_T2w.json").touch()
    images = {found.participant_id: found.image for found in find_images(tmp_path)}
    assert images.get("01") == (chosen and str(anat / f"sub-01_ses-1_{chosen}.nii.gz"))


def test_the_mask_belongs_to_the_run_of_the_image(tmp_path):
    anat = add(tmp_path, "01", names=("run-2_T2w", "run-1_desc-brain_mask", "run-2_desc-brain_mask", "desc-brain_mask"))
    assert find_images(tmp_path)[0].mask == str(anat / "sub-01_run-2_desc-brain_mask.nii.gz")
    (anat / "sub-01_run-2_desc-brain_mask.nii.gz").unlink()
    (anat / "sub-01_desc-brain_mask.nii.gz").unlink()
    assert find_images(tmp_path)[0].mask is None


def test_several_images_for_one_session_are_refused(tmp_path):
    add(tmp_path, "01", "1", names=("run-1_T2w", "run-2_T2w"))
    with pytest.raises(CohortError, match="sub-01 ses-1 has several.*run-1_T2w.nii.gz, .*run-2_T2w.nii.gz"):
        find_images(tmp_path)


def test_both_formats_of_one_image_are_refused(tmp_path):
    add(tmp_path, "01")
    add(tmp_path, "01", extension=".nii")
    with pytest.raises(CohortError, match="several.*restore_T2w.nii, .*restore_T2w.nii.gz"):
        find_images(tmp_path)


def test_participant_and_session_come_from_the_folder_names(tmp_path):
    anat = add(tmp_path, "CC00754AN12", "07")
    found = session_images(anat)
    assert (found.participant_id, found.session_id) == ("CC00754AN12", "07")
    assert found.image == str(anat / "sub-CC00754AN12_ses-07_desc-restore_T2w.nii.gz")
    assert (found.mask, found.segmentation) == (None, None)


@pytest.mark.parametrize("name", ["sub-01_T2w.json", "T2w.nii.gz", "sub-01_T2w_copy-2.nii.gz", "sub-01_old_T2w.nii.gz"])
def test_other_names_are_not_images(name):
    assert parse_name(name) is None

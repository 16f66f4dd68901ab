"""Uploads of every kind become scans; what is private in a DICOM study goes no further."""

import shutil
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from preprocessing import Volume
from tests.dicomfiles.deliveries import PRIVATE, enhanced, save, slices_of, volume
from viewer.scans import (
    STUDY,
    UploadError,
    asks_for_series,
    check_endings,
    delete_delivery,
    open_upload,
    take_scans,
    write_drawn,
)
from viewer.workspace import Workspace

IMAGE = volume()


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    workspace = Workspace()
    yield workspace
    workspace.close()


def uploaded(workspace, *files):
    """What the page receives for files of one upload."""
    with workspace.receive_upload() as folder:
        for number, file in enumerate(files):
            (folder / str(number)).mkdir()
            shutil.copy(file, folder / str(number) / file.name)
    return [{"path": str(folder / str(number) / file.name)} for number, file in enumerate(files)]


def studies(tmp_path):
    """Loose files, one multi-frame file without an ending, and a zip."""
    loose = sorted(save(slices_of(IMAGE), tmp_path / "loose").iterdir())
    (single,) = save([enhanced(IMAGE)], tmp_path / "single").iterdir()
    return {"loose": loose, "single": [single.rename(single.with_suffix(""))], "zip": [packed(tmp_path)]}


def packed(tmp_path):
    return Path(shutil.make_archive(str(tmp_path / "my study"), "zip", tmp_path / "loose"))


@pytest.mark.parametrize("kind", ["loose", "single", "zip"])
def test_every_form_of_a_study_is_one_scan_with_the_voxels_and_places_of_the_nifti(tmp_path, workspace, kind):
    files = uploaded(workspace, *studies(tmp_path)[kind])
    check_endings(files, needs_mask=False)
    (scan,) = take_scans(files, False, "anna", workspace)
    assert Path(scan).name == ("my study.zip" if kind == "zip" else STUDY)
    read = open_upload(scan)
    assert isinstance(read, Volume)
    drawn = Path(write_drawn(read, scan))
    assert drawn.name == ("my study.nii.gz" if kind == "zip" else f"{STUDY}.nii.gz")
    image, expected = nibabel.load(drawn), nibabel.as_closest_canonical(IMAGE)
    assert np.array_equal(np.asanyarray(image.dataobj), np.asanyarray(expected.dataobj))
    assert np.allclose(image.affine, expected.affine, atol=1e-4)
    delete_delivery(scan)
    left = [path for path in workspace.root.rglob("visitor-*/**/*") if path.is_file()]
    assert left == [drawn]
    text = str(read._replace(data=None)).encode() + drawn.name.encode() + nibabel.load(drawn).header.binaryblock
    assert not any(word.encode() in text for word in PRIVATE)


def test_loose_files_are_one_study_among_other_scans(tmp_path, workspace):
    nibabel.save(IMAGE, tmp_path / "a.nii.gz")
    nibabel.save(nibabel.MGHImage(IMAGE.get_fdata(dtype=np.float32), IMAGE.affine), tmp_path / "b.mgz")
    loose = studies(tmp_path)["loose"]
    files = uploaded(workspace, tmp_path / "a.nii.gz", *loose[:3], tmp_path / "b.mgz", *loose[3:])
    scans = take_scans(files, False, "anna", workspace)
    assert [Path(scan).name for scan in scans] == ["a.nii.gz", STUDY, "b.mgz"]
    assert len(list(Path(scans[1]).iterdir())) == len(loose)
    assert open_upload(scans[0]) == scans[0]
    assert np.array_equal(open_upload(scans[2]).data, nibabel.as_closest_canonical(IMAGE).get_fdata())


def test_a_bad_study_gives_one_sentence_with_neither_folders_nor_names_of_files(tmp_path, workspace):
    loose = sorted(save(slices_of(IMAGE) + slices_of(IMAGE, series=9), tmp_path / "two").iterdir())
    (two,) = take_scans(uploaded(workspace, *loose), False, "anna", workspace)
    few = sorted(save(slices_of(IMAGE)[:3], tmp_path / "few").iterdir())
    (few,) = take_scans(uploaded(workspace, *few), False, "anna", workspace)
    text = tmp_path / "ZPHIFILE.dcm"
    text.write_text("ZPHI")
    (none,) = take_scans(uploaded(workspace, text), False, "anna", workspace)
    for scan, words in [(two, "has 2 T2-weighted series"), (few, "has 3 slice"), (none, "DICOM")]:
        with pytest.raises(ValueError) as caught:
            open_upload(scan)
        sentence = str(caught.value)
        assert sentence.startswith(STUDY) and words in sentence and str(workspace.root) not in sentence
        assert not any(word in sentence for word in PRIVATE)
    with pytest.raises(ValueError, match="Choose one by its number in the field Series, and upload the study again"):
        open_upload(two)  # the page has no flag
    assert np.array_equal(open_upload(two, "9").data, open_upload(two, "5").data)
    for wrong in ("7", "7" * 5000, "1.2.3", "nine"):
        with pytest.raises(ValueError, match="it has series 5 .*, series 9 .*Choose one in the field Series") as caught:
            open_upload(two, wrong)
        assert asks_for_series({"problem": str(caught.value)}) and wrong not in str(caught.value).split()
    assert not asks_for_series({"problem": "The file is damaged."})


def test_without_the_packages_for_dicom_one_sentence_says_what_to_install(tmp_path, workspace, monkeypatch):
    (scan,) = take_scans(uploaded(workspace, studies(tmp_path)["zip"][0]), False, "anna", workspace)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ValueError, match=r"^my study\.zip cannot .*pip install -r requirements-hospital\.txt\.$"):
        open_upload(scan)


def test_what_cannot_be_taken_is_said(tmp_path, workspace):
    nibabel.save(IMAGE, tmp_path / "scan.img")
    with pytest.raises(UploadError, match=r"scan\.img is none of \.nii, .*\.zip\. Convert it"):
        check_endings(uploaded(workspace, tmp_path / "scan.img"), needs_mask=False)
    files = uploaded(workspace, *studies(tmp_path)["loose"])
    check_endings(files, needs_mask=True)
    with pytest.raises(UploadError, match="needs a brain mask, so it takes no DICOM"):
        take_scans(files, True, "anna", workspace)
    take_scans(files, False, "anna", workspace)
    with pytest.raises(UploadError, match="A DICOM file was used already") as caught:
        take_scans(files, False, "anna", workspace)
    assert not any(word in str(caught.value) for word in PRIVATE)

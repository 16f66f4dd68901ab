"""predict.py on DICOM: the probability of the NIfTI, one row per study, and nothing private anywhere."""

import csv
import shutil

import nibabel
import pytest
import torch

import predict
from dicomfiles import read
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor, VolumeError
from publishing.export import export_model
from screening.loading import load_model
from screening.one_scan import screen_scan
from tests.dicomfiles.deliveries import PRIVATE, compressed, edit, enhanced, save, slices_of, turned, volume

IMAGE = volume()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    torch.manual_seed(3)
    config = GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16], head_init_std=3.0)
    export_model(GloResNetForImageClassification(config), GloResNetImageProcessor(image_size=32), folder, "card")
    return folder


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A folder of studies, and the NIfTI of the same scan. Each study holds a T1w series too."""
    base = tmp_path_factory.mktemp("base")
    nibabel.save(IMAGE, base / "scan.nii.gz")
    kinds = {
        "classic": lambda folder: save(slices_of(IMAGE, study="classic"), folder),
        "coronal": lambda folder: save(slices_of(turned(IMAGE, "coronal"), study="coronal"), folder),
        "enhanced": lambda folder: save([enhanced(IMAGE, [*range(4, 10), *range(4)], study="enhanced")], folder),
        "j2k": lambda folder: compressed(save(slices_of(IMAGE, study="j2k"), folder), "j2k"),
    }
    for name, write in kinds.items():
        write(base / "studies" / name / "ZPHIA")
        t1w = save(slices_of(IMAGE, study=name, series=2)[:8], base / "studies" / name / "ZPHIB")
        edit(t1w, lambda one, _: setattr(one, "EchoTime", 12))
    return base


def run(*arguments):
    return predict.main([*map(str, arguments), "--dtype", "float32", "--num_workers", "0"])


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_studies_gives_a_row_each_with_the_probability_of_the_nifti(model, studies, tmp_path, capfd):
    shutil.make_archive(str(tmp_path / "packed"), "zip", studies / "studies" / "classic")
    bad = save(slices_of(IMAGE, study="bad"), tmp_path / "bad")
    echo_time = b"\x18\x00\x81\x00DS\x06\x00"
    path = next(bad.iterdir())
    path.write_bytes(path.read_bytes().replace(echo_time + b"120.0 ", echo_time + b"ZPHI77"))
    sources = [studies / "scan.nii.gz", studies / "studies", tmp_path / "packed.zip", bad, studies / "studies" / "j2k"]
    assert run(*sources, "--model", model, "--output", tmp_path / "p.csv") == 1
    table = rows(tmp_path / "p.csv")
    names = ["classic", "coronal", "enhanced", "j2k"]
    expected = [studies / "scan.nii.gz", *(studies / "studies" / name for name in names), tmp_path / "packed.zip", bad]
    assert [row["scan"] for row in table] == list(map(str, expected))
    nifti, *good, failed = table
    assert {row["status"] for row in good} == {"ok"}
    p_injury = float(nifti["p_injury"])
    assert [float(row["p_injury"]) for row in good] == pytest.approx([p_injury] * len(good), abs=1e-6)
    assert failed["status"] == "error" and "damaged DICOM file" in failed["message"]

    written = (tmp_path / "p.csv").read_text() + "".join(capfd.readouterr())
    assert not any(word in written for word in PRIVATE)

    # the same from a function, with the names that its caller gives
    loaded, processor = load_model(str(model))
    answer = screen_scan(loaded, processor, str(studies / "studies" / "classic"), name="infant 1")
    assert answer["p_injury"] == pytest.approx(p_injury, abs=1e-6) and answer["scan"] == "infant 1"
    assert not any(word in str(answer) for word in PRIVATE)
    image = read(studies / "studies" / "coronal").image
    pixel_values = processor(image, return_tensors="pt").pixel_values
    assert loaded.predict_proba(pixel_values)[0, 1].item() == pytest.approx(p_injury, abs=1e-6)


def test_a_series_is_chosen_and_warnings_reach_the_table(model, studies, tmp_path):
    folder = shutil.copytree(studies / "studies" / "classic", tmp_path / "study")
    other = save(slices_of(IMAGE, study="classic", series=9), folder / "c")
    edit(other, lambda one, _: setattr(one, "PatientBirthDate", ""))
    assert run(folder, "--model", model, "--output", tmp_path / "p.csv") == 1
    (row,) = rows(tmp_path / "p.csv")
    assert row["scan"] == str(folder) and row["message"].startswith(
        f"{folder} has 2 T2-weighted series: series 5 (axial"
    )
    assert run(folder, "--model", model, "--output", tmp_path / "p.csv", "--series", 9) == 0
    assert "does not give the patient's age" in rows(tmp_path / "p.csv")[0]["warnings"]


def test_nifti_and_bids_are_found_as_before(model, studies, tmp_path):
    """DICOM beside NIfTI gets rows of its own; a BIDS tree only those of its sessions."""
    folder = shutil.copytree(studies / "studies" / "enhanced", tmp_path / "mixed" / "dicom")
    shutil.copy(studies / "scan.nii.gz", tmp_path / "mixed" / "a.nii.gz")
    assert run(tmp_path / "mixed", "--model", model, "--output", tmp_path / "p.csv") == 0
    # one study: the folder as it was given
    assert [row["scan"] for row in rows(tmp_path / "p.csv")] == [
        str(tmp_path / "mixed"),
        str(tmp_path / "mixed/a.nii.gz"),
    ]

    anat = tmp_path / "bids" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    shutil.copy(studies / "scan.nii.gz", anat / "sub-01_T2w.nii.gz")
    shutil.copytree(folder, tmp_path / "bids" / "sourcedata" / "sub-01")
    assert run(tmp_path / "bids", "--model", model, "--output", tmp_path / "p.csv") == 0
    assert [row["scan"] for row in rows(tmp_path / "p.csv")] == [str(anat / "sub-01_T2w.nii.gz")]
    shutil.copytree(studies / "studies" / "j2k", tmp_path / "bids" / "sourcedata" / "sub-02" / "ses-1")
    assert run(tmp_path / "bids" / "sourcedata", "--model", model, "--output", tmp_path / "p.csv") == 0
    expected = [str(tmp_path / "bids" / "sourcedata" / name) for name in ("sub-01", "sub-02/ses-1")]
    assert [row["scan"] for row in rows(tmp_path / "p.csv")] == expected


def test_a_model_folder_alone_names_both_ways(studies):
    processor = GloResNetImageProcessor(image_size=32)
    folder = studies / "studies" / "classic" / "ZPHIA"
    for source in (folder, next(folder.iterdir())):
        with pytest.raises(VolumeError, match="for DICOM: dicomfiles.read of the GloResNet repository, or dcm2niix"):
            processor(source)


def test_a_model_that_needs_a_mask_says_what_to_give(studies, tmp_path):
    torch.manual_seed(3)
    config = GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16])
    processor = GloResNetImageProcessor(image_size=32, brain_mask="required")
    export_model(GloResNetForImageClassification(config), processor, tmp_path / "model", "card")
    call = [studies / "studies" / "j2k", "--model", tmp_path / "model", "--output", tmp_path / "p.csv"]
    assert run(*call) == 1
    assert "is DICOM, and this model needs a brain mask: convert it" in rows(tmp_path / "p.csv")[0]["message"]

"""The report, the map and the pictures of a study say what the model said, about the slices it was said of."""

import hashlib
import re
import shutil
import subprocess

import highdicom
import nibabel
import numpy as np
import pytest
from pydicom import Dataset, dcmread

import predict
from dicomfiles import read
from explanation.gradcam import explain
from hospital.documents import write_documents
from hospital.pictures import BAND, choose_slices, side
from hospital.software import describe_software, model_digest
from hospital.study import on_slices, screen_study, slice_source
from screening.loading import load_model
from screening.one_scan import NOTICE, prepare_scan, screen_scan
from tests.dicomfiles.deliveries import RAS_TO_LPS, edit, enhanced, parts, save, slices_of, turned, volume
from tests.hospital.conftest import require_tools

IMAGE = volume()
KINDS = {
    "classic": lambda folder: save(slices_of(IMAGE, study="classic"), folder),
    "coronal": lambda folder: save(slices_of(turned(IMAGE, "coronal"), study="coronal"), folder),
    "enhanced": lambda folder: save([enhanced(IMAGE, [*range(4, 10), *range(4)], study="enhanced")], folder),
    "parts": lambda folder: save(parts(IMAGE, [[3, 1, 8], [0, 2, 9, 7, 6], [5, 4]], study="parts"), folder),
}


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(str(model_folder))


@pytest.fixture(scope="module")
def written(model, model_folder, tmp_path_factory):
    """Of each kind of study: what was screened, and the files that were written."""
    base, found = tmp_path_factory.mktemp("written"), {}
    software = describe_software(model[0], str(model_folder))
    for kind, write in KINDS.items():
        study = screen_study(*model, str(write(base / kind)))
        found[kind] = study, write_documents(study, software, base / f"{kind}-out")
    return found


def without_times(path):
    """A file as text, without times and the one UID that highdicom draws."""
    drawn = r'"1\.2\.826\.0\.1\.3680043\.10\.511[^"]*"'
    return re.sub(r'"Value": \["[^"]*"\], "vr": "(DA|TM|DT)"|' + drawn, "", dcmread(path).to_json())


def items(dataset, keyword="ConceptNameCodeSequence"):
    """Every content item of a report, by the meaning of its name."""
    found = []
    for item in dataset.get("ContentSequence", []):
        name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
        found.append((name, item))
        found += items(item)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_standard_is_kept(written, kind):
    require_tools("dciodvfy")
    for path in written[kind][1]:
        found = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
        errors = [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]
        assert not errors, f"{path.name}: {errors}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_says_what_the_model_said(written, model, model_folder, kind):
    study, (path, *_) = written[kind]
    report, answer = dcmread(path), study.answer
    assert answer == screen_scan(*model, read(path.parent.parent / kind).image, name="the study")
    flags = report.PreliminaryFlag, report.CompletionFlag, report.VerificationFlag
    assert flags == ("PRELIMINARY", "COMPLETE", "UNVERIFIED")
    names = dict(items(report))
    numbers = {
        name: float(item.MeasuredValueSequence[0].NumericValue)
        for name, item in items(report)
        if item.ValueType == "NUM"
    }
    assert numbers == pytest.approx(
        {
            "Probability of injury": answer["p_injury"],
            "Threshold of the probability": answer["threshold"],
            "Probability from the scan as it is": answer["p_injury_no_tta"],
            "Probability from its mirror image": answer["p_injury_mirrored"],
            "Difference between both views": answer["view_spread"],
        },
        abs=1e-8,
    )
    side_of_threshold = "at or above" if answer["p_injury"] >= answer["threshold"] else "below"
    said = names["Answer of the model"].ConceptCodeSequence[0].CodeMeaning
    assert said == f"{answer['predicted_label']}: {side_of_threshold} the threshold"
    assert names["Calibration of the probability"].ConceptCodeSequence[0].CodeMeaning == "Not calibrated"
    comments = [item.TextValue for name, item in items(report) if name == "Comment"]
    assert comments[0].startswith("The model was trained on synthetic phantoms") and comments[1] == NOTICE
    assert [text for text in comments if text.startswith("Warning: ")] == [f"Warning: {w}" for w in answer["warnings"]]
    parameters = [item.TextValue for name, item in items(report) if name == "Algorithm Parameters"]
    assert "trained on: 39 scans of phantom-clear" in parameters
    digests = [
        f"{hashlib.sha256((model_folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("config.json", "model.safetensors", "preprocessor_config.json")
    ]
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    assert f"model sha256: {digest}" in parameters and names["Device Observer Serial Number"].TextValue == digest

    evidence = report.CurrentRequestedProcedureEvidenceSequence
    listed = [
        i.ReferencedSOPInstanceUID
        for s in evidence
        for r in s.ReferencedSeriesSequence
        for i in r.ReferencedSOPSequence
    ]
    assert sorted(listed) == sorted({source.SOPInstanceUID for source in study.sources})
    assert (report.PatientID, report.StudyInstanceUID) == ("ZPHIID7", study.sources[0].StudyInstanceUID)
    assert str(report.PatientName) == "ZPHINAME^JANÉ"


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_lies_on_the_slices_of_the_source(written, model, kind):
    """Read back by position, and compared with the map at the position of each voxel of the network's input."""
    study, paths = written[kind]
    found = highdicom.imread(paths[1]).get_volume()
    image = read(paths[0].parent.parent / kind).image
    scan, pixel_values = prepare_scan(model[1], image)
    heat = explain(model[0].networks, pixel_values)[0].numpy()
    corners = np.array(scan.data.shape) - 1  # the cube's corner voxels are the scan's
    cube_to_lps = RAS_TO_LPS @ scan.affine @ np.diag([*(corners / 31), 1.0])
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in found.array.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    places = nibabel.affines.apply_affine(np.linalg.inv(cube_to_lps) @ found.affine, grid)
    from scipy.ndimage import map_coordinates

    expected = map_coordinates(heat, places.T, order=1, mode="nearest").reshape(found.array.shape)
    np.testing.assert_allclose(found.array, expected, atol=2e-3)
    assert found.array.max() > 0.5
    named = dcmread(paths[1]).ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {one.ReferencedSOPInstanceUID for one in named} == {source.SOPInstanceUID for source in study.sources}

    # the slices of the source, each where its own header says
    voxels, affine = on_slices(image)
    for index in (0, 3, len(voxels) - 1):
        header, frame = slice_source(study, index)
        assert (frame is not None) == (kind in ("enhanced", "parts"))
        full = dcmread(
            next(
                p
                for p in (paths[0].parent.parent / kind).iterdir()
                if dcmread(p).SOPInstanceUID == header.SOPInstanceUID
            )
        )
        own = full.PerFrameFunctionalGroupsSequence[frame - 1].PlanePositionSequence[0] if frame else full
        np.testing.assert_allclose(affine[:3, 0] * index + affine[:3, 3], own.ImagePositionPatient, atol=1e-4)
        pixels = full.pixel_array[frame - 1] if frame else full.pixel_array
        np.testing.assert_array_equal(voxels[index], pixels)


def test_the_pictures_show_the_sides_of_the_patient(model, model_folder, tmp_path):
    """A bright block at the left and front of the patient is found near the edges that say so."""
    data = np.full((24, 24, 24), 100, np.int16)
    data[2:5, 16:20, 8:16] = 3000  # small x of RAS is left, large y is front
    image = nibabel.Nifti1Image(data, np.diag([1.0, 1.0, 1.0, 1.0]))
    stored = nibabel.orientations.axcodes2ornt("LPS")
    image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), stored))
    study = screen_study(*model, str(save(slices_of(image, study="block"), tmp_path / "in")))
    software = describe_software(model[0], str(model_folder))
    paths = write_documents(study._replace(heat=None), software, tmp_path / "out")
    assert paths[1].name == "picture-1.dcm"
    picture = dcmread(paths[1])
    assert picture.PhotometricInterpretation == "RGB" and picture.BurnedInAnnotation == "YES"
    assert list(picture.PatientOrientation) == ["L", "P"]  # so the left edge is R, the upper A
    slices = [dcmread(p) for p in paths[1:]]
    assert len(slices) == 8 and {s.SourceImageSequence[0].ReferencedSOPInstanceUID for s in slices} <= {
        source.SOPInstanceUID for source in study.sources
    }
    pixels = slices[3].pixel_array[BAND:-BAND].min(axis=-1).astype(float)  # grey
    bright = np.argwhere(pixels > 200)
    rows, columns = bright.mean(axis=0) / pixels.shape
    assert columns > 0.7 and rows < 0.4
    words = slices[3].pixel_array
    assert (words[:BAND] > 128).any(axis=(0, 1)).all()  # notice, warning and number are there
    assert any("no map" in item.TextValue for name, item in items(dcmread(paths[0])) if name == "Comment")


@pytest.mark.parametrize(
    "direction, name", [([1, 0.2, 0], "L"), ([-1, 0, 0.3], "R"), ([0, -2, 1], "A"), ([0, 1, 3], "H")]
)
def test_sides(direction, name):
    assert side(np.array(direction)) == name


def test_slices_are_chosen_over_the_head_with_the_maximum_of_the_map():
    voxels, heat = np.zeros((60, 8, 8)), np.zeros((60, 8, 8))
    voxels[20:50, 2:6, 2:6] = 100
    heat[31, 3, 3] = 1
    chosen = choose_slices(voxels, heat)
    assert len(chosen) == 9 and 31 in chosen and 20 <= chosen[0] <= 23 and 46 <= chosen[-1] < 50
    assert max(np.diff(chosen)) <= 5


def test_odd_headers(model, model_folder, tmp_path):
    """Missing attributes, long decimal strings and a name in Latin-1; a report that replaces another names it."""

    def change(one, _):
        for keyword in ("AccessionNumber", "StudyID", "StudyTime", "PatientSex", "Manufacturer"):
            delattr(one, keyword)
        one.PatientWeight = "3.1"
        one.SpecificCharacterSet = "ISO_IR 100"

    folder = edit(save([enhanced(IMAGE, study="odd")], tmp_path / "in"), change)
    for path in folder.iterdir():  # 18 letters, as some writers store them
        path.write_bytes(path.read_bytes().replace(b"DS\x04\x003.1 ", b"DS\x12\x003.1000000000000001"))
    study = screen_study(*model, str(folder))
    old = Dataset()
    old.SOPClassUID, old.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.34", "2.25.7"
    old.StudyInstanceUID, old.SeriesInstanceUID = study.sources[0].StudyInstanceUID, "2.25.8"
    paths = write_documents(study, describe_software(model[0], str(model_folder)), tmp_path / "out", [old])
    report = dcmread(paths[0])
    assert str(report.PatientName) == "ZPHINAME^JANÉ"
    reference = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == "2.25.7"
    require_tools("dciodvfy")
    for path in paths[:3]:
        found = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
        assert "Error" not in found.stderr + found.stdout, found.stderr


@pytest.mark.parametrize(
    "characters, name", [(["", "ISO 2022 IR 87"], "ZPHI^TARO=山田^太郎"), ("ISO_IR 999", "ZPHI^X"), (None, "ZPHI^JANÉ")]
)
def test_characters_that_highdicom_does_not_copy(model, model_folder, tmp_path, characters, name):
    """Names in Japanese code extensions, in an unknown character set, and in Latin-1 that is not declared."""

    def change(one, _):
        one.SpecificCharacterSet, one.PatientName = characters or "ISO_IR 100", name

    folder = edit(save(slices_of(IMAGE, study="characters"), tmp_path / "in"), change)
    for path in folder.iterdir() if characters is None else []:
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"          "))
    software = describe_software(model[0], str(model_folder))
    paths = write_documents(screen_study(*model, str(folder)), software, tmp_path / "out")
    for path in paths[:3]:
        found = dcmread(path)
        assert found.SpecificCharacterSet == "ISO_IR 192" and str(found.PatientName) == name


def test_predict_writes_the_same_files(written, model_folder, tmp_path, capfd):
    base = written["classic"][1][0].parent.parent
    call = ["--model", str(model_folder), "--output", str(tmp_path / "p.csv"), "--num_workers", "0"]
    assert predict.main([str(base / "classic"), *call, "--report", str(tmp_path / "one")]) == 0
    for path in written["classic"][1]:
        assert without_times(tmp_path / "one" / path.name) == without_times(path)
    (tmp_path / "bad").mkdir()
    save(slices_of(IMAGE, study="gap")[:9:2] + slices_of(IMAGE, study="gap")[5:], tmp_path / "bad")
    status = predict.main(
        [
            *map(str, (base / "classic", base / "enhanced", tmp_path / "bad")),
            *call,
            "--report",
            str(tmp_path / "several"),
        ]
    )
    assert status == 1 and sorted(p.name for p in (tmp_path / "several").iterdir()) == ["classic", "enhanced"]
    output = capfd.readouterr()
    assert (
        "several: reports of 2 of 3 DICOM study(ies)." in output.out and "bad: the T2-weighted series has" in output.err
    )

    # folders that hold something else are not replaced, and nothing is screened
    (tmp_path / "one" / "notes.txt").write_text("mine")
    assert predict.main([str(base / "classic"), *call, "--report", str(tmp_path / "one")]) == 2
    assert "holds other files" in capfd.readouterr().err and (tmp_path / "one" / "notes.txt").exists()
    nifti = tmp_path / "scan.nii.gz"
    nibabel.save(IMAGE, nifti)
    assert predict.main([str(nifti), *call, "--report", str(tmp_path / "none")]) == 2
    assert "--report is for DICOM studies" in capfd.readouterr().err


def test_the_digest_of_a_model_changes_with_its_threshold(model_folder, tmp_path):
    other = shutil.copytree(model_folder, tmp_path / "other")
    config = other / "config.json"
    assert model_digest(str(other)) == model_digest(str(model_folder))
    config.write_text(config.read_text().replace('"threshold": 0.5', '"threshold": 0.6'))
    assert model_digest(str(other)) != model_digest(str(model_folder))

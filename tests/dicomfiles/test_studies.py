"""Which folders below a folder are studies."""

from pathlib import Path

from dicomfiles import find_studies
from dicomfiles.studies import Study

from .deliveries import save, slices_of, volume

IMAGE = volume()


def found(folder):
    return find_studies(folder, [path for path in folder.rglob("*") if path.is_file()])


def test_a_study_is_its_folder_whatever_is_below(tmp_path):
    save(slices_of(IMAGE)[:2], tmp_path / "one" / "DICOM" / "S1")
    assert found(tmp_path / "one") == [Study(tmp_path / "one")]
    save(slices_of(IMAGE, series=6)[:2], tmp_path / "one" / "DICOM" / "S2")
    assert found(tmp_path / "one") == [Study(tmp_path / "one")]
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("x" * 200)
    assert found(tmp_path / "none") == []


def test_each_study_is_one_whatever_the_depth(tmp_path):
    for study, folder in [("a", "infant1/DICOM/S1"), ("a", "infant1/DICOM/S2"), ("b", "infant2"), ("c", "infant3/c/S1"),
                          ("d", "infant3/d/S1"), ("d", "infant3/d/S2")]:  # fmt: skip
        save(slices_of(IMAGE, study=study, series=len(folder))[:1], tmp_path / folder)
    damaged = tmp_path / "infant4"
    damaged.mkdir()
    (damaged / "x").write_bytes(bytes(128) + b"DICM")
    expected = ["infant1", "infant2", "infant3/c", "infant3/d", "infant4"]
    assert found(tmp_path) == [Study(tmp_path / name) for name in expected]


def test_mixed_studies_are_a_problem(tmp_path):
    for study, folder in [("a", "S1"), ("b", "S2"), ("a", "S3")]:
        save(slices_of(IMAGE, study=study)[:1], tmp_path / folder)
    ((folder, problem),) = found(tmp_path)
    assert folder == tmp_path and "holds 2 DICOM studies with mixed files" in problem


def test_without_the_packages_the_folder_itself_is_asked_for(tmp_path, monkeypatch):
    save(slices_of(IMAGE, study="a")[:1], tmp_path / "a")
    save(slices_of(IMAGE, study="b")[:1], tmp_path / "b")
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    assert found(tmp_path) == [Study(Path(tmp_path))]

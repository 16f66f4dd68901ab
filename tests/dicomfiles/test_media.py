"""What lies on DICOM media besides the images of a scanner: a DICOMDIR, objects without pixels, other files."""

import shutil

import numpy as np
import pytest
from pydicom.fileset import FileSet

from dicomfiles import SeriesError, find_studies, read
from dicomfiles.studies import Study
from screening.requests import Request, expand

from .deliveries import group, header, save, slices_of, uid, volume

IMAGE = volume()
WITHOUT_PIXELS = {
    "presentation state": "1.2.840.10008.5.1.4.1.1.11.1",
    "structured report": "1.2.840.10008.5.1.4.1.1.88.33",
    "key object selection": "1.2.840.10008.5.1.4.1.1.88.59",
    "PDF": "1.2.840.10008.5.1.4.1.1.104.1",
    "raw data": "1.2.840.10008.5.1.4.1.1.66",
}


def others(study):
    """Objects without pixels of a study, the PDF longer than the bytes that are read first."""
    for number, (kind, sop_class) in enumerate(WITHOUT_PIXELS.items(), start=20):
        one = header(study=study, series=number)
        one.SOPClassUID, one.SOPInstanceUID, one.InstanceNumber = sop_class, uid(kind, study), 1
        one.ContentDate, one.ContentTime = "20260210", "101112"
        one.ContentLabel, one.PresentationCreationDate, one.PresentationCreationTime = "X", "20260210", "101112"
        one.CompletionFlag, one.VerificationFlag = "COMPLETE", "UNVERIFIED"
        one.ConceptNameCodeSequence = group(CodeValue="1", CodingSchemeDesignator="99X", CodeMeaning="x")
        if kind == "PDF":
            one.MIMETypeOfEncapsulatedDocument = "application/pdf"
            one.EncapsulatedDocument = b"%PDF" * 50_000
        yield one


def medium(folder, *studies):
    """A CD as a workstation writes it: a DICOMDIR and numbered folders, a viewer program and other files."""
    files = FileSet()
    for study in studies:
        for one in [*slices_of(IMAGE, study=study), *others(study)]:
            one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
            one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
            files.add(one)
    files.write(folder)
    assert (folder / "DICOMDIR").read_bytes()[128:132] == b"DICM"
    for name in ("AUTORUN.INF", "README.TXT", ".DS_Store", "Thumbs.db", "VIEWER/VIEWER.EXE", "VIEWER/._VIEWER.EXE"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"MZ\0\1" * 100)
    return folder


def test_a_medium_with_one_study(tmp_path):
    folder = medium(tmp_path / "cd", "a")
    expected = np.asarray(read(save(slices_of(IMAGE), tmp_path / "series")).image.data)
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    for source in (folder, archive, [path for path in folder.rglob("*") if path.is_file()]):
        series = read(source)
        np.testing.assert_array_equal(series.image.data, expected)
        assert series.warnings == () and len(series.sources) == 10
    assert expand(str(folder)) == [Request(str(folder))]


def test_a_medium_with_two_studies(tmp_path):
    folder = medium(tmp_path / "cd", "a", "b")
    studies = [folder / "PT000000" / name for name in ("ST000000", "ST000001")]
    assert expand(str(folder)) == [Request(str(study)) for study in studies]
    assert len({read(study).sources[0].path for study in studies}) == 2
    # a study whose files lie next to the DICOMDIR
    flat = medium(tmp_path / "flat", "c")
    for path in (flat / "PT000000").rglob("*"):
        if path.is_file():
            path.rename(flat / f"{path.parent.name}-{path.name}")
    shutil.rmtree(flat / "PT000000")
    assert find_studies(tmp_path, [path for path in tmp_path.rglob("*") if path.is_file()]) == [
        *map(Study, studies),
        Study(flat),
    ]


def test_a_dicomdir_alone(tmp_path):
    (tmp_path / "only").mkdir()
    path = shutil.copy(medium(tmp_path / "cd", "a") / "DICOMDIR", tmp_path / "only" / "DICOMDIR")
    for source in (path, path.parent):
        (request,) = expand(str(source))
        with pytest.raises(SeriesError) as caught:
            read(request.scan)
        assert str(caught.value) == (
            f"{source} holds no image, only a DICOMDIR (a list of files): give the folder with these files."
        )


def test_a_dicomdir_longer_than_any_header(tmp_path, monkeypatch):
    """Of 20,000 files, it has several megabytes and more items than scans have."""
    folder = medium(tmp_path / "cd", "a")
    monkeypatch.setattr("dicomfiles.headers.HEADER_BYTES", (4096,))
    monkeypatch.setattr("dicomfiles.headers.MAX_ITEMS", 5)
    assert (folder / "DICOMDIR").stat().st_size > 4096
    assert read(folder).number == 5

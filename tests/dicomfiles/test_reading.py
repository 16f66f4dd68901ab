"""Good deliveries give the volume that they were made from."""

import shutil
import warnings

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest

from dicomfiles import SeriesError, read
from preprocessing import GloResNetImageProcessor, VolumeWarning, read_volume

from .deliveries import (
    compressed,
    edit,
    enhanced,
    header,
    legacy,
    parts,
    save,
    slices_of,
    turned,
    uid,
    volume,
    years_before,
)

IMAGE = volume()
TRUTH = read_volume(IMAGE)
RANGE = float(TRUTH.data.max() - TRUTH.data.min())


def check(source, truth=TRUTH, voxels=1e-3, **options):
    """Read a delivery, and compare it with the volume that it was made from."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing of the library's warnings may come out
        series = read(source, **options)
    found = series.image
    assert found.data.shape == truth.data.shape
    assert abs(found.data.astype(float) - truth.data).max() <= voxels * RANGE
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in truth.data.shape), 1]
    assert abs((found.affine - truth.affine) @ corners.T).max() < 1e-3
    assert found.warnings == series.warnings
    return series


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_classic_slices_in_any_plane(plane, tmp_path):
    series = check(save(slices_of(turned(IMAGE, plane)), tmp_path / "study"))
    assert series.plane == plane and series.number == 5 and series.warnings == ()
    assert series.image.source == str(tmp_path / "study")
    along = [float(pydicom.dcmread(file.path).ImagePositionPatient["axial coronal sagittal".split().index(plane) - 2])
             for file in series.sources] if plane != "axial" else []  # fmt: skip
    assert along == sorted(along) or along == sorted(along, reverse=True)


def test_highdicom_reads_the_same_volumes(tmp_path):
    for name, datasets in {
        "classic": slices_of(IMAGE),
        "enhanced": [enhanced(IMAGE, [*range(5, 10), *range(5)])],
    }.items():
        folder = save(datasets, tmp_path / name)
        series = check(folder)
        files = [pydicom.dcmread(path) for path in folder.iterdir()]
        if name == "classic":
            other = highdicom.get_volume_from_series(files)
        else:
            other = highdicom.Image.from_dataset(files[0]).get_volume()
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ other.affine
        theirs = read_volume(nibabel.Nifti1Image(np.asarray(other.array, np.float32), affine))
        np.testing.assert_allclose(theirs.data, series.image.data)
        np.testing.assert_allclose(theirs.affine, series.image.affine, atol=1e-5)


def test_enhanced_frames_in_any_order_and_legacy_converted(tmp_path):
    order = list(np.random.default_rng(1).permutation(10))
    series = check(save([enhanced(IMAGE, order)], tmp_path / "enhanced"))
    assert len(series.sources) == 1 and len(series.sources[0].read()) == series.sources[0].size
    (file,) = (tmp_path / "enhanced").iterdir()
    check(file)  # without its folder
    check(save([legacy(IMAGE)], tmp_path / "legacy"))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"])
def test_uncompressed_syntaxes(syntax, tmp_path):
    check(save(slices_of(IMAGE), tmp_path / "classic", syntax))
    if syntax != "1.2.840.10008.1.2.2":
        check(save([enhanced(IMAGE)], tmp_path / "enhanced", syntax))


@pytest.mark.parametrize("kind", ["rle", "jpeg57", "jpeg70", "jpegls", "j2k"])
def test_lossless_compression(kind, tmp_path):
    check(compressed(save(slices_of(IMAGE), tmp_path / "classic"), kind))
    check(compressed(save([enhanced(IMAGE)], tmp_path / "enhanced"), kind))


@pytest.mark.parametrize("stored, signed", [(12, 0), (12, 1), (16, 0)])
def test_bits_stored_and_what_lies_above_them(stored, signed, tmp_path):
    """An old overlay in the bits that are not stored does not count."""

    def change(one, _number):
        one.BitsStored, one.HighBit, one.PixelRepresentation = stored, stored - 1, signed
        values = np.frombuffer(one.PixelData, "<u2")
        one.PixelData = (values & (2**stored - 1) | (0xA000 if stored == 12 else 0)).astype("<u2").tobytes()

    small = nibabel.Nifti1Image(np.asanyarray(IMAGE.dataobj) - 300 * signed, IMAGE.affine)
    check(edit(save(slices_of(small), tmp_path / "study"), change), read_volume(small), voxels=0)


def test_each_slice_has_its_own_scale(tmp_path):
    def change(one, number):
        values = np.frombuffer(one.PixelData, "<i2").astype(float)
        one.RescaleSlope, one.RescaleIntercept = f"{0.25 + 0.05 * number:.4g}", str(10 * number)
        one.PixelData = (
            np.round((values - float(one.RescaleIntercept)) / float(one.RescaleSlope)).astype("<i2").tobytes()
        )

    check(edit(save(slices_of(IMAGE), tmp_path / "classic"), change))

    one = enhanced(IMAGE)
    for frame, number in zip(one.PerFrameFunctionalGroupsSequence, range(10), strict=True):
        frame.PixelValueTransformationSequence = pydicom.Sequence([pydicom.Dataset()])
        frame.PixelValueTransformationSequence[0].RescaleSlope = 1 + number
        frame.PixelValueTransformationSequence[0].RescaleIntercept = 0
    scaled = nibabel.Nifti1Image(np.asanyarray(IMAGE.dataobj) * np.arange(1, 11, dtype=np.int16), IMAGE.affine)
    check(save([one], tmp_path / "enhanced"), read_volume(scaled))


def test_rounded_direction_cosines_and_a_feet_first_patient(tmp_path):
    def change(one, _number):
        one.ImageOrientationPatient = [round(float(x), 4) for x in one.ImageOrientationPatient]
        one.PatientPosition = "FFP"

    found = read(edit(save(slices_of(IMAGE), tmp_path / "study"), change))
    np.testing.assert_allclose(found.image.affine, TRUTH.affine, atol=2e-3)
    np.testing.assert_array_equal(found.image.data, TRUTH.data)


def study(folder, t2=5):
    """A delivery as a scanner exports it: localizer, T1w, T2w, FLAIR, diffusion, phase, report and other files."""
    save(slices_of(IMAGE, series=t2), folder / "DICOM" / "ZPHISER5")
    kinds = {
        1: {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        2: {"EchoTime": 12, "RepetitionTime": 600, "SeriesDescription": "ZPHI t1_se"},
        3: {"InversionTime": 2200, "ScanningSequence": ["SE", "IR"], "SeriesDescription": "ZPHI dark"},
        4: {"ScanningSequence": ["SE", "EP"], "DiffusionBValue": 1000.0},
        6: {"ImageType": ["ORIGINAL", "PRIMARY", "P", "NORM"]},
        7: {"ImageType": ["DERIVED", "PRIMARY", "MPR"]},
    }
    for number, values in kinds.items():
        others = slices_of(IMAGE, series=number)[:9]
        for one in others:
            for keyword, value in values.items():
                setattr(one, keyword, value)
        save(others, folder / "DICOM" / f"ZPHISER{number}")
    report = header(series=8)
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.33", uid("report")
    screenshot = slices_of(IMAGE, series=9)[0]
    screenshot.SOPClassUID, screenshot.SeriesDescription = "1.2.840.10008.5.1.4.1.1.7", "ZPHI t2 tra"
    save([report, screenshot], folder / "DICOM" / "ZPHISER8")
    (folder / "README").write_text("ZPHI")
    (folder / "Thumbs.db").write_bytes(b"\0" * 600)
    (folder / "empty").touch()
    return folder


def test_the_t2w_series_of_a_whole_study(tmp_path):
    folder = study(tmp_path / "study")
    assert check(folder).warnings == ()
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    zipped = check(archive)
    assert zipped.image.source == archive and zipped.sources[0].read()[128:132] == b"DICM"
    check([path for path in folder.rglob("*") if path.is_file()])
    # copies of a file count once; a zip inside is ignored
    first = next((folder / "DICOM" / "ZPHISER5").iterdir())
    shutil.copy(first, folder / "copy.dcm")
    shutil.copy(archive, folder / "more.zip")
    (folder / "link").symlink_to(folder / "DICOM")
    (folder / "loop").symlink_to(folder)
    check(folder)


def test_one_of_several_series_is_chosen_by_number_or_uid(tmp_path):
    second = nibabel.Nifti1Image(np.asanyarray(IMAGE.dataobj)[::-1].copy(), IMAGE.affine)
    save(slices_of(IMAGE, series=5), tmp_path / "a")
    save(slices_of(turned(second, "coronal"), series=11), tmp_path / "b")
    with pytest.raises(SeriesError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has 2 T2-weighted series: series 5 (axial, 10 slice(s), pixels of 0.907 x 0.803 mm),"
        " series 11 (coronal, 24 slice(s), pixels of 1.52 x 0.803 mm). Choose one by its number (--series)."
    )
    assert check(tmp_path, series=5).number == 5
    assert check(tmp_path, series=uid("series", "a", 5)).number == 5
    assert check(tmp_path, read_volume(second), series="11").number == 11
    for wanted in (3, "x", "²"):
        with pytest.raises(SeriesError, match="no MR series of the number or UID asked for: it has series 5"):
            read(tmp_path, series=wanted)
    edit(tmp_path / "b", lambda one, _: setattr(one, "SeriesNumber", 5))
    with pytest.raises(SeriesError, match="2 series with the number asked for: give the SeriesInstanceUID"):
        read(tmp_path, series=5)
    edit(tmp_path / "b", lambda one, _: setattr(one, "EchoTime", 12))
    with pytest.raises(SeriesError, match="the series asked for is with an echo time of 12 ms"):
        read(tmp_path, series=uid("series", "a", 11))


def test_the_original_goes_before_the_derived_one(tmp_path):
    save(slices_of(IMAGE, series=5), tmp_path / "a")
    derived = save(slices_of(volume(seed=4), series=6), tmp_path / "b")
    edit(derived, lambda one, _: setattr(one, "ImageType", ["DERIVED", "PRIMARY", "M", "FILTERED"]))
    assert check(tmp_path).number == 5
    alone = read(derived)
    assert len(alone.warnings) == 1 and "The series is derived" in alone.warnings[0]
    assert read(tmp_path, series=6).number == 6


@pytest.mark.parametrize(
    "values, words",
    [
        ({"PatientBirthDate": "", "PatientAge": None}, "does not give the patient's age"),
        ({"PatientBirthDate": "20270101"}, "does not give the patient's age"),
        ({"PatientBirthDate": "ZPHI"}, "does not give the patient's age"),
        ({"PatientBirthDate": "", "PatientAge": "051W"}, ""),
        ({"PatientAge": "007D"}, ""),
        ({"PatientAge": "ZPHI"}, ""),
        ({"PatientBirthDate": "19000101", "PatientAge": "005D"}, "but PatientAge says less and counts"),
        ({"PatientBirthDate": "20250101", "PatientAge": "003W"}, "but PatientAge says less and counts"),
        ({"EchoTime": None, "SeriesDescription": "ZPHI T2W TRA"}, "chosen by its name"),
        ({"ImagesInAcquisition": 12}, "states 12 images, but the series has 10"),
    ],
)
def test_doubts_are_warnings_of_the_volume(values, words, tmp_path):
    def change(one, _number):
        for keyword, value in values.items():
            setattr(one, keyword, value)

    folder = edit(save(slices_of(IMAGE), tmp_path / "study"), change)
    series = check(folder)
    assert words in " ".join(series.warnings) and len(series.warnings) == bool(words)
    if words:
        with pytest.warns(VolumeWarning, match=words):
            GloResNetImageProcessor(image_size=16)(series.image)


def test_missing_end_slices_are_suspected_from_their_numbers(tmp_path):
    rest = slices_of(IMAGE)
    for number, one in enumerate(rest):
        one.InstanceNumber = number + 1
    series = read(save(rest[2:], tmp_path / "study"))
    assert series.warnings == ("The instance numbers run from 3 to 10 over 8 slices: slices may be missing at an end.",)


def test_a_missing_file_of_a_concatenation_is_noticed(tmp_path):
    whole = parts(IMAGE, [[3, 1, 4], [0, 2, 7, 6, 5], [9, 8]])
    series = check(save(whole, tmp_path / "whole"))
    assert series.warnings == ()
    # slice 0 is the first frame of the second file, the first of `sources`; slice 1 the second frame of the first file
    assert series.frames == ((0, 0), (1, 1), (0, 1), (1, 0), (1, 2), (0, 4), (0, 3), (0, 2), (2, 1), (2, 0))
    series = read(save(whole[:2], tmp_path / "part"))
    assert series.missing == ("The header states 3 files, but the series has 2: slices may be missing at an end.",)


def test_the_processor_gets_what_it_gets_from_nifti(tmp_path):
    processor = GloResNetImageProcessor(image_size=16)
    nibabel.save(IMAGE, tmp_path / "scan.nii.gz")
    expected = processor(tmp_path / "scan.nii.gz", return_tensors="np").pixel_values
    found = read(save(slices_of(IMAGE), tmp_path / "study"))
    np.testing.assert_array_equal(processor(found.image, return_tensors="np").pixel_values, expected)
    np.testing.assert_array_equal(
        processor([found.image, found.image], return_tensors="np").pixel_values[1], expected[0]
    )
    assert years_before("20260210", 7) == "20260203"


def test_a_head_that_is_cut_at_an_end_slice_gets_a_warning(tmp_path):
    """Half a stack passes every check of positions and numbers."""
    whole = slices_of(volume(shape=(20, 24, 20)), study="cut")
    for number, one in enumerate(whole, start=1):
        one.InstanceNumber = number
    assert read(save(whole, tmp_path / "whole")).missing == ()
    for name, part in (("lower", whole[:12]), ("upper", whole[8:])):
        found = read(save(part, tmp_path / name))
        assert "nearly the largest section of the head" in found.missing[-1]
        assert set(found.missing) <= set(found.warnings) <= set(found.image.warnings)

"""Deliveries that give no volume give one sentence that names nothing inside them."""

import logging
import re
import shutil
import warnings
import zipfile

import numpy as np
import pydicom
import pytest

from dicomfiles import SeriesError, read

from .deliveries import PRIVATE, compressed, edit, enhanced, group, save, slices_of, turned, uid, volume

IMAGE = volume()


def refused(source, words, **options):
    """The sentence with which a delivery is refused."""
    with warnings.catch_warnings(), pytest.raises(SeriesError, match=words) as caught:
        warnings.simplefilter("error")
        read(source, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 400
    assert not any(word in sentence.replace(str(source), "") for word in PRIVATE)
    context = caught.value.__context__
    assert context is None or not any(word in str(context) for word in PRIVATE)
    return sentence


@pytest.fixture(autouse=True)
def _nothing_private_is_logged_or_printed(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    yield
    printed = "".join(capfd.readouterr()) + caplog.text
    ours = [line for line in printed.splitlines() if "pydicom" not in line]  # the generator's own warnings
    assert not any(word in line for word in PRIVATE for line in ours)


def edited(folder, values, which=None):
    """A series with other values in some of its slices."""

    def change(one, number):
        for keyword, value in values.items():
            if value is None:
                delattr(one, keyword)
            else:
                setattr(one, keyword, value(number) if callable(value) else value)

    return edit(save(slices_of(IMAGE), folder), change, which)


def moved(amount, which=None):
    """Positions displaced along the patient's left-right axis, or that of the slices."""

    def change(one, number):
        if which is None or number in which:
            one.ImagePositionPatient = [f"{a + b:.8g}" for a, b in zip(one.ImagePositionPatient, amount, strict=True)]

    return change


KINDS = {
    "not MR": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, None, r"10 DICOM file\(s\), but no MR image"),
    "localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, None, r"series 5 \(a localizer\)"),
    "mosaic": ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, None, "a mosaic"),
    "projection": ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, None, "a projection"),
    "phase": ({"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, None, "a phase image"),
    "map": ({"ImageType": ["DERIVED", "PRIMARY", "M", "T2 MAP"]}, None, "a map"),
    "reformatted": ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, None, "reformatted"),
    "diffusion": ({"DiffusionBValue": 800.0}, None, "diffusion-weighted"),
    "spine": ({"BodyPartExamined": "TSPINE"}, None, "of another part of the body"),
    "FLAIR by name": ({"SeriesDescription": "ZPHI t2 flair"}, None, "FLAIR by its name"),
    "FLAIR by time": ({"InversionTime": 1800}, None, "an inversion time of 1800 ms"),
    "T1w by name": ({"ProtocolName": "ZPHI T1 se", "SeriesDescription": "ZPHI"}, None, "T1-weighted by its name"),
    "T1w by time": ({"RepetitionTime": 600}, None, "a repetition time of 600 ms"),
    "PD": ({"EchoTime": 20}, None, "an echo time of 20 ms"),
    "gradient echo": ({"ScanningSequence": "GR"}, None, "not a spin echo"),
    "echo-planar": ({"ScanningSequence": ["SE", "EP"]}, None, "echo-planar"),
    "unknown": ({"EchoTime": None, "SeriesDescription": "ZPHI"}, None, r"choose it by its number \(--series\)"),
    "burnt in": ({"BurnedInAnnotation": "YES"}, None, "text burnt into its pixels"),
    "lossy once": ({"LossyImageCompression": "01"}, None, "was compressed with loss"),
    "adult": ({"PatientBirthDate": "19991231"}, None, "a year old or older"),
    "a year": ({"PatientBirthDate": "", "PatientAge": "001Y"}, None, "a year old or older"),
    "an age against a date": ({"PatientAge": "030Y"}, None, "a year old or older"),
    "age of 0 and a date": ({"PatientBirthDate": "19000101", "PatientAge": "000Y"}, None, "a year old or older"),
    "no age and a date": ({"PatientBirthDate": "19000101", "PatientAge": ""}, None, "a year old or older"),
    "two patients": ({"PatientID": "ZPHIOTHER"}, [3], "DICOM files of 2 patients"),
    "one without a patient": ({"PatientID": ""}, [3], "2 different patients"),
    "two echoes": ({"EchoTime": lambda n: (90, 180)[n % 2]}, None, "2 different echo times"),
    "two types": ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "FS"]}, [2], "2 different image types"),
    "T2 and EPI": ({"AcquisitionContrast": "T2", "ScanningSequence": ["SE", "EP"]}, None, "echo-planar"),
    "phases in the series": ({"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, [0, 2, 4], "2 different image types"),
    "two matrices": ({"Rows": 20, "Columns": 24}, [4], "2 different matrix sizes"),
    "two frames": ({"FrameOfReferenceUID": "1.2.3"}, [4], "2 different frames of reference"),
    "two spacings": ({"PixelSpacing": [0.9, 0.9]}, [5], "pixel spacings that differ"),
    "no spacing": ({"PixelSpacing": [0, 0]}, None, "pixel spacings that differ or are not above 0"),
    "two directions": ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, [5], "slices in different orientations"),
    "no directions": ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, None, "not at right angles"),
    "skew directions": ({"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]}, None, "not at right angles"),
    "no position": ({"ImagePositionPatient": None}, [9], "does not say where all its slices are"),
    "no geometry": ({"ImagePositionPatient": None, "PixelSpacing": None}, None, "does not say where all its slices"),
    "inverted": ({"PhotometricInterpretation": "MONOCHROME1"}, None, "not plain grey values"),
    "high bits": ({"BitsStored": 12}, None, "not in the lowest bits"),
    "no series": ({"SeriesInstanceUID": None}, None, "without the UID of itself or its series"),
    "bad number": ({"SeriesNumber": None}, None, ""),
    "more frames": ({"NumberOfFrames": 4}, [1], "claims several frames"),
    "huge": ({"Rows": 65535, "Columns": 65535}, None, "claims slices of 65535 x 65535 pixels"),
    "empty": ({"Rows": 0}, None, "claims slices of 0 x 20 pixels"),
    "long": ({"Rows": 25}, None, r"has fewer pixels than its header says"),
    "same UID": ({"SOPInstanceUID": "1.2.3"}, [1, 2], "2 different images under one SOPInstanceUID"),
    "no pixels": ({"PixelData": None}, [8], r"1 damaged DICOM file\(s\), the first of which ends before its pixels"),
}  # fmt: skip
READ = {"bad number"}  # fine without


@pytest.mark.parametrize("name", [name for name in KINDS if name not in READ])
def test_a_series_that_does_not_fit(name, tmp_path):
    values, which, words = KINDS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = edited(tmp_path / "study", values, which)
    refused(folder, words)


def test_a_series_without_a_number_is_read(tmp_path):
    assert read(edited(tmp_path / "study", {"SeriesNumber": None})).number is None


def test_positions_that_are_no_grid(tmp_path):
    normal = np.array([0.066, 0.131, 0.989]) * 1.5
    for name, change, words in [
        ("twice", moved(normal, [4]), "several slices at one position|gaps between its slices"),
        ("varied", moved(0.3 * normal, [4]), "gaps between its slices from 1.0"),
        ("sheared", lambda one, n: moved(np.array([0.2, 0, 0]) * one.InstanceNumber)(one, n), "gaps|sideways"),
    ]:
        refused(edit(save(slices_of(IMAGE), tmp_path / name), change), words)
    slices = slices_of(IMAGE)
    row = np.array(slices[0].ImageOrientationPatient[:3], float)
    for number, one in enumerate(slices):
        one.ImagePositionPatient = list(map(str, np.round(np.array(one.ImagePositionPatient) + row * 0.2 * number, 6)))
    refused(save(slices, tmp_path / "tilted"), "displaced sideways")
    refused(save(slices[:4] + slices[5:], tmp_path / "gap"), r"gaps between its slices from 1\.5\d to 3\.\d\d mm")
    refused(save(slices[:7], tmp_path / "few"), r"has 7 slice\(s\), a head has at least 8")
    again = slices_of(IMAGE)
    for one in again:
        one.SOPInstanceUID = uid("again", one.SOPInstanceUID)
        one.TemporalPositionIdentifier = 2
    refused(save([*slices_of(IMAGE), *again], tmp_path / "repeated"), "several slices at one position")
    mixed = slices_of(turned(IMAGE, "coronal"))[:8]
    for one in mixed:
        one.SOPInstanceUID = uid("mixed", one.SOPInstanceUID)
    refused(save([*slices_of(IMAGE)[:8], *mixed], tmp_path / "mixed"), "different matrix sizes|different orientations")


def test_enhanced_files_that_lie(tmp_path):
    def made(name, change):
        one = enhanced(IMAGE)
        change(one)
        return save([one], tmp_path / name)

    def frames(one):
        return one.PerFrameFunctionalGroupsSequence

    def shared(one):
        return one.SharedFunctionalGroupsSequence[0]

    def contrast(value):
        return lambda one: setattr(shared(one).MRImageFrameTypeSequence[0], "AcquisitionContrast", value)

    def missing_frame(one):
        del frames(one)[4]
        one.NumberOfFrames = 9
        one.PixelData = one.PixelData[: 9 * 2 * one.Rows * one.Columns]

    refused(made("more", lambda one: setattr(one, "NumberOfFrames", 2000)), "the number of frames that it claims")
    refused(made("none", lambda one: setattr(one, "NumberOfFrames", None)), "the number of frames that it claims")
    refused(made("gap", missing_frame), "gaps between its slices")
    refused(made("t1", contrast("T1")), "not T2 by its acquisition contrast")
    refused(made("flair", contrast("FLUID_ATTENUATED")), "not T2 by its acquisition contrast")
    phase = {"FrameType": ["ORIGINAL", "PRIMARY", "BRAIN", "NONE"], "ComplexImageComponent": "PHASE"}
    refused(
        made("phase", lambda one: setattr(shared(one), "MRImageFrameTypeSequence", group(**phase))), "a phase image"
    )
    echo = lambda one: setattr(frames(one)[3], "MREchoSequence", group(EffectiveEchoTime=30.0))  # noqa: E731
    refused(made("echoes", echo), "2 different echo times")
    refused(made("short", lambda one: setattr(one, "PixelData", one.PixelData[:-2])), "fewer pixels than its header")

    def scale(one):
        for number, frame in enumerate(frames(one)):
            inner = pydicom.Dataset()
            inner.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(
                0x0E, "FL", 1.5 + (number == 3)
            )
            frame.add_new(0x20050014, "LO", "Philips MR Imaging DD 005")
            frame.add_new(0x2005140F, "SQ", [inner])

    refused(made("philips", scale), "2 different private scale factors")


def test_a_philips_scale_that_differs_between_slices(tmp_path):
    def change(one, number):
        one.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", 2.0 + (number == 2))

    refused(edit(save(slices_of(IMAGE), tmp_path / "study"), change), "2 different private scale factors")
    implicit = save(
        [pydicom.dcmread(p) for p in sorted((tmp_path / "study").iterdir())], tmp_path / "b", "1.2.840.10008.1.2"
    )
    refused(implicit, "2 different private scale factors")


@pytest.mark.parametrize("kind", ["jpeg57", "jpeg70", "jpegls", "j2k", "rle"])
def test_damaged_compressed_pixels(kind, tmp_path):
    folder = compressed(save(slices_of(IMAGE), tmp_path / "study"), kind)
    path = sorted(folder.iterdir())[4]
    content = path.read_bytes()
    path.write_bytes(content[:-150])
    refused(folder, "a slice of the T2-weighted series (is truncated|has )")
    if kind != "rle":  # a few bytes that promise 30,000 x 30,000 pixels
        size = {"j2k": b"\xff\x4f\xff\x51"}.get(kind) or next(m for m in (b"\xff\xf7", b"\xff\xc3") if m in content)
        at = content.rindex(size) + (8 if kind == "j2k" else 5)
        width = 4 if kind == "j2k" else 2
        big = (30_000).to_bytes(width, "big") * 2
        path.write_bytes(content[:at] + big + content[at + 2 * width :])
        refused(folder, "of another size than its header says")


def test_lossy_and_unknown_syntaxes(tmp_path):
    for syntax, words in [
        ("1.2.840.10008.1.2.4.50", "compressed with loss"),
        ("1.2.840.10008.1.2.4.91", "compressed with loss"),
        ("1.2.840.10008.1.2.4.202", "stored in an unknown way"),
        ("2.25.4", "stored in an unknown way"),
    ]:
        folder = save(slices_of(IMAGE), tmp_path / syntax)
        for path in folder.iterdir():
            old, new = b"1.2.840.10008.1.2.1\0", syntax.encode() + b"\0" * (len(syntax) % 2)
            path.write_bytes(path.read_bytes().replace(bytes([20, 0]) + old, bytes([len(new), 0]) + new, 1))
        refused(folder, words)


@pytest.mark.parametrize("left", [100, 200, 1000, 1700, -100])
def test_a_truncated_slice_is_not_left_out(left, tmp_path):
    folder = save(slices_of(IMAGE), tmp_path / "study")
    path = sorted(folder.iterdir())[9]
    path.write_bytes(path.read_bytes()[:left])
    if left == 100:  # not even DICM: it may be any file, and the gap or the numbers tell
        try:
            assert "may be missing at an end" in read(folder).warnings[0]
        except SeriesError as error:
            assert "gaps between its slices" in str(error)
    else:
        refused(folder, "damaged DICOM file|has fewer pixels|is truncated|cannot be decoded")


def test_private_text_in_invalid_values(tmp_path):
    """The library's own error messages quote the values."""
    path = save(slices_of(IMAGE), tmp_path / "study")
    for keyword in ("EchoTime", "PixelSpacing", "RescaleSlope", "SeriesNumber"):
        folder = shutil.copytree(path, tmp_path / keyword)
        one = pydicom.dcmread(sorted(folder.iterdir())[2])
        vr = pydicom.datadict.dictionary_VR(keyword)
        one.add(pydicom.DataElement(keyword, "LO", "ZPHI77"))
        one.save_as(sorted(folder.iterdir())[2])
        content = sorted(folder.iterdir())[2].read_bytes()
        tag = pydicom.tag.Tag(keyword)
        start = tag.group.to_bytes(2, "little") + tag.elem.to_bytes(2, "little")
        sorted(folder.iterdir())[2].write_bytes(content.replace(start + b"LO", start + vr.encode()))
        sentence = refused(folder, "has a damaged header")
        assert re.search(r"\(\w+\)", sentence)


def test_nothing_there(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "ZPHI.txt").write_text("ZPHI" * 100)
    refused(tmp_path / "folder", "has no DICOM file")
    refused(tmp_path / "gone", r"gone cannot be read \(FileNotFoundError\): check the path")
    refused([tmp_path / "folder" / "ZPHI.txt"], r"the delivery of 1 file\(s\) has no DICOM file")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("ZPHI.txt", "ZPHI")
    refused(tmp_path / "empty.zip", "has no DICOM file")

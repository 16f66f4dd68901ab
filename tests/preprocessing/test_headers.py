"""Headers that other readers misread or refuse. Files are written byte by byte, not by nibabel."""

import bz2
import gzip
import shutil
import struct
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest

from preprocessing import VolumeError, map_volume, read_volume

SHAPE = (9, 12, 7)
VOXELS = np.random.default_rng(3).gamma(2, 90, SHAPE).astype(np.int16)
SFORM = ((-0.5, 0, 0, 4), (0, 0.5, 0, 5), (0, 0, 0.75, 6))  # stored from right to left


def nifti(version=1, order="<", offset=None, sform=SFORM, qform=None, units=2, magic=None, extender=0) -> bytes:
    """A NIfTI file, from the field tables of nifti1.h and nifti2.h. `qform` is (code, b, c, d, x, y, z, qfac)."""
    start = 352 if version == 1 else 544
    offset = start if offset is None else offset
    head = bytearray(start)

    def put(place, form, *values):
        struct.pack_into(order + form, head, place, *values)

    code, b, c, d, x, y, z, qfac = qform or (0,) * 7 + (1,)
    pixdim, dim = (qfac, 0.5, 0.5, 0.75, 0, 0, 0, 0), (3, *SHAPE, 1, 1, 1, 1)
    rows = [number for row in sform or ((0,) * 4,) * 3 for number in row]
    if version == 1:
        put(0, "i", 348)
        put(40, "8h", *dim)
        put(70, "2h", 4, 16)  # datatype int16
        put(76, "8f", *pixdim)
        put(108, "3f", offset, 1, 0)  # vox_offset, slope, intercept
        put(123, "B", units)
        put(252, "2h", code, int(sform is not None))
        put(256, "6f", b, c, d, x, y, z)
        put(280, "12f", *rows)
        head[344:348] = magic or b"n+1\0"
        head[348] = extender
    else:
        put(0, "i", 540)
        head[4:12] = magic or b"n+2\0\r\n\x1a\n"
        put(12, "2h", 4, 16)
        put(16, "8q", *dim)
        put(104, "8d", *pixdim)
        put(168, "q", int(offset))
        put(176, "2d", 1, 0)
        put(344, "2i", code, int(sform is not None))
        put(352, "6d", b, c, d, x, y, z)
        put(400, "12d", *rows)
        put(500, "i", units)
        head[540] = extender
    return bytes(head) + VOXELS.astype(order + "i2").tobytes("F")


def mgh(good_ras: int) -> bytes:
    """An MGH file: big-endian, voxels from byte 284, coronal direction cosines."""
    head = bytearray(284)
    struct.pack_into(">7i", head, 0, 1, *SHAPE, 1, 4, 0)  # version, shape, frames, int16
    struct.pack_into(">h15f", head, 28, good_ras, 0.5, 0.5, 0.75, -1, 0, 0, 0, 0, -1, 0, 1, 0, 1, 2, 3)
    return bytes(head) + VOXELS.astype(">i2").tobytes("F")


def written(path: Path, content: bytes) -> Path:
    """A file, compressed as its name says."""
    name = path.name.lower()
    content = gzip.compress(content) if name.endswith((".gz", ".mgz")) else content
    path.write_bytes(bz2.compress(content) if name.endswith(".bz2") else content)
    return path


def refusal(source, *needles):
    with pytest.raises(VolumeError) as caught:
        read_volume(source)
    message = str(caught.value)
    assert all(needle in message for needle in needles), message
    assert message.endswith(".") and "\n" not in message and ": " in message


# ------------------------------------------------------------------------------------------------------ NIfTI offsets


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nii.bz2"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "version, offset", [(1, 0), (1, 1), (1, 348), (1, 351), (1, -16), (1, np.nan), (2, 0), (2, 352), (2, 540), (2, -1)]
)
def test_voxels_never_start_inside_the_header(tmp_path, name, order, version, offset):
    path = written(tmp_path / name, nifti(version, order, offset))
    np.testing.assert_array_equal(read_volume(path).data, VOXELS[::-1])


@pytest.mark.parametrize("version", [1, 2])
def test_an_extension_flag_without_room_for_extensions_does_not_matter(tmp_path, version):
    path = written(tmp_path / "a.nii", nifti(version, offset=0, extender=1))
    np.testing.assert_array_equal(read_volume(path).data, VOXELS[::-1])


@pytest.mark.parametrize("version", [1, 2])
def test_a_larger_offset_counts(tmp_path, version):
    start = 352 if version == 1 else 544
    content = nifti(version, offset=start + 32, extender=1)
    extension = struct.pack("<2i", 32, 6) + b"a comment".ljust(24, b"\0")
    path = written(tmp_path / "a.nii.gz", content[:start] + extension + content[start:])
    np.testing.assert_array_equal(read_volume(path).data, VOXELS[::-1])


@pytest.mark.parametrize("version", [1, 2])
def test_nibabel_images_too(tmp_path, version):
    content = nifti(version, offset=0)
    path = written(tmp_path / "a.nii.gz", content)
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    for image in (nibabel.load(path), kind.from_bytes(content)):
        assert not np.array_equal(np.asarray(image.dataobj), VOXELS)  # nibabel reads the header as voxels
        np.testing.assert_array_equal(read_volume(image).data, VOXELS[::-1])


@pytest.mark.parametrize("end", ["", ".gz"])
def test_the_voxels_of_a_pair_start_at_0(tmp_path, end):
    content = nifti(offset=0, magic=b"ni1\0")
    written(tmp_path / f"a.hdr{end}", content[:348])
    path = written(tmp_path / f"a.img{end}", content[352:])
    np.testing.assert_array_equal(read_volume(path).data, VOXELS[::-1])
    pair = nibabel.load(path)
    np.testing.assert_array_equal(read_volume(nibabel.Nifti1Image(pair.dataobj, pair.affine)).data, VOXELS[::-1])


# ---------------------------------------------------------------------------------------------------------------- MGH


@pytest.mark.parametrize("name", ["a.mgh", "a.mgz", "A.MGZ", "a.mgh.gz"])
def test_mgh_without_orientation_is_refused(tmp_path, name):
    path = written(tmp_path / name, mgh(good_ras=1))
    volume = read_volume(path)
    assert volume.stored_orientation == "LIA" and volume.stored_spacing == (0.5, 0.5, 0.75)
    np.testing.assert_array_equal(volume.data, VOXELS[::-1, ::-1].transpose(0, 2, 1))
    for flag in (0, -1):
        refusal(written(path, mgh(flag)), name, "which side is left", "goodRASFlag")


def test_mgh_images_of_nibabel_without_orientation_are_refused_too(tmp_path):
    path = written(tmp_path / "a.mgz", mgh(good_ras=0))
    refusal(nibabel.load(path), "goodRASFlag")
    refusal(nibabel.MGHImage.from_bytes(mgh(good_ras=0)), "goodRASFlag")
    built = nibabel.MGHImage(VOXELS, np.diag([-1.0, 1, 1, 1]))  # no file: its affine was given
    assert read_volume(built).stored_orientation == "LAS"


# --------------------------------------------------------------------------------------------- what the content says


@pytest.mark.parametrize(
    "name", ["a.nii", "a.nii.gz", "A.NII", "A.NII.GZ", "a.Nii.gz", "a.nii.bz2", "A.MGH", "A.MGZ", "a.mgh", "a.mgz"]
)
@pytest.mark.parametrize("packed", [gzip.compress, bytes, bz2.compress])
def test_content_decides_not_the_name(tmp_path, name, packed):
    path = tmp_path / name
    path.write_bytes(packed(mgh(good_ras=1) if ".mg" in name.lower() else nifti()))
    volume = read_volume(path)
    assert volume.stored_orientation == ("LIA" if ".mg" in name.lower() else "LAS")
    np.testing.assert_array_equal(np.sort(volume.data, axis=None), np.sort(VOXELS, axis=None))


def test_pairs_in_capitals(tmp_path):
    content = nifti(offset=0, magic=b"ni1\0")
    (tmp_path / "A.HDR").write_bytes(content[:348])
    (tmp_path / "A.IMG").write_bytes(content[352:])
    for name in ("A.HDR", "A.IMG"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, VOXELS[::-1])


def test_damage_is_found_when_the_name_does_not_fit_the_content(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(gzip.compress(nifti())[:-200])
    refusal(path, "a.nii", "again")
    path = tmp_path / "a.nii.gz"
    path.write_bytes(nifti()[:-200])
    refusal(path, "a.nii.gz", "promises")


# -------------------------------------------------------------------------------------------- links and their content

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
ANNEX = b"/annex/objects/MD5E-s12345--4d7a2146.nii.gz\n"
LINK = "../.git/annex/objects/Xx/4j/MD5E-s12345--4d7a2146.nii.gz/MD5E-s12345--4d7a2146.nii.gz"


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mgz", "a.img"])
def test_pointers_name_the_command_that_fetches_the_content(tmp_path, name):
    path = tmp_path / name
    for content, command in [(LFS, "git lfs pull"), (ANNEX, "datalad get"), (LINK.encode(), "datalad get")]:
        path.write_bytes(content)
        refusal(path, name, f"`{command}", "not on this computer")
    path.unlink()
    path.symlink_to(LINK)
    refusal(path, name, "`datalad get")
    path.unlink()
    path.symlink_to("moved.nii.gz")
    refusal(path, name, "link to a missing file, moved.nii.gz")


def test_a_pair_whose_voxels_are_not_fetched(tmp_path):
    (tmp_path / "a.hdr").write_bytes(nifti(offset=0, magic=b"ni1\0")[:348])
    (tmp_path / "a.img").write_bytes(LFS)
    refusal(tmp_path / "a.hdr", "a.img", "`git lfs pull")
    (tmp_path / "a.img").unlink()
    (tmp_path / "a.img").symlink_to(LINK)
    refusal(tmp_path / "a.hdr", "a.img", "`datalad get")


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def forbidden(path, *_):
        raise PermissionError(13, "Permission denied", path)

    path = written(tmp_path / "a.nii.gz", nifti())
    monkeypatch.setattr("preprocessing.headers_gloresnet.open", forbidden, raising=False)
    refusal(path, "a.nii.gz cannot be opened", "Permission denied")


def test_a_link_to_fetched_content_is_read(tmp_path):
    stored = tmp_path / ".git" / "annex" / "objects" / "MD5E-s1--2"  # the key has no extension
    stored.parent.mkdir(parents=True)
    stored.write_bytes(gzip.compress(nifti()))
    (tmp_path / "a.nii.gz").symlink_to(stored)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").data, VOXELS[::-1])
    shutil.rmtree(tmp_path / ".git")
    refusal(tmp_path / "a.nii.gz", "`datalad get a.nii.gz`")


# ------------------------------------------------------------------------------------------------ qform, sform, units


def long_quaternion(excess: float) -> tuple[float, float, float]:
    """A rotation by 180 degrees whose squares add up to 1 + excess."""
    return tuple(np.array([0.6, 0.0, 0.8]) * np.sqrt(1 + excess))


@pytest.mark.parametrize("version, order", [(1, "<"), (1, ">"), (2, "<"), (2, ">")])
@pytest.mark.parametrize("excess", [0, 1e-7, 5e-7, 1e-6, 5e-6])
def test_a_quaternion_that_is_too_long_by_rounding_is_read(tmp_path, version, order, excess):
    qform = (1, *long_quaternion(excess), 4, 5, 6, 1)
    volume = read_volume(written(tmp_path / "a.nii.gz", nifti(version, order, sform=None, qform=qform)))
    # 2 n n' - 1 with n = (0.6, 0, 0.8), times the spacing: the axes point to S, P and R
    stored = np.array([[-0.28 * 0.5, 0, 0.96 * 0.75], [0, -0.5, 0], [0.96 * 0.5, 0, 0.28 * 0.75]])
    assert volume.stored_orientation == "SPR"
    np.testing.assert_allclose(volume.affine[:3, :3], stored[:, [2, 1, 0]] * [1, -1, 1], atol=1e-6)


def test_a_quaternion_that_is_much_too_long_is_refused(tmp_path):
    qform = (1, *long_quaternion(0.01), 4, 5, 6, 1)
    refusal(written(tmp_path / "a.nii", nifti(sform=None, qform=qform)), "cannot be opened")
    volume = read_volume(written(tmp_path / "a.nii", nifti(qform=qform)))
    assert volume.warnings == ("The qform is invalid; the sform is used.",)


def test_sform_and_qform_that_disagree_give_a_warning(tmp_path):
    las = (1, 0, 1, 0, 4, 5, 6, -1)  # 180 degrees about y and qfac -1: the same as the sform
    assert read_volume(written(tmp_path / "a.nii", nifti(qform=las))).warnings == ()
    for qform, needles in [
        ((1, 0, 0, 0, 4, 5, 6, 1), ("LAS and RAS", "left and right may be wrong", "sform is used")),
        ((1, 0, 1, 0, 4, 5, 7.5, -1), ("by up to 2 voxels", "sform is used")),
    ]:
        path = written(tmp_path / "a.nii", nifti(qform=qform))
        for source in (path, nibabel.load(path)):
            volume = read_volume(source)
            assert volume.stored_orientation == "LAS"
            (sentence,) = volume.warnings
            assert all(needle in sentence for needle in needles) and str(path) not in sentence


@pytest.mark.parametrize("units, factor", [(1, 1e-3), (3, 1e3), (0, 1), (2, 1), (2 + 8, 1), (1 + 8, 1e-3)])
def test_lengths_are_millimetres_in_every_unit(tmp_path, units, factor):
    expected = read_volume(written(tmp_path / "mm.nii", nifti()))
    scaled = tuple(tuple(number * factor for number in row) for row in SFORM)
    volume = read_volume(written(tmp_path / "a.nii", nifti(sform=scaled, units=units)))
    np.testing.assert_allclose(volume.stored_spacing, (0.5, 0.5, 0.75), rtol=1e-6)
    np.testing.assert_allclose(volume.affine, expected.affine, rtol=1e-6)
    np.testing.assert_array_equal(map_volume(volume, 16), map_volume(expected, 16))
    assert volume.warnings == ()


def test_a_unit_that_cannot_be_right_gives_a_warning(tmp_path):
    volume = read_volume(written(tmp_path / "a.nii", nifti(units=1)))
    assert volume.stored_spacing == (500, 500, 750)
    assert "in metres, so a voxel is 500 x 500 x 750 mm" in volume.warnings[0]


def test_reading_itself_warns_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_volume(written(tmp_path / "a.nii", nifti(qform=(1, 0, 0, 0, 4, 5, 6, 1))))

"""Headers that other readers misread or refuse. Files are written byte by byte, not by nibabel."""

import bz2
import gzip
import os
import shutil
import struct
import warnings

import nibabel
import numpy as np
import pytest

from preprocessing import VolumeError, map_volume, read_volume
from tests.preprocessing.raw_files import SFORM, VOXELS, mgh, nifti, patched, written


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


def test_a_matrix_without_a_code_is_a_witness_of_left_and_right(tmp_path):
    """nibabel and others fill both matrices alike, and give one of them code 0."""
    las, ras = (0, 0, 1, 0, 4, 5, 6, -1), (0, 0, 0, 0, 4, 5, 6, 1)
    assert read_volume(written(tmp_path / "a.nii", nifti(qform=las))).warnings == ()
    assert read_volume(written(tmp_path / "a.nii", nifti(qform=(0, 0, 1, 0, 40, 5, 6, -1)))).warnings == ()
    (sentence,) = read_volume(written(tmp_path / "a.nii", nifti(qform=ras))).warnings
    assert "(code 1) and the qform (code 0) disagree, LAS and RAS" in sentence and "sform is used" in sentence
    image = patched(nifti(qform=(1, *ras[1:])), "sform_code", 0)
    (sentence,) = read_volume(written(tmp_path / "a.nii", image)).warnings
    assert "(code 0) and the qform (code 1) disagree, RAS and LAS" in sentence and "qform is used" in sentence
    assert read_volume(written(tmp_path / "a.nii", nifti(sform=None, qform=(1, *ras[1:])))).warnings == ()
    assert read_volume(written(tmp_path / "a.nii", nifti(qform=(0, 0, 0, 0, 0, 0, 0, 1)))).warnings == ()


@pytest.mark.parametrize("units, factor", [(1, 1e-3), (3, 1e3), (0, 1), (2, 1), (2 + 8, 1), (1 + 8, 1e-3)])
def test_lengths_are_millimetres_in_every_unit(tmp_path, units, factor):
    expected = read_volume(written(tmp_path / "mm.nii", nifti()))
    scaled = tuple(tuple(number * factor for number in row) for row in SFORM)
    volume = read_volume(written(tmp_path / "a.nii", nifti(sform=scaled, units=units, size=factor)))
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


# ----------------------------------------------------------------------------------- headers that contradict themselves


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "field, index, value, needles",
    [
        ("dim", 0, 0, ("dim[0]", "is 0")),
        ("dim", 0, 768, ("dim[0]", "is 768")),  # 3 in the other byte order, which nibabel then assumes
        ("bitpix", (), 8, ("datatype 4 has 16 bits", "bitpix is 8")),
        ("datatype", (), 2, ("datatype 2 has 8 bits", "bitpix is 16")),
        ("sform_code", (), 259, ("sform_code is 259",)),
        ("sform_code", (), -1, ("sform_code is -1",)),
        ("qform_code", (), 6, ("qform_code is 6",)),
        ("scl_inter", (), np.nan, ("scl_inter is nan",)),
        ("scl_slope", (), np.inf, ("scl_slope is inf",)),
        ("scl_slope", (), 1e38, ("too large",)),
        ("scl_inter", (), 1e15, ("too close",)),
        ("scl_inter", (), 1e25, ("constant",)),
        ("srow_y", 1, 1e38, ("too large",)),
        ("srow_x", 3, -1e38, ("too large",)),
        ("srow_x", 1, 5.0, ("nearly parallel",)),
        ("dim", 3, -7, ("not a 3D volume",)),
        ("dim", 3, 6, ("follow its voxels",)),
        ("dim", 1, 10, ("a.nii", "promises")),
        ("vox_offset", (), 1e9, ("promises",)),
    ],
)
def test_a_contradiction_is_refused_with_both_sides(tmp_path, version, order, field, index, value, needles):
    path = written(tmp_path / "a.nii", patched(nifti(version, order), field, value, index))
    refusal(path, *needles)
    if needles[0] != "a.nii" and not (field, value) == ("scl_inter", np.nan):
        try:
            image = nibabel.load(path)
        except Exception:  # nibabel refuses it too
            return
        refusal(image, *(needle.replace("promises", "a.nii") for needle in needles))


@pytest.mark.parametrize("field, value", [("bitpix", 0), ("scl_slope", 0), ("scl_slope", np.nan), ("magic", b"ni1")])
def test_what_is_not_stated_does_not_matter(tmp_path, field, value):
    volume = read_volume(written(tmp_path / "a.nii", patched(nifti(), field, value)))
    np.testing.assert_array_equal(volume.data, VOXELS[::-1])
    assert volume.warnings == ()


@pytest.mark.parametrize(
    "field, index, value, needles",
    [
        ("pixdim", 2, 0.55, ("sform and pixdim disagree", "0.5 x 0.5 x 0.75 mm and 0.5 x 0.55 x 0.75 mm")),
        ("pixdim", 2, np.nan, ("sform and pixdim disagree",)),
        ("srow_y", 1, 0.25, ("sform and pixdim disagree",)),
        ("srow_x", 1, 0.02, ("88 degrees", "not 90")),
        ("scl_slope", (), -1, ("scl_slope is negative", "bright and dark")),
        ("xyzt_units", (), 3, ("in micrometres", "0.0005 x 0.0005 x 0.00075 mm")),
    ],
)
def test_a_doubtful_header_gives_a_warning(tmp_path, field, index, value, needles):
    path = written(tmp_path / "a.nii", patched(nifti(), field, value, index))
    for source in (path, nibabel.load(path)):
        sentences = " ".join(read_volume(source).warnings)
        assert all(needle in sentences for needle in needles), sentences


def test_a_qfac_is_1_or_minus_1(tmp_path):
    refusal(written(tmp_path / "a.nii", nifti(sform=None, qform=(1, 0, 0, 0, 4, 5, 6, 37.5))), "pixdim[0]", "37.5")
    assert read_volume(written(tmp_path / "a.nii", nifti(sform=None, qform=(1, 0, 0, 0, 4, 5, 6, 0)))).data.any()
    np.testing.assert_array_equal(read_volume(written(tmp_path / "a.nii", nifti(qform=None))).data, VOXELS[::-1])


@pytest.mark.parametrize(
    "place, value, needle",
    [
        (34, 0, "0.5 x 0 x 0.75 mm"),
        (34, -0.5, "x -0.5 x"),
        (30, np.nan, "nan"),
        (42, 0.9, "cosines"),
        (46, 1, "cosines"),
    ],
)
def test_mgh_with_an_impossible_orientation_is_refused(tmp_path, place, value, needle):
    content = bytearray(mgh(good_ras=1))
    struct.pack_into(">f", content, place, value)
    refusal(written(tmp_path / "a.mgz", bytes(content)), "contradicts itself", needle)


# ------------------------------------------------------------------------------------------------- only regular files


@pytest.mark.parametrize(
    "scan, pipe", [("a.img", "a.hdr"), ("a.hdr", "a.img"), ("a.IMG", "a.hdr.gz"), ("a.nii", "a.nii")]
)
def test_a_pipe_is_never_opened(tmp_path, scan, pipe):
    content = nifti(offset=0, magic=b"ni1\0")
    (tmp_path / scan).write_bytes(content[:348] if scan.endswith("hdr") else content[352:])
    (tmp_path / pipe).unlink(missing_ok=True)
    os.mkfifo(tmp_path / pipe)
    refusal(tmp_path / scan, pipe, "device")
    folder = tmp_path / "b.hdr"
    folder.mkdir()
    (tmp_path / "b.img").write_bytes(content[352:])
    refusal(tmp_path / "b.img", "b.img is not a volume")

"""From bytes to voxels: what may lie around them, how much memory they take, and how they are scaled."""

import gzip
import struct
import tracemalloc

import nibabel
import numpy as np
import pytest

from preprocessing import VolumeError, apply_mask, decoding_gloresnet, map_volume, read_labels, read_volume
from preprocessing.decoding_gloresnet import BUDGET, TAIL, decoded_type
from tests.preprocessing.raw_files import SFORM, VOXELS, mgh, nifti, patched, written

PARAMETERS = struct.pack(">5f", 4000, 1.5, 90, 0, 180)  # of MGH: TR, flip angle, TE, TI, field of view
COMMAND = struct.pack(">iq", 3, 20) + b"mri_convert a b     "  # a tag of MGH
MATRIX = struct.pack(">ii", 30, 5) + b"auto\0"  # an old tag with a length of 4 bytes
FACE = 9 * 7 * 2  # bytes of the smallest slice


def refusal(path, *needles):
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    assert all(needle in str(caught.value) for needle in (path.name, *needles)), caught.value


# ------------------------------------------------------------------------------------------------- around the voxels


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nii.bz2"])
@pytest.mark.parametrize("version", [1, 2])
def test_zeros_after_the_voxels_are_padding_and_anything_else_is_refused(tmp_path, name, version):
    sound = nifti(version)
    volume = read_volume(written(tmp_path / name, sound + bytes(100)))
    np.testing.assert_array_equal(volume.data, VOXELS[::-1])
    assert volume.warnings == ()
    refusal(
        written(tmp_path / name, sound + bytes(99) + b"x"), "100 bytes follow its voxels", "dimensions or data type"
    )
    refusal(written(tmp_path / name, sound + bytes(TAIL + 1)), f"more than {TAIL} bytes follow")


def test_the_images_of_nibabel_are_read_to_the_end_too(tmp_path):
    path = written(tmp_path / "a.nii.gz", nifti() + b"more")
    for image in (nibabel.load(path), nibabel.Nifti1Image.from_bytes(nifti() + b"more")):
        with pytest.raises(VolumeError, match="4 bytes follow its voxels"):
            read_volume(image)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_pairs_are_read_to_the_end_too(tmp_path, end):
    content = nifti(offset=0, magic=b"ni1\0")
    written(tmp_path / f"a.hdr{end}", content[:348])
    path = written(tmp_path / f"a.img{end}", content[352:] + bytes(8))
    np.testing.assert_array_equal(read_volume(path).data, VOXELS[::-1])
    refusal(written(path, content[352:] + b"12345678"), "8 bytes follow its voxels")
    written(tmp_path / f"a.hdr{end}", patched(nifti(magic=b"ni1\0"), "vox_offset", 16)[:348])
    refusal(written(path, b"x" * 16 + content[352:]), "vox_offset skips 16 bytes")
    np.testing.assert_array_equal(read_volume(written(path, bytes(16) + content[352:])).data, VOXELS[::-1])


def test_padding_as_long_as_a_slice_gives_a_warning(tmp_path):
    assert read_volume(written(tmp_path / "a.nii", nifti() + bytes(FACE - 1))).warnings == ()
    (sentence,) = read_volume(written(tmp_path / "a.nii", nifti() + bytes(2 * FACE))).warnings
    assert "252 zero bytes follow the voxels, as many as 2 slices" in sentence and "too small" in sentence


@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
def test_mgh_ends_with_parameters_and_tags(tmp_path, name):
    sound, expected = mgh(good_ras=1), VOXELS[::-1, ::-1].transpose(0, 2, 1)
    for tail in (b"", PARAMETERS[:12], PARAMETERS, bytes(20), PARAMETERS + COMMAND, PARAMETERS + MATRIX + COMMAND):
        for padding in (0, 64):
            found = read_volume(written(tmp_path / name, sound + tail + bytes(padding)))
            np.testing.assert_array_equal(found.data, expected)
    old_colours = struct.pack(">i", 1) + b"a table of unknown length"
    np.testing.assert_array_equal(
        read_volume(written(tmp_path / name, sound + PARAMETERS + old_colours)).data, expected
    )
    for tail in (
        VOXELS[0].tobytes(),
        VOXELS[0].tobytes() + PARAMETERS,
        PARAMETERS + COMMAND[:-1],
        PARAMETERS + b"12345",
    ):
        refusal(written(tmp_path / name, sound + tail), "follow its voxels")


def test_the_voxels_of_mgh_in_a_nifti_image(tmp_path):
    image = nibabel.load(written(tmp_path / "a.mgz", mgh(good_ras=1) + PARAMETERS))
    np.testing.assert_array_equal(read_volume(nibabel.Nifti1Image(image.dataobj, np.eye(4))).data, VOXELS)


@pytest.mark.parametrize("version, start", [(1, 352), (2, 544)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_extensions_end_before_the_first_voxel(tmp_path, version, start, order):
    def scan(size, room, flag=1, comment=b"a comment", offset=None):
        content = nifti(version, order, start + room if offset is None else offset, extender=flag)
        extension = struct.pack(order + "2i", size, 6) + comment
        return written(tmp_path / "a.nii.gz", content[:start] + extension.ljust(room, b"\0") + content[start:])

    for size, room in [(32, 32), (32, 48), (24, 32)]:  # zeros may follow; 24 is no multiple of 16, as some write it
        np.testing.assert_array_equal(read_volume(scan(size, room)).data, VOXELS[::-1])
    refusal(scan(64, 32), "an extension of 64 bytes runs over the first voxel")
    refusal(scan(-5, 32), "an extension of -5 bytes")
    refusal(scan(32, 32, flag=0), "vox_offset skips 32 bytes that are neither extensions nor zeros")
    refusal(scan(32, 32, offset=start), "follow its voxels")


def test_voxels_of_another_type_or_byte_order_give_a_warning(tmp_path):
    x, y, z = np.meshgrid(*(np.linspace(-3, 3, n) for n in (30, 40, 20)), indexing="ij")
    head = 1000 * np.exp(-(x**2 + y**2 + z**2) / 4)
    for stored, claimed, needle in [
        ("<i2", ">i2", "other byte order"),
        (">u2", "<u2", "other byte order"),
        ("<i4", ">i4", "other byte order"),
        ("<f4", "<i4", "those of floats"),
        ("<f8", "<i8", "those of floats"),
    ]:
        image = nibabel.Nifti1Image(head.astype(stored).view(claimed).astype(claimed[1:]), np.eye(4), dtype=claimed[1:])
        (sentence,) = read_volume(written(tmp_path / "a.nii", image.to_bytes())).warnings
        assert needle in sentence and "may be wrong" in sentence
        assert read_volume(nibabel.Nifti1Image(head.astype(stored[1:]), np.eye(4))).warnings == ()
        sound = nibabel.Nifti1Image(head.astype(stored[1:]), np.eye(4)).to_bytes()
        assert read_volume(written(tmp_path / "a.nii", sound)).warnings == ()
    wrapped = (head + np.random.default_rng(4).normal(0, 20, head.shape)).astype(np.int16).view(np.uint16)
    (sentence,) = read_volume(written(tmp_path / "a.nii", nibabel.Nifti1Image(wrapped, np.eye(4)).to_bytes())).warnings
    assert "if they are signed" in sentence
    few = head.astype(np.int16)
    few[0, :5, 0] = -3  # a few voxels are enough to spoil the standard deviation
    wrapped = nibabel.Nifti1Image(few.view(np.uint16), np.eye(4))
    (sentence,) = read_volume(written(tmp_path / "a.nii", wrapped.to_bytes())).warnings
    assert f"go up to 65533, but from -3 to {few.max()} if they are signed" in sentence
    mask = (head > 500).astype(np.uint16) * 65535
    assert read_labels(written(tmp_path / "a.nii", nibabel.Nifti1Image(mask, np.eye(4)).to_bytes())).warnings == ()


# --------------------------------------------------------------------------------------------------------------- gzip


@pytest.mark.parametrize("decoder", ["isal", "gzip"])
def test_gzip_is_checked_to_its_last_byte(tmp_path, decoder, monkeypatch):
    if decoder == "gzip":
        monkeypatch.setattr("preprocessing.headers_gloresnet.igzip", None)
    packed, path = gzip.compress(nifti()), tmp_path / "a.nii.gz"
    for sound in (packed + bytes(512), packed + gzip.compress(b""), packed + gzip.compress(bytes(64))):
        path.write_bytes(sound)
        np.testing.assert_array_equal(read_volume(path).data, VOXELS[::-1])
    damaged = {"garbage": packed + b"garbage", "member": packed + gzip.compress(b"garbage"), "cut": packed[:-1]}
    damaged |= {"checksum": packed[:-5] + bytes([packed[-5] ^ 1]) + packed[-4:]}
    damaged |= {"length": packed[:-1] + bytes([packed[-1] ^ 1])}
    for content in damaged.values():
        path.write_bytes(content)
        refusal(path, "again")


def test_a_bomb_is_not_unpacked_beyond_what_its_header_promises(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti() + bytes(1 << 26)))
    tracemalloc.start()
    try:
        refusal(path, "bytes follow")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------- memory and scaling


def scaled(dtype, slope, inter, shape=(64, 72, 60)):
    """A NIfTI file with scaled voxels, and their intensities in float64."""
    limits = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(np.float32)
    low, high = max(limits.min, -40000), min(limits.max, 60000)
    voxels = np.random.default_rng(2).uniform(low, high, shape).astype(dtype)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    content = patched(nibabel.Nifti1Image(voxels, np.eye(4), header).to_bytes(), "scl_slope", slope)
    return patched(content, "scl_inter", inter), voxels * np.float64(np.float32(slope)) + np.float64(np.float32(inter))


@pytest.mark.parametrize(
    "dtype, slope, inter, expected",
    [
        (np.uint8, 2.5, -10, np.float32),
        (np.int16, 0.015, 500, np.float32),
        (np.uint16, 1, -1024, np.float32),
        (np.float32, 0.01, 0, np.float32),
        (np.int16, 1e-4, 1e6, np.float64),  # float32 would keep 16 levels
        (np.float32, 1, 1e6, np.float64),
        (np.int32, 0.5, 0, np.float64),
        (np.float64, 0.5, 3, np.float64),
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_scaled_voxels_equal_the_scaling_in_float64(tmp_path, name, dtype, slope, inter, expected):
    content, intensities = scaled(dtype, slope, inter)
    found = read_volume(written(tmp_path / name, content)).data
    assert found.dtype == expected == decoded_type(np.dtype(dtype), slope, inter)
    np.testing.assert_array_equal(found, intensities.astype(expected))


def test_scaling_in_float32_does_not_change_a_bit_of_the_cube(tmp_path):
    content, intensities = scaled(np.int16, 0.015, 500)
    in_float64 = np.asfortranarray(intensities)  # the memory order of the file
    np.testing.assert_array_equal(
        map_volume(read_volume(written(tmp_path / "a.nii", content)), 32), map_volume(read_volume(in_float64), 32)
    )


@pytest.mark.parametrize("dtype, order", [(np.uint8, "<"), (np.int16, ">")])
def test_decoding_takes_no_second_copy(tmp_path, dtype, order):
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(dtype))
    voxels = np.random.default_rng(0).integers(0, 200, (160, 180, 200)).astype(dtype)
    content = nibabel.Nifti1Image(voxels, np.eye(4), header).to_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(patched(content, "scl_slope", 2), compresslevel=1))
    tracemalloc.start()
    try:
        data = read_volume(tmp_path / "a.nii.gz").data
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert data.dtype == np.float32 and data.nbytes == 4 * voxels.size
    assert peak < data.nbytes + (8 << 20)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz"])
def test_the_budget_counts_decoded_bytes_and_is_checked_before_allocating(tmp_path, name, monkeypatch):
    monkeypatch.setattr("preprocessing.reading_gloresnet.BUDGET", 4 * VOXELS.size - 1)
    content = mgh(good_ras=1) if name == "a.mgz" else nifti()
    assert read_volume(written(tmp_path / name, content)).data.size == VOXELS.size  # 2 bytes per voxel
    if name != "a.mgz":
        content = patched(content, "scl_slope", 2)  # 4 bytes per voxel
        monkeypatch.setattr(decoding_gloresnet, "_read", lambda *_: pytest.fail("it was read"))
        refusal(written(tmp_path / name, content), "9 x 12 x 7 voxels", "at most", "resample")


def test_masks_have_the_same_budget(tmp_path, monkeypatch):
    volume = read_volume(written(tmp_path / "a.nii", nifti()))
    monkeypatch.setattr("preprocessing.reading_gloresnet.BUDGET", VOXELS.size)
    with pytest.raises(VolumeError, match="mask.nii has 9 x 12 x 7 voxels"):
        apply_mask(volume, written(tmp_path / "mask.nii", nifti(sform=SFORM)))


def test_an_array_in_memory_has_no_budget(monkeypatch):
    monkeypatch.setattr("preprocessing.reading_gloresnet.BUDGET", 1)
    assert read_volume(VOXELS).data.size == read_volume(nibabel.Nifti1Image(VOXELS, np.eye(4))).data.size
    assert BUDGET == 1_500_000_000

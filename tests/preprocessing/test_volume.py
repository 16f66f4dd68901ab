"""Reading, reorienting, resampling and standardising, compared with scipy, nibabel and results by hand."""

import gc
import gzip
import itertools
import logging
import struct
import tracemalloc
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from preprocessing import Frame, VolumeError, apply_mask, map_volume, read_volume, resample, standardise

NIBABEL_DATA = Path(nibabel.__file__).parent / "tests" / "data"
SPACING = np.diag([0.5, 1.0, 2.0, 1.0])


def noise(shape=(9, 12, 7), seed=0):
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def box(shape):
    """A mask in the middle of a volume."""
    brain = np.zeros(shape, np.uint8)
    brain[tuple(slice(n // 4, -(n // 4)) for n in shape)] = 1
    return brain


def reference(data, size):
    """The mapping in float64, with scipy and numpy only."""
    zoomed = ndimage.zoom(data.astype(np.float64), [size / n for n in data.shape], order=1)
    return (zoomed - zoomed.mean()) / (zoomed.std() + 1e-6)


def saved(tmp_path, image, name="scan.nii.gz"):
    nibabel.save(image, tmp_path / name)
    return str(tmp_path / name)


# ------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("size", [16, 33, 128])
@pytest.mark.parametrize("shape", [(40, 57, 21), (128, 128, 128), (150, 17, 33), (2, 3, 60)])
def test_the_mapping_equals_scipys_zoom_and_a_float64_z_score(shape, size):
    data = noise(shape)
    cube = map_volume(read_volume(data), size)
    assert cube.dtype == np.float32 and cube.shape == (size,) * 3
    np.testing.assert_allclose(cube, reference(data, size), atol=2e-4)


@pytest.mark.parametrize("offset, contrast", [(30000, 5), (-1e6, 1), (1e6, 0.5), (0, 1e-2), (0, 1e8)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_offset_does_not_cost_precision(offset, contrast, dtype):
    data = (offset + contrast * np.random.default_rng(1).standard_normal((30, 41, 23))).astype(dtype)
    np.testing.assert_allclose(map_volume(read_volume(data), 32), reference(data, 32), atol=2e-4)


def test_resampling_keeps_corners_and_interpolates_between_voxels():
    ramp = np.broadcast_to(np.arange(5.0, dtype=np.float32)[:, None, None], (5, 4, 4))
    cube = resample(ramp, 17)  # 17 targets over 5 voxels: steps of a quarter
    np.testing.assert_allclose(cube[:, 3, 8], np.arange(17) / 4, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8])
def test_standardise_uses_the_population_sd_and_eps(dtype):
    data = np.array([[[0, 2]]], dtype=dtype)  # mean 1, population SD 1, sample SD 1.414
    standardised = standardise(data, eps=1.0)
    assert standardised.dtype == np.float32
    np.testing.assert_allclose(standardised, [[[-0.5, 0.5]]])


# --------------------------------------------------------------------------------------------------------------- axes


def test_axis_0_runs_from_left_to_right(tmp_path):
    data = np.zeros((6, 8, 10), dtype=np.float32)
    data[0] = 1.0  # the first slice of an LAS file is the rightmost
    path = saved(tmp_path, nibabel.Nifti1Image(data, np.diag([-1.0, 1.0, 1.0, 1.0])))
    volume = read_volume(path)
    assert volume.data[-1].min() == 1.0 and volume.data[:-1].max() == 0.0
    assert volume.stored_orientation == "LAS"


@pytest.mark.parametrize("form", ["sform", "qform"])
@pytest.mark.parametrize(
    "angles, shear", [((0, 0, 0), 0.0), ((20, -35, 12), 0.0), ((-31, 8, 70), 0.0), ((10, 5, 3), 0.1)]
)
def test_every_axis_order_of_one_oblique_scan_gives_the_same_cube(angles, shear, form):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag([0.8, 0.8, 2.0])
    affine[:3, 1] += shear * affine[:3, 0] * (form == "sform")  # a qform cannot shear
    affine[:3, 3] = -30, 12, 5
    scan = nibabel.Nifti1Image(noise(), affine)
    cubes = []
    for order in itertools.permutations(range(3)):
        for flips in itertools.product([1, -1], repeat=3):
            turned = scan.as_reoriented(np.column_stack([order, flips]))
            image = nibabel.Nifti1Image(np.asarray(turned.dataobj), None)
            getattr(image, f"set_{form}")(turned.affine, code=1)
            volume = read_volume(nibabel.Nifti1Image.from_bytes(image.to_bytes()))
            cubes.append(map_volume(volume, 16))
            assert volume.stored_orientation == "".join(nibabel.aff2axcodes(turned.affine))
    assert len(cubes) == 48
    np.testing.assert_allclose(cubes, np.broadcast_to(cubes[0], (48, 16, 16, 16)), rtol=0, atol=5e-6)


@pytest.mark.parametrize("size", [16, 45])  # fewer and more voxels than the scan has
@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_the_order_in_memory_changes_nothing_but_rounding(dtype, size):
    data = (100 * noise((40, 33, 21))).astype(dtype)
    expected = resample(data, size)
    assert expected.dtype == np.float32 and expected.flags.c_contiguous
    for order in itertools.permutations(range(3)):
        for step in (1, -1):
            stored = np.ascontiguousarray(data.transpose(order)[::step, :, ::step])
            seen = stored[::step, :, ::step].transpose(np.argsort(order))
            found = resample(seen, size)
            assert found.flags.c_contiguous
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=5e-3)  # of intensities around 10,000


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_a_frame_is_the_part_of_the_scan_that_its_corners_say(order):
    data = np.random.default_rng(5).normal(100, 30, (21, 18, 50)).astype(np.int16)
    seen = np.ascontiguousarray(data.transpose(order)).transpose(np.argsort(order))
    shape = (9, 11, 33)
    frame = Frame((-2.0, 1.0, -9.0), (25.0, 14.0, 55.0), background=-7.0, bottom=3.0)
    points = [np.linspace(*ends, size) for *ends, size in zip(frame.first, frame.last, shape, strict=True)]
    grid = np.stack(np.meshgrid(*points, indexing="ij"))
    expected = ndimage.map_coordinates(data.astype(float), grid, order=1, mode="constant", cval=-7)
    expected[:, :, points[2] < 3] = -7
    np.testing.assert_allclose(resample(seen, shape, frame), expected, rtol=0, atol=1e-3)
    expected = ndimage.zoom(data.astype(float), np.array(shape) / data.shape, order=1)
    np.testing.assert_allclose(resample(seen, shape), expected, rtol=0, atol=1e-3)


def test_a_plane_that_lies_on_the_edge_of_the_scan_but_for_rounding_is_inside():
    """As in `scan_image`: the cube of 16 voxels between voxels 2 and 11, 3 and 10, and so on, of a scan of 20."""
    cube = np.random.default_rng(2).random((16, 16, 16)) + 1
    for first, last in [(2, 11), (3, 10), (3, 16), (5, 14)]:
        ends = [(corner - first) * 15 / (last - first) for corner in (0, 19)]
        on_scan = resample(cube, 20, Frame((ends[0],) * 3, (ends[1],) * 3))
        inside = np.zeros(20, bool)
        inside[first : last + 1] = True
        np.testing.assert_array_equal(on_scan > 0, inside[:, None, None] & inside[:, None] & inside)


def test_resampling_takes_no_second_copy_of_the_scan():
    data = np.random.default_rng(3).integers(0, 200, (200, 40, 1500)).astype(np.uint8)  # S is the fastest axis
    tracemalloc.start()
    try:
        found = resample(data, 16)
        assert tracemalloc.get_traced_memory()[1] < data.nbytes / 2
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(found, resample(np.asfortranarray(data), 16), rtol=0, atol=1e-4)


def test_a_contrast_too_small_for_float32_is_resampled_in_float64():
    data = 1e6 + noise((20, 20, 20)).astype(np.float64)
    cube = resample(data, 16)
    assert cube.dtype == np.float64 and np.ptp(resample(data * 0 + 0.1, 16)) == 0
    np.testing.assert_allclose(cube, ndimage.zoom(data, 16 / 20, order=1), rtol=0, atol=1e-8)


def test_data_and_affine_agree_with_nibabels_closest_canonical():
    affine = np.array([[0, -0.9, 0.1, 4], [0.1, 0.1, -2, 5], [-0.7, 0, 0, 6], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(noise(), affine)
    volume, canonical = read_volume(image), nibabel.as_closest_canonical(image)
    np.testing.assert_array_equal(volume.data, canonical.get_fdata())
    np.testing.assert_allclose(volume.affine, canonical.affine)


def test_the_volume_remembers_what_was_stored(tmp_path):
    path = saved(tmp_path, nibabel.Nifti1Image(noise()[..., None], np.diag([-0.5, -1.0, 2.0, 1.0])))
    volume = read_volume(path)
    assert volume.source == path
    assert volume.stored_shape == (9, 12, 7, 1)
    assert volume.stored_spacing == (0.5, 1.0, 2.0)
    assert volume.stored_orientation == "LPS"


def test_sform_has_priority_over_qform():
    image = nibabel.Nifti1Image(noise(), None)
    image.set_qform(np.diag([-1.0, 1.0, 1.0, 1.0]), code=1)
    image.set_sform(np.diag([1.0, 1.0, 1.0, 1.0]), code=2)
    assert read_volume(image).stored_orientation == "RAS"
    image.set_sform(None, code=0)
    assert read_volume(image).stored_orientation == "LAS"


# ------------------------------------------------------------------------------------------------------ accepted input


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgh", "a.mgz", "a.img", "a.nii.bz2"])
def test_every_format_gives_the_same_voxels(tmp_path, name):
    kind = {".mgh": nibabel.MGHImage, ".mgz": nibabel.MGHImage, ".img": nibabel.Nifti1Pair}
    image = kind.get(Path(name).suffix, nibabel.Nifti1Image)(noise(), SPACING)
    np.testing.assert_array_equal(read_volume(saved(tmp_path, image, name)).data, noise())


def test_nifti2_and_big_endian_are_read(tmp_path):
    path = saved(tmp_path, nibabel.Nifti2Image(noise(), SPACING), "two.nii")
    np.testing.assert_array_equal(read_volume(path).data, noise())
    swapped = nibabel.Nifti1Image(noise(), SPACING, nibabel.Nifti1Header(endianness=">"))
    np.testing.assert_array_equal(read_volume(saved(tmp_path, swapped, "big.nii")).data, noise())


def test_slope_and_intercept_are_applied(tmp_path):
    image = nibabel.Nifti1Image(np.arange(756, dtype=np.int16).reshape(9, 12, 7), SPACING)
    image.header.set_slope_inter(0.25, -10)
    path = tmp_path / "scaled.nii.gz"
    raw = bytearray(image.to_bytes())
    raw[112:120] = struct.pack("<ff", 0.25, -10)  # scl_slope, scl_inter: nibabel would rescale on saving
    raw[352:] = np.arange(756, dtype="<i2").reshape(9, 12, 7).tobytes("F")
    path.write_bytes(gzip.compress(bytes(raw)))
    np.testing.assert_allclose(read_volume(path).data.ravel(), np.arange(756) * 0.25 - 10)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64, bool])
def test_every_real_type_is_accepted(dtype):
    data = (noise() > 100) if dtype is bool else noise().astype(dtype)
    volume = read_volume(data)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(map_volume(volume, 16), reference(data, 16), atol=2e-5)


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: a[None], lambda a: a[..., None], lambda a: a[None, None]])
def test_arrays_and_tensors_are_assumed_ras_with_or_without_a_channel(wrap):
    for source in (wrap(noise()), torch.from_numpy(wrap(noise())).requires_grad_()):
        volume = read_volume(source)
        np.testing.assert_array_equal(volume.data, noise())
        assert volume.affine is None and volume.stored_spacing is None and volume.stored_orientation == "RAS"
    assert read_volume(torch.from_numpy(noise()).bfloat16()).data.dtype == np.float32


def test_the_source_array_is_never_written_to():
    data = noise()
    before = data.copy()
    volume = read_volume(data)
    map_volume(apply_mask(volume, box(data.shape)), 16)
    np.testing.assert_array_equal(data, before)
    np.testing.assert_array_equal(volume.data, before)


def test_nibabels_own_files_are_read_or_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(logging.getLogger("nibabel.global"), "disabled", True)
    taken = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in sorted(NIBABEL_DATA.glob("*.*")):
            try:
                assert read_volume(path).data.ndim == 3
                taken.add(path.name)
            except VolumeError as error:
                assert str(path) in str(error) and str(error).endswith(".") and "\n" not in str(error)
    single_volumes = {"anatomical.nii", "reoriented_anat_moved.nii", "standard.nii.gz", "tiny.mnc", "scaled+tlrc.HEAD"}
    assert single_volumes <= taken
    four_dimensional = {"example4d.nii.gz", "functional.nii", "test.mgz", "minc1_4d.mnc", "example_nifti2.nii.gz"}
    assert not four_dimensional & taken


# ------------------------------------------------------------------------------------------------------ refused input


def refusal(source, *needles):
    with pytest.raises(VolumeError) as caught:
        map_volume(read_volume(source), 16)
    message = str(caught.value)
    for needle in needles:
        assert needle in message, message
    assert message.endswith(".") and "\n" not in message
    assert ": " in message  # what was found: what to do
    return message


def test_missing_files_folders_urls_and_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("not a scan")
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    (tmp_path / "fake.nii.gz").write_text("not gzip")
    refusal(tmp_path / "absent.nii", "absent.nii does not exist")
    refusal(tmp_path, "folder")
    refusal("", "does not exist")
    refusal("https://example.org/scan.nii.gz", "URL", "download")
    refusal(tmp_path / "notes.txt", "notes.txt is not a volume", "dcm2niix")
    refusal(tmp_path / "empty.nii.gz", "Empty file")
    refusal(tmp_path / "fake.nii.gz", "not a gzip file")
    refusal(42, "int")
    refusal(None, "NoneType")


def test_truncated_and_damaged_files(tmp_path):
    for name in ("a.nii", "a.nii.gz", "a.mgz"):
        kind = nibabel.MGHImage if name.endswith("mgz") else nibabel.Nifti1Image
        path = Path(saved(tmp_path, kind(noise(), SPACING), name))
        path.write_bytes(path.read_bytes()[:-300])
        refusal(path, name, "again")


def test_a_flipped_bit_in_compressed_voxels_is_detected(tmp_path):
    path = Path(saved(tmp_path, nibabel.Nifti1Image(noise(), SPACING)))
    stored = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    stored[1500] ^= 1  # level 0 does not compress, so only the checksum can tell
    path.write_bytes(bytes(stored))
    refusal(path, "CRC")


def test_shapes_that_are_not_one_volume(tmp_path):
    for shape in [(9, 12, 7, 2), (9, 12, 7, 1, 3)]:
        refusal(saved(tmp_path, nibabel.Nifti1Image(noise(shape), np.eye(4))), "several frames", str(shape))
    for shape in [(9, 12), (9, 12, 1), (1, 12, 7)]:
        refusal(saved(tmp_path, nibabel.Nifti1Image(noise(shape), np.eye(4))), "not a 3D volume")
    refusal(noise((3, 9, 12, 7)), "several frames")
    refusal(np.zeros((3, 3)), "not a 3D volume")


def test_colour_complex_and_text(tmp_path):
    colour = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    refusal(saved(tmp_path, nibabel.Nifti1Image(colour, np.eye(4))), "colour", "grey-scale")
    refusal(saved(tmp_path, nibabel.Nifti1Image(noise().astype(np.complex64), np.eye(4))), "complex")
    refusal(noise().astype(np.complex64), "complex")
    refusal(np.full((3, 3, 3), "x"), "structured")


def test_voxels_that_are_not_numbers(tmp_path):
    for bad in (np.nan, np.inf, -np.inf):
        data = noise()
        data[3, 4, 5] = bad
        refusal(saved(tmp_path, nibabel.Nifti1Image(data, SPACING)), "1 NaN or infinite")
        refusal(data, "1 NaN or infinite")
    refusal(noise().astype(np.float64) * 1e300, "too large for a scan")


def test_constant_volumes(tmp_path):
    refusal(saved(tmp_path, nibabel.Nifti1Image(np.full((5, 6, 7), 3.0), SPACING)), "constant", "3")
    for brightness in (1, 1e8):
        dot = np.zeros((61, 61, 61), dtype=np.float32)
        dot[1, 1, 1] = brightness  # between the points that are sampled
        refusal(dot, "constant after masking")


def test_the_file_must_state_a_valid_orientation(tmp_path):
    refusal(saved(tmp_path, nibabel.Nifti1Image(noise(), None)), "which side is left", "neither sform nor qform")
    refusal(saved(tmp_path, nibabel.Nifti2Image(noise(), None), "a.nii"), "which side is left")
    refusal(saved(tmp_path, nibabel.AnalyzeImage(noise(), np.eye(4)), "b.img"), "which side is left")
    for column, value in [(0, 0.0), (1, np.nan), (2, np.inf)]:
        affine = np.eye(4)
        affine[column, column] = value
        raw = bytearray(nibabel.Nifti1Image(noise(), np.eye(4)).to_bytes())
        raw[280:328] = affine[:3].astype("<f4").tobytes()  # srow_x, srow_y, srow_z
        (tmp_path / "c.nii").write_bytes(raw)
        refusal(tmp_path / "c.nii", "singular or not finite")


def test_a_header_that_claims_too_much_is_refused_before_anything_is_allocated(tmp_path):
    for dims, needle in [((3, 2000, 2000, 2000), "2000 x 2000 x 2000 voxels, 32 GB"), ((3, 700, 700, 700), "promises")]:
        raw = bytearray(nibabel.Nifti1Image(noise(), np.eye(4)).to_bytes())
        raw[40:48] = np.array(dims, dtype="<i2").tobytes()
        (tmp_path / "a.nii").write_bytes(raw)
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))
        refusal(tmp_path / "a.nii", needle)
        refusal(tmp_path / "a.nii.gz", needle)


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_no_file_stays_open(tmp_path):
    good = saved(tmp_path, nibabel.Nifti1Image(noise(), SPACING))
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(Path(good).read_bytes()[:-100])
    open_before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    for _ in range(3):
        read_volume(good)
        with pytest.raises(VolumeError):
            read_volume(cut)
    gc.collect()
    if open_before:
        assert len(list(Path("/proc/self/fd").iterdir())) <= open_before

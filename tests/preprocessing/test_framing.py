"""The frame around a head, on ellipsoids whose place is known, compared with scipy."""

import itertools
import sys
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from preprocessing import GloResNetImageProcessor, VolumeError, VolumeWarning, frame_head, map_volume, read_volume
from preprocessing.framing_gloresnet import FRAME_MM, find_head
from preprocessing.resampling_gloresnet import Frame, resample, whole_grid

HALF_AXES = np.array([46.0, 58.0, 44.0])  # mm, with scalp
SPACING = np.array([2.0, 2.5, 1.7])


class Scene(NamedTuple):
    """A head in a field of view: distances in mm from its centre to the faces."""

    below: tuple = (60.0, 75.0, 70.0)
    above: tuple = (65.0, 70.0, 55.0)
    neck: bool = True
    skull: bool = True
    noise: float = 15.0
    rotation: tuple = (0, 0, 0)
    spacing: np.ndarray = SPACING


PLAIN = Scene()


def head(scene: Scene = PLAIN) -> nibabel.Nifti1Image:
    """A bright scalp, a dark skull and a brain with a lesion in its right half; world 0 is the centre of the head."""
    axes = [
        np.arange(-low, high, step) for low, high, step in zip(scene.below, scene.above, scene.spacing, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    own = points @ Rotation.from_euler("xyz", scene.rotation, degrees=True).as_matrix()
    radius = np.linalg.norm(own / HALF_AXES, axis=-1)
    data = np.zeros(radius.shape)
    if scene.skull:
        if scene.neck:
            data[(np.hypot(own[..., 0] / 25, (own[..., 1] + 9) / 29) < 1) & (own[..., 2] < 0)] = 150
        data[radius < 1] = 300
        data[radius < 0.96] = 60
    data[radius < 0.91] = 320 + 40 * np.sin(own[radius < 0.91] / 9).sum(axis=-1)
    data[np.linalg.norm(own - (20, 12, 6), axis=-1) < 9] = 650
    data = ndimage.gaussian_filter(data, 0.8 / scene.spacing)
    if scene.skull:
        rng = np.random.default_rng(0)
        data = np.hypot(data + rng.normal(0, scene.noise, data.shape), rng.normal(0, scene.noise, data.shape))
    affine = np.diag([*scene.spacing, 1.0])
    affine[:3, 3] = [axis[0] for axis in axes]
    return nibabel.Nifti1Image(data.astype(np.float32), affine)


def place(image):
    """The centre of the frame in mm, and the warnings."""
    volume = frame_head(read_volume(image))
    middle = (np.array(volume.frame.first) + volume.frame.last) / 2
    return nibabel.affines.apply_affine(volume.affine, middle), volume.warnings


def cut(image, share, axis=2, end=0):
    """The image without a share of the head's extent along an axis, at its lower (0) or upper (1) end."""
    edge = (-1, 1)[end] * HALF_AXES[axis] * (1 - 2 * share)
    index = int(round((edge - image.affine[axis, 3]) / image.affine[axis, axis]))
    keep = slice(index, None) if end == 0 else slice(None, index + 1)
    return image.slicer[tuple(keep if k == axis else slice(None) for k in range(3))]


# --------------------------------------------------------------------------------------------------------- resampling


def test_a_frame_reads_the_same_points_as_scipy():
    data = np.random.default_rng(0).normal(100, 20, (21, 30, 17)).astype(np.float32)
    frame = Frame((-3.3, 2.25, 0.5), (24.1, 40.0, 12.0), background=-7.0)
    cube = resample(data, 16, frame)
    points = np.meshgrid(*(np.linspace(a, b, 16) for a, b in zip(frame.first, frame.last, strict=True)), indexing="ij")
    expected = ndimage.map_coordinates(data, points, order=1, mode="constant", cval=-7.0)
    inside = np.all([(p >= 0) & (p <= n - 1) for p, n in zip(points, data.shape, strict=True)], axis=0)
    np.testing.assert_allclose(cube[inside], expected[inside], atol=1e-3)
    assert (cube[~inside] == -7).all() and 0 < inside.mean() < 1
    below = points[2] < 4.2
    expected = np.where(below, -7, cube)
    np.testing.assert_array_equal(resample(data, 16, frame._replace(bottom=4.2)), expected)


def test_the_frame_of_the_whole_grid_changes_no_bit():
    data = np.random.default_rng(1).normal(100, 20, (21, 30, 17)).astype(np.float32)
    for size in (16, 45):
        np.testing.assert_array_equal(resample(data, size, whole_grid(data.shape)), resample(data, size))


# -------------------------------------------------------------------------------------------------------------- place


def test_the_head_is_in_the_middle_and_its_top_a_fifth_below_the_upper_face():
    image = head()
    volume = frame_head(read_volume(image))
    assert volume.warnings == ()
    first, last = (nibabel.affines.apply_affine(volume.affine, end) for end in volume.frame[:2])
    np.testing.assert_allclose(last - first, FRAME_MM)
    np.testing.assert_allclose((first + last)[:2] / 2, 0, atol=1)
    assert abs(last[2] - 0.2 * FRAME_MM - HALF_AXES[2]) < 2
    assert 5 < volume.frame.background < 30  # noise of SD 15


@pytest.mark.parametrize(
    "scene",
    [
        Scene(below=(60, 75, 95)),  # more neck
        Scene(below=(60, 75, 47)),  # hardly any
        Scene(below=(90, 80, 70), above=(50, 110, 90)),  # more air, another place
        Scene(below=(60, 75, 80), above=(65, 70, 47)),  # higher in the field
        Scene(noise=40),
        Scene(spacing=np.array([2.0, 2.5, 5.0])),  # thick slices
    ],
    ids=["more neck", "less neck", "air", "higher", "noise", "thick"],
)
def test_the_frame_follows_the_head_and_not_the_field_of_view(scene):
    at, warnings = place(head(scene))
    np.testing.assert_allclose(at, place(head())[0], atol=1.0)
    assert warnings == ()


def test_the_cube_hardly_depends_on_the_field_of_view():
    processor = GloResNetImageProcessor(image_size=32, framing="head")
    cubes = [
        processor(head(scene), return_tensors="np").pixel_values[0, 0]
        for scene in (Scene(), Scene(below=(80, 60, 70), above=(49, 100, 70)))
    ]
    assert np.corrcoef(cubes[0].ravel(), cubes[1].ravel())[0, 1] > 0.98
    field = [GloResNetImageProcessor(image_size=32)(head(s), return_tensors="np").pixel_values[0, 0].ravel()
             for s in (Scene(), Scene(below=(80, 60, 70), above=(49, 100, 70)))]  # fmt: skip
    assert np.corrcoef(*field)[0, 1] < 0.8


def test_the_length_of_the_neck_does_not_change_the_cube():
    processor = GloResNetImageProcessor(image_size=64, framing="head")
    cubes = [
        processor(head(Scene(below=(60, 75, below), noise=1)), return_tensors="np").pixel_values[0, 0]
        for below in (60, 70, 95)
    ]
    for cube in (cubes[0], cubes[2]):
        assert np.abs(cube - cubes[1]).mean() < 0.02
        assert cube.min() == pytest.approx(cubes[1].min(), abs=0.002)  # the air: mean and SD are the same
    # the head is 88 mm high, so 15 mm below it are 17 mm above the lower face; the cube has 63 steps of 2.38 mm
    rows = cubes[2].max(axis=(0, 1)) > cubes[2].min() + 0.5
    assert abs(int(np.flatnonzero(rows)[0]) * 150 / 63 - 17) < 4


@pytest.mark.parametrize("angles", [(15, 0, 0), (-15, 0, 0), (0, 15, 0), (8, -8, 10)])
def test_a_tilted_head_stays_in_the_middle(angles):
    at, warnings = place(head(Scene(rotation=angles)))
    np.testing.assert_allclose(at, place(head())[0], atol=3)
    assert warnings == ()


def shoulders(data, points):
    data[(np.hypot(points[0] / 90, points[1] / 45) < 1) & (points[2] < -62)] = 280


def ghost(data, points):
    data += 0.12 * np.roll(data, 18, axis=1)


def face_removed(data, points):
    data[(points[1] > 30) & (points[2] < -15)] = 0


def bias(data, points):
    data *= np.exp((points[0] / 60 + points[1] / 70 + points[2] / 60) / 6)


@pytest.mark.parametrize("spoil, within", [(shoulders, 1), (ghost, 1.5), (face_removed, 2), (bias, 1)])
def test_shoulders_ghosts_defacing_and_bias_do_not_move_the_frame(spoil, within):
    image = head(Scene(below=(95, 75, 80), above=(95, 70, 55)))
    points = np.moveaxis(nibabel.affines.apply_affine(image.affine, np.moveaxis(np.indices(image.shape), 0, -1)), -1, 0)
    data = image.get_fdata(dtype=np.float32).copy()
    spoil(data, points)
    at, warnings = place(nibabel.Nifti1Image(data, image.affine))
    np.testing.assert_allclose(at, place(image)[0], atol=within)
    assert warnings == ()


def test_a_stripped_brain_is_framed_as_well():
    at, warnings = place(head(Scene(skull=False)))
    np.testing.assert_allclose(at[:2], 0, atol=1)
    assert warnings == () and frame_head(read_volume(head(Scene(skull=False)))).frame.background == 0


# --------------------------------------------------------------------------------------------- orientation and mirror


def test_every_axis_order_of_one_scan_gives_the_same_bits():
    image, cubes = head(), []
    for order in itertools.permutations(range(3)):
        for flips in itertools.product([1, -1], repeat=3):
            turned = image.as_reoriented(np.column_stack([order, flips]))
            cubes.append(map_volume(frame_head(read_volume(turned)), 16))
    assert len(cubes) == 48 and all(np.array_equal(cube, cubes[0]) for cube in cubes)


def test_a_mirrored_scan_gives_the_mirrored_cube():
    image = head(Scene(rotation=(5, 4, -6)))
    mirrored = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32)[::-1], image.affine)
    cubes = [map_volume(frame_head(read_volume(each)), 24) for each in (image, mirrored)]
    np.testing.assert_allclose(cubes[1], cubes[0][::-1], atol=1e-3)
    assert np.abs(cubes[0] - cubes[0][::-1]).max() > 1  # the lesion is on one side


# ------------------------------------------------------------------------------------------------------------ missing


@pytest.mark.parametrize("axis, end, side", [(2, 0, "bottom"), (2, 1, "top"), (0, 0, "left"), (1, 1, "front")])
def test_a_cut_head_gets_a_warning_and_then_a_refusal(axis, end, side):
    image = head()
    at, warnings = place(cut(image, 0.1, axis, end))
    assert len(warnings) == 1 and f"edge of the scan at the {side}" in warnings[0]
    share = float(warnings[0].split("about ")[1].split(" %")[0])
    assert 6 <= share <= 15
    np.testing.assert_allclose(at, place(image)[0], atol=3)  # the frame is where the whole head would be
    with pytest.raises(VolumeError, match=f"the scan shows too little of the head: about 2. % .* at the {side}"):
        place(cut(image, 0.25, axis, end))


def test_padding_with_air_does_not_hide_a_cut():
    lower = cut(head(), 0.25)
    data = np.pad(lower.get_fdata(dtype=np.float32), ((0, 0), (0, 0), (20, 0)))
    with pytest.raises(VolumeError, match="at the bottom"):
        place(nibabel.Nifti1Image(data, lower.affine))


def test_a_head_that_leaves_the_frame_is_named():
    volume = read_volume(head())
    assert any("leaves the frame at the back" in sentence for sentence in frame_head(volume, 100).warnings)
    with pytest.raises(VolumeError, match="is missing at the .* of a frame of 70 mm"):
        frame_head(volume, 70)


@pytest.mark.parametrize("scale", [0.2, 4.0])
def test_what_has_not_the_size_of_a_head_is_refused(scale):
    image = head()
    affine = image.affine @ np.diag([scale, scale, scale, 1])
    with pytest.raises(VolumeError, match="shows no complete head that could be framed"):
        place(nibabel.Nifti1Image(image.get_fdata(), affine))


def test_noise_without_a_head_is_refused():
    with pytest.raises(VolumeError):
        place(nibabel.Nifti1Image(np.random.default_rng(0).normal(100, 20, (60, 60, 60)), np.diag([2, 2, 2, 1.0])))


# ---------------------------------------------------------------------------------------------------------- processor


def test_an_array_without_an_affine_cannot_be_framed():
    with pytest.raises(VolumeError, match="image is an array without an affine, .*Nifti1Image"):
        GloResNetImageProcessor(image_size=16, framing="head")(head().get_fdata())


def test_framing_alone_needs_scipy(monkeypatch):
    image = head()
    monkeypatch.setitem(sys.modules, "scipy", None)
    GloResNetImageProcessor(image_size=16)(image)
    with pytest.raises(VolumeError, match="cannot be framed without scipy: run pip install scipy"):
        GloResNetImageProcessor(image_size=16, framing="head")(image)


def test_the_processor_warns_and_keeps_its_setting(tmp_path):
    processor = GloResNetImageProcessor(image_size=16, framing="head", frame_mm=160)
    processor.save_pretrained(tmp_path)
    again = GloResNetImageProcessor.from_pretrained(tmp_path)
    assert (again.framing, again.frame_mm) == ("head", 160)
    with pytest.warns(VolumeWarning, match="touches the edge of the scan at the bottom"):
        cube = again(cut(head(), 0.1), return_tensors="np").pixel_values[0, 0]
    with pytest.warns(VolumeWarning):
        np.testing.assert_array_equal(cube, processor(cut(head(), 0.1), return_tensors="np").pixel_values[0, 0])


def test_a_folder_from_before_this_setting_uses_the_field_of_view():
    processor = GloResNetImageProcessor.from_dict({"image_size": 16, "eps": 1e-6, "brain_mask": "none"})
    assert processor.framing == "field_of_view"
    image = head()
    np.testing.assert_array_equal(
        processor(image, return_tensors="np").pixel_values[0, 0], map_volume(read_volume(image), 16)
    )


@pytest.mark.parametrize("settings", [{"framing": "brain"}, {"frame_mm": 0}, {"frame_mm": "150"}, {"frame_mm": True}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        GloResNetImageProcessor(**settings)


def test_a_mask_is_applied_before_the_head_is_found():
    image = head()
    brain = (head(Scene(skull=False)).get_fdata() > 100).astype(np.uint8)
    processor = GloResNetImageProcessor(image_size=16, framing="head", brain_mask="required")
    cube = processor(image, mask=nibabel.Nifti1Image(brain, image.affine), return_tensors="np").pixel_values[0, 0]
    masked = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) * brain, image.affine)
    np.testing.assert_array_equal(cube, map_volume(frame_head(read_volume(masked)), 16))


def test_finding_a_head_is_symmetric_to_a_voxel_fraction():
    data = head().get_fdata(dtype=np.float32)
    one, other = find_head(data, SPACING), find_head(np.ascontiguousarray(data[::-1]), SPACING)
    np.testing.assert_allclose(one.low[0], len(data) - 1 - other.high[0], atol=1e-3)
    np.testing.assert_allclose(one.high[1:], other.high[1:], atol=1e-3)

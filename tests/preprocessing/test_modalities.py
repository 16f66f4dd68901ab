"""Further modalities on the cube of the T2w scan: one interpolation from their own grid, or one sentence."""

import json

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from preprocessing import GloResNetImageProcessor, VolumeError, VolumeWarning, map_modalities, read_volume

ALL = ["T2w", "T1w", "FA", "MD"]
T2W_AFFINE = np.array([[-1.6, 0, 0, 31], [0, 1.5, 0, -25], [0, 0, 1.7, 9], [0, 0, 0, 1.0]])
MIDDLE = np.array([3.0, -2.0, 36.0])  # mm


def turned(degrees=(8, -5, 11), spacing=(2.1, 2.3, 1.9), start=(-37.0, -34.0, 1.0)):
    """An oblique affine, as a rigid transform of another grid gives."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn, (a, b) = np.eye(3), {0, 1, 2} - {axis}
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return nibabel.affines.from_matvec(matrix @ np.diag(spacing), start)


def head(affine, shape, seed=0, contrast=(100.0, 40.0), radii=(23, 27, 20), noise=2.0):
    """A head on a grid of this affine and shape: bright, with a dark spot at its right front, on a dark background."""
    places = nibabel.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)) - MIDDLE
    data = np.where(np.linalg.norm(places / radii, axis=-1) < 1, contrast[0], 0.0)
    data[np.linalg.norm(places - [12, 9, 3], axis=-1) < 8] = contrast[1]
    data = ndimage.gaussian_filter(data, 0.7) + noise * np.random.default_rng(seed).random(shape)
    return nibabel.Nifti1Image(data.astype(np.float32), affine)


@pytest.fixture(scope="module")
def t2w():
    return head(T2W_AFFINE, (36, 38, 34))


@pytest.fixture(scope="module")
def t1w():
    return head(turned(), (32, 29, 35), seed=1, contrast=(60.0, 90.0))


def by_hand(image, corners, size):
    """The image at the voxels of a cube between two corners (mm), by scipy, and which of them lie in its grid."""
    first, last = corners
    lines = [np.linspace(a, b, size) for a, b in zip(first, last, strict=True)]
    world = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
    at = np.moveaxis(nibabel.affines.apply_affine(np.linalg.inv(image.affine), world), -1, 0)
    known = np.all([(a >= 0) & (a <= n - 1) for a, n in zip(at, image.shape, strict=True)], axis=0)
    return ndimage.map_coordinates(image.get_fdata(), at, order=1, mode="nearest"), known


def corners_of(image):
    """The RAS corners of a grid whose axes are parallel to those of the world, in mm."""
    ends = nibabel.affines.apply_affine(image.affine, [[0, 0, 0], np.array(image.shape) - 1])
    return ends.min(axis=0), ends.max(axis=0)


def standardised(values):
    return (values - values.mean()) / values.std()


def border(image):
    """What fills the cube outside the grid of an image: the median of its outermost voxels."""
    faces = [np.moveaxis(image.get_fdata(), axis, 0)[place].ravel() for axis in range(3) for place in (0, -1)]
    return np.median(np.concatenate(faces))


def test_each_channel_is_read_once_from_its_own_grid(t2w, t1w):
    processor = GloResNetImageProcessor(image_size=32, modalities=["T2w", "T1w"])
    found = processor({"T2w": t2w, "T1w": t1w}, return_tensors="np")
    assert found["presence"].tolist() == [[True, True]] and found["pixel_values"].shape == (1, 2, 32, 32, 32)
    alone = GloResNetImageProcessor(image_size=32)(t2w, return_tensors="np")
    np.testing.assert_array_equal(found["pixel_values"][:, :1], alone["pixel_values"])
    expected, known = by_hand(t1w, corners_of(t2w), 32)
    expected[~known] = border(t1w)
    assert 0.02 < np.mean(~known) < 0.6
    np.testing.assert_allclose(found["pixel_values"][0, 1], standardised(expected), atol=1e-4)


def test_an_image_on_the_grid_of_the_scan_is_mapped_as_the_scan(t2w):
    processor = GloResNetImageProcessor(image_size=24, modalities=["T2w", "FA"])
    channels = processor({"T2w": t2w, "FA": t2w}, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(channels[1], channels[0], atol=2e-5)
    arrays = {"T2w": read_volume(t2w).data, "FA": read_volume(t2w).data}
    np.testing.assert_allclose(processor(arrays, return_tensors="np")["pixel_values"][0], channels, atol=1e-6)


def test_the_head_frame_of_the_scan_holds_for_every_channel(t1w):
    t2w = head(np.diag([1.6, 1.5, 1.7, 1.0]) + np.outer([-35, -40, -8, 0], [0, 0, 0, 1]), (48, 52, 42))
    processor = GloResNetImageProcessor(image_size=24, framing="head", frame_mm=100, modalities=["T2w", "T1w"])
    volume = processor.frame(read_volume(t2w))
    frame = volume.frame
    channels = processor({"T2w": t2w, "T1w": t1w}, return_tensors="np")["pixel_values"][0]
    corners = [nibabel.affines.apply_affine(volume.affine, end) for end in (frame.first, frame.last)]
    expected, known = by_hand(t1w, corners, 24)
    blank = np.linspace(frame.first[2], frame.last[2], 24) < frame.bottom
    assert 1 < blank.sum() < 12
    known[:, :, blank] = False
    expected[~known] = border(t1w)
    np.testing.assert_allclose(channels[1], standardised(expected), atol=1e-4)


def test_the_mask_of_the_scan_masks_every_channel(t2w, t1w):
    inside = t2w.get_fdata() > 30
    mask = nibabel.Nifti1Image(inside.astype(np.uint8), t2w.affine)
    processor = GloResNetImageProcessor(image_size=32, brain_mask="required", modalities=["T2w", "T1w"])
    channels = processor({"T2w": t2w, "T1w": t1w}, mask=mask, return_tensors="np")["pixel_values"][0]
    centres = nibabel.affines.apply_affine(
        np.linalg.inv(t2w.affine) @ t1w.affine, np.moveaxis(np.indices(t1w.shape), 0, -1)
    )
    nearest = ndimage.map_coordinates(inside.astype(float), np.moveaxis(np.rint(centres), -1, 0), order=0)
    expected, known = by_hand(nibabel.Nifti1Image(t1w.get_fdata() * nearest, t1w.affine), corners_of(t2w), 32)
    np.testing.assert_allclose(channels[1], standardised(expected * known), atol=1e-4)


@pytest.mark.parametrize("unit", [1.0, 1e-9])
def test_the_unit_of_a_map_does_not_matter(t2w, t1w, unit):
    processor = GloResNetImageProcessor(image_size=16, modalities=["T2w", "MD"])
    diffusivity = nibabel.Nifti1Image((t1w.get_fdata() * 1e-5).astype(np.float64), t1w.affine)  # mm2/s
    other = nibabel.Nifti1Image(diffusivity.get_fdata() * unit * 1e3, t1w.affine)
    each = [processor({"T2w": t2w, "MD": image}, return_tensors="np")["pixel_values"] for image in (diffusivity, other)]
    np.testing.assert_allclose(*each, atol=1e-5)
    assert abs(each[0][0, 1].std() - 1) < 1e-4


def test_missing_modalities_are_zeros_and_named(t2w, t1w):
    processor = GloResNetImageProcessor(image_size=16, modalities=ALL)
    with pytest.warns(VolumeWarning, match="the image: The scan has no T1w, FA or MD: the answer rests on T2w alone"):
        alone = processor(t2w, return_tensors="pt")
    assert alone["presence"].tolist() == [[True, False, False, False]] and not alone["pixel_values"][:, 1:].any()
    with pytest.warns(VolumeWarning, match="image 1: The scan has no T1w or FA: the answer rests on T2w and MD alone"):
        both = processor([{"T2w": t2w, **dict.fromkeys(ALL[1:], t1w)}, {"T2w": t2w, "FA": None, "MD": t1w}])
    assert [row.tolist() for row in both["presence"]] == [[True] * 4, [True, False, False, True]]
    np.testing.assert_array_equal(both["pixel_values"][1][3], both["pixel_values"][0][1])


def moved(image, shift=(0, 0, 0)):
    return nibabel.Nifti1Image(image.dataobj, nibabel.affines.from_matvec(np.eye(3), shift) @ image.affine)


def mirrored(image, axis=0):
    """The voxels of an image in the wrong order along an axis, as a wrong sign in a transform gives."""
    return nibabel.Nifti1Image(np.flip(image.get_fdata(), axis), image.affine)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (lambda t2w, t1w: {"T1w": t1w}, "the image has no T2w scan, only T1w: give T2w too"),
        (lambda t2w, t1w: {"T2w": t2w, "MD": t1w}, "modality 'MD', but this model takes T2w, T1w: leave it out"),
        (lambda t2w, t1w: {"T2w": t2w, "T1w": moved(t1w, (200, 0, 0))}, "the T1w image covers 0 % of the head"),
        (lambda t2w, t1w: {"T2w": t2w, "T1w": moved(t1w, (0, 40, 0))}, "the T1w image .* of the head .* transform"),
        (lambda t2w, t1w: {"T2w": t2w, "T1w": mirrored(t1w)}, "the T1w image fits the image better .* left to right"),
        (
            lambda t2w, t1w: {"T2w": t2w, "T1w": mirrored(t1w, 1)},
            "the T1w image fits the image better .* back to front",
        ),
        (lambda t2w, t1w: {"T2w": t2w, "T1w": t1w.get_fdata()}, "the T1w image is an array without an affine"),
        (lambda t2w, t1w: {"T2w": t2w.get_fdata(), "T1w": t1w}, "because the image is an array without an affine"),
        (lambda t2w, t1w: {"T2w": t2w, "T1w": np.ones((5, 5, 5))}, "the T1w image is constant"),
    ],
)
def test_images_that_cannot_be_right_are_refused(t2w, t1w, images, message):
    processor = GloResNetImageProcessor(image_size=32, modalities=["T2w", "T1w"])
    with pytest.raises(VolumeError, match=message):
        processor(images(t2w, t1w))


def test_the_array_function_needs_no_torch(t2w, t1w):
    channels = map_modalities(read_volume(t2w), {"MD": t1w}, ["T2w", "FA", "MD"], image_size=16)
    assert channels.pixel_values.shape == (3, 16, 16, 16) and channels.pixel_values.dtype == np.float32
    assert channels.presence.tolist() == [True, False, True]
    assert channels.warnings[0] == "The scan has no FA: the answer rests on T2w and MD alone."


def test_the_setting_is_checked_and_saved_only_if_there_are_several(tmp_path):
    for wrong in (["T1w"], [], ["T2w", "T2w"], ["T2w", "PD"], "T1w", ["T1w", "T2w"]):
        with pytest.raises(ValueError, match="give T2w, then any of T1w, FA, MD, each once"):
            GloResNetImageProcessor(modalities=wrong)
    GloResNetImageProcessor().save_pretrained(tmp_path / "one")
    assert "modalities" not in json.loads((tmp_path / "one" / "preprocessor_config.json").read_text())
    GloResNetImageProcessor(modalities=ALL).save_pretrained(tmp_path / "four")
    assert GloResNetImageProcessor.from_pretrained(tmp_path / "four").modalities == ALL
    assert GloResNetImageProcessor.from_pretrained(tmp_path / "one").modalities == ["T2w"]

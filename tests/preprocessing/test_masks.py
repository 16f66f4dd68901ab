"""Which masks are accepted, and which voxels they select."""

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from preprocessing import GloResNetImageProcessor, VolumeError, VolumeWarning, apply_mask, map_volume, read_volume

SHAPE = (40, 48, 36)
SPACING = np.diag([0.5, 1.0, 2.0, 1.0])


def ellipsoid(shape=SHAPE, share=0.6):
    """A brain that reaches from the middle to `share` of the way to the faces."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return sum(axis**2 for axis in axes) <= share**2


BRAIN = ellipsoid()
VOLUME = read_volume(np.random.default_rng(0).gamma(2, 90, SHAPE).astype(np.float32), "the scan")


def refusal(mask, *needles):
    with pytest.raises(VolumeError) as caught:
        apply_mask(VOLUME, mask)
    message = str(caught.value)
    assert message.startswith("the mask ") and message.endswith(".") and "\n" not in message and ": " in message
    assert all(needle in message for needle in needles), message


@pytest.mark.parametrize(
    "mask",
    [
        BRAIN,
        BRAIN * 1,
        BRAIN * np.uint8(255),
        BRAIN * 1.0,
        BRAIN * 7.5,
        BRAIN * np.float32(0.9999999),
        BRAIN * 1.0000001,
    ],
)
def test_two_values_0_and_a_positive_one(mask):
    masked = apply_mask(VOLUME, mask)
    np.testing.assert_array_equal(masked.data, np.where(BRAIN, VOLUME.data, 0))
    assert masked.warnings == ()


def test_a_mask_of_another_orientation_is_turned_to_the_scan():
    brain = BRAIN.astype(np.uint8)
    brain[:20] = 0
    turned = nibabel.Nifti1Image(brain, SPACING).as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    volume = read_volume(nibabel.Nifti1Image(VOLUME.data, SPACING))
    masked = apply_mask(volume, turned)
    np.testing.assert_array_equal(masked.data, VOLUME.data * brain)
    zoomed = ndimage.zoom(VOLUME.data.astype(np.float64) * brain, [20 / n for n in SHAPE], order=1)
    expected = (zoomed - zoomed.mean()) / (zoomed.std() + 1e-6)
    np.testing.assert_allclose(map_volume(masked, 20), expected, atol=2e-4)


@pytest.mark.parametrize("floor", [0, 1e-6])
def test_probabilities_are_cut_at_one_half_and_said(floor):
    probabilities = np.clip(ndimage.gaussian_filter(BRAIN.astype(np.float64), 2), floor, 1)
    masked = apply_mask(VOLUME, probabilities)
    np.testing.assert_array_equal(masked.data, np.where(probabilities >= 0.5, VOLUME.data, 0))
    assert 0.9 < np.count_nonzero(masked.data) / BRAIN.sum() < 1.1
    (sentence,) = masked.warnings
    assert sentence.startswith("Brain mask: ") and "at least 0.5" in sentence


def test_soft_values_on_two_levels_are_probabilities():
    soft = np.where(BRAIN, 0.9, 0.2)
    masked = apply_mask(VOLUME, soft)
    np.testing.assert_array_equal(masked.data, np.where(BRAIN, VOLUME.data, 0))
    assert masked.warnings


def test_other_values_are_refused():
    distance = ndimage.distance_transform_edt(BRAIN) - ndimage.distance_transform_edt(~BRAIN)
    refusal(distance, "negative values", "signed distances")
    refusal(-1.0 * BRAIN, "negative")
    refusal(np.maximum(distance, 0), "different values")
    refusal(np.where(BRAIN, 3, 2), "2 different values from 2 to 3")
    refusal(ndimage.gaussian_filter(BRAIN * np.float32(255), 2).round(), "different values from 0 to 255")
    labels = BRAIN * np.arange(36) % 10
    refusal(labels, "10 different values from 0 to 9", "1 in the brain and 0 elsewhere")


def test_masks_of_nothing_or_everything_are_refused():
    refusal(BRAIN * 0, "empty mask")
    refusal(BRAIN * 0.4, "nearly empty")
    speck = np.zeros(SHAPE, bool)
    speck[20:25, 20:25, 18] = True
    refusal(speck, "nearly empty mask, 0.036 %")
    for value in (1, 255, 0.7, 1e-6):
        refusal(np.full(SHAPE, value), "covers the whole volume")
    nearly = np.ones(SHAPE, bool)
    nearly[3:6, 3:6, 3:6] = False
    refusal(nearly, "of the border", "inverted")
    padded = np.zeros(SHAPE, bool)
    padded[1:-1, 1:-1, 1:-1] = True
    refusal(padded, "of the volume, more than a brain")


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_inverted_masks_are_refused(share):
    """Also of a brain that touches all faces, as after cropping, whose mask is accepted."""
    brain = ellipsoid(share=share)
    assert apply_mask(VOLUME, brain).data.any()
    refusal(~brain, "inverted")
    refusal(255 * ~brain, "inverted")
    refusal(1.0 - ndimage.gaussian_filter(brain.astype(float), 1), "inverted")


def test_the_head_without_the_brain_is_refused():
    head = ellipsoid(share=0.9)
    refusal(head & ~ellipsoid(share=0.75), "surrounds a hole", "inverted")
    ventricles = ellipsoid(share=0.4)
    assert apply_mask(VOLUME, head & ~ventricles).data.any()


def test_a_small_brain_in_a_large_field_of_view_is_accepted():
    """60 mL, the brain at about 24 weeks, in a field of view of 256 mm."""
    brain = ellipsoid((64, 64, 64), share=2 * (3 * 60 / (4 * np.pi)) ** (1 / 3) / 25.6)
    assert 50 < np.count_nonzero(brain) * 0.4**3 < 70
    volume = read_volume(np.random.default_rng(0).gamma(2, 90, brain.shape))
    assert apply_mask(volume, brain).data.any()


def test_masks_that_do_not_fit(tmp_path):
    volume = read_volume(nibabel.Nifti1Image(VOLUME.data, SPACING))
    brain = BRAIN.astype(np.uint8)
    shifted, nearly = SPACING.copy(), SPACING.copy()
    shifted[0, 3], nearly[0, 3] = 0.4, 0.01
    with pytest.raises(VolumeError, match="own grid"):
        apply_mask(volume, brain[:-1])
    with pytest.raises(VolumeError, match="by up to 0.8 voxels"):
        apply_mask(volume, nibabel.Nifti1Image(brain, shifted))
    with pytest.raises(VolumeError, match="does not exist"):
        apply_mask(volume, tmp_path / "no.nii")
    assert apply_mask(volume, nibabel.Nifti1Image(brain, nearly)).data.any()


def test_the_processor_warns(tmp_path):
    processor = GloResNetImageProcessor(image_size=16, brain_mask="required")
    expected = processor(VOLUME.data, mask=BRAIN, return_tensors="pt").pixel_values
    with pytest.warns(VolumeWarning, match="the image: Brain mask: .* at least 0.5"):
        found = processor(VOLUME.data, mask=torch.from_numpy(BRAIN * 0.8 + 0.1), return_tensors="pt").pixel_values
    assert torch.equal(found, expected)
    with pytest.raises(VolumeError, match="mask 1 .*inverted"):
        processor([VOLUME.data] * 2, mask=[BRAIN, ~BRAIN])

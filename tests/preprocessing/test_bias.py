"""The bias correction, on a phantom head times a field that is known."""

import sys

import nibabel
import numpy as np
import pytest

from preprocessing import GloResNetImageProcessor, VolumeError, correct_bias, map_volume, read_volume
from preprocessing.bias_gloresnet import log_bias_field
from preprocessing.volume_gloresnet import Volume

sitk = pytest.importorskip("SimpleITK")  # requirements-hospital.txt

SHAPE, SPACING = (56, 64, 52), (2.0, 2.0, 2.0)


def places():
    """The coordinates of each voxel, from -1 to 1 along each axis, and its distance from the centre of the head."""
    points = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    return points, np.sqrt((points**2).sum(axis=0))


POINTS, RADIUS = places()
HEAD = RADIUS < 0.8
BRAIN = RADIUS < 0.65
LOG_FIELD = 0.35 * POINTS[0] + 0.25 * POINTS[1] ** 2 - 0.2 * POINTS[2]  # a factor of 0.6 to 1.8 inside the head


def head() -> np.ndarray:
    """Air, scalp, a dark skull, and tissue of two intensities in small pieces, with noise."""
    rng = np.random.default_rng(0)
    data = np.zeros(SHAPE)
    data[HEAD], data[RADIUS < 0.75] = 300, 100
    pieces = np.kron(rng.integers(0, 2, (8, 8, 8)), np.ones((8, 8, 8)))[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    data[BRAIN] = (250 + 250 * pieces)[BRAIN]
    return np.abs(data + rng.normal(0, 8, SHAPE)).astype(np.float32)


def image(data, spacing=SPACING):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -np.array(SHAPE) * spacing / 2
    return nibabel.Nifti1Image(data.astype(np.float32), affine)


def residual(corrected, clean, inside) -> float:
    """The standard deviation of the logarithm of the field that is left inside a region."""
    return float(np.std(np.log(corrected[inside] / clean[inside])))


@pytest.fixture(scope="module")
def biased():
    return image(head() * np.exp(LOG_FIELD))


@pytest.fixture(scope="module")
def corrected(biased):
    return correct_bias(read_volume(biased))


def test_most_of_a_known_field_is_removed_inside_the_head(biased, corrected):
    before, after = (residual(data, head(), HEAD & (head() > 30)) for data in (biased.get_fdata(), corrected.data))
    assert before > 0.14
    assert after < 0.2 * before
    assert corrected.data.dtype == np.float32 and corrected.bias_corrected and corrected.warnings == ()


def test_the_same_as_simpleitk_asked_directly(biased, corrected):
    whole = sitk.GetImageFromArray(np.ascontiguousarray(biased.get_fdata(dtype=np.float32).T))
    coarse = sitk.Shrink(whole, [3, 4, 3])  # so that 16 voxels remain along each axis
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.Execute(coarse, sitk.OtsuThreshold(coarse, 0, 1))
    field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(whole)).T)
    np.testing.assert_allclose(
        corrected.data, biased.get_fdata() / field, rtol=1e-3
    )  # several threads round differently


def test_two_orientations_of_one_scan_and_any_number_of_threads_give_the_same_bits(biased, corrected):
    turned = biased.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(5)
    try:
        np.testing.assert_array_equal(correct_bias(read_volume(turned)).data, corrected.data)
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 5  # left as it was
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def test_a_brain_mask_is_that_of_n4(biased):
    data = np.where(BRAIN, biased.get_fdata(), 0)
    processor = GloResNetImageProcessor(image_size=32, brain_mask="required", bias_correction="n4")
    found = processor(biased, mask=image(BRAIN), return_tensors="np").pixel_values[0, 0]
    alone = correct_bias(read_volume(image(data)), masked=True)
    np.testing.assert_array_equal(found, map_volume(alone, 32))
    assert residual(alone.data, head(), BRAIN) < 0.1 * residual(biased.get_fdata(), head(), BRAIN)
    outside = image(np.where(BRAIN, biased.get_fdata(), 900 * POINTS[0] ** 2))  # would mislead N4
    np.testing.assert_array_equal(processor(outside, mask=image(BRAIN), return_tensors="np").pixel_values[0, 0], found)


def test_voxels_of_zero_or_below_do_not_count_and_stay_what_they_are(corrected):
    data = head() * np.exp(LOG_FIELD)
    ringing = (RADIUS > 0.85) & (np.indices(SHAPE).sum(axis=0) % 3 == 0)
    data[ringing] = -10
    data[BRAIN & (np.indices(SHAPE)[0] % 7 == 0)] = 0
    after = correct_bias(read_volume(image(data))).data
    assert np.isfinite(after).all() and (after[ringing] < 0).all()
    inside = BRAIN & (data > 0)
    assert residual(after, head(), inside) < 0.25 * residual(data, head(), inside)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda data: (data - data.mean()) / data.std(), "many intensities below 0, .* not standardised"),
        (lambda data: np.where(RADIUS < 0.1, data, 0), "too few voxels of a head above 0"),
    ],
)
def test_a_scan_that_cannot_be_corrected_is_refused(spoil, message):
    with pytest.raises(VolumeError, match=f"the scan has {message}"):
        correct_bias(read_volume(image(spoil(head()))))


def test_integers_and_thick_slices(biased):
    data = np.round(biased.get_fdata()[:, :, ::5])
    whole, floats = (correct_bias(Volume(d, None, "x", d.shape, None, "RAS")) for d in (data.astype(np.int16), data))
    np.testing.assert_allclose(whole.data, floats.data, rtol=1e-5)
    assert whole.data.dtype == np.float32
    assert residual(whole.data, head()[:, :, ::5], BRAIN[:, :, ::5]) < 0.06


def test_the_processor_corrects_before_it_frames_and_only_once(biased, corrected):
    plain, framed = (
        GloResNetImageProcessor(image_size=16, bias_correction="n4", framing=name) for name in ("field_of_view", "head")
    )
    first = plain(biased, return_tensors="np").pixel_values[0, 0]
    np.testing.assert_array_equal(first, map_volume(corrected, 16))
    np.testing.assert_array_equal(first, plain(corrected, return_tensors="np").pixel_values[0, 0])
    assert not np.array_equal(first, map_volume(read_volume(biased), 16))
    np.testing.assert_array_equal(
        framed(biased, return_tensors="np").pixel_values[0, 0], map_volume(framed.frame(corrected), 16)
    )


def test_correction_alone_needs_simpleitk(biased, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    GloResNetImageProcessor(image_size=16)(biased)
    with pytest.raises(VolumeError, match="bias field without SimpleITK, .* run pip install SimpleITK"):
        GloResNetImageProcessor(image_size=16, bias_correction="n4")(biased)


def test_the_setting_is_saved_and_absent_means_none(tmp_path):
    GloResNetImageProcessor(bias_correction="n4").save_pretrained(tmp_path)
    assert GloResNetImageProcessor.from_pretrained(tmp_path).bias_correction == "n4"
    assert GloResNetImageProcessor.from_dict({"image_size": 16}).bias_correction == "none"
    with pytest.raises(ValueError, match="bias_correction is 'N4'"):
        GloResNetImageProcessor(bias_correction="N4")


def test_a_field_is_known_only_up_to_a_factor(biased, corrected):
    field = log_bias_field(biased.get_fdata())
    difference = (field - LOG_FIELD)[HEAD]
    assert np.std(difference) < 0.06 < np.std(LOG_FIELD[HEAD])
    np.testing.assert_allclose(corrected.data, biased.get_fdata() / np.exp(field), rtol=1e-5)

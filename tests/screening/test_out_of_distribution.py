"""Descriptors compared with results by hand, and warnings for scans that are or are not like the training scans."""

import nibabel
import numpy as np
import pytest
import torch

from cohort.phantom import make_phantom_scan
from preprocessing import GloResNetImageProcessor, VolumeError, read_volume
from preprocessing.appearance_gloresnet import coarser
from preprocessing.arrays_gloresnet import longest_edge
from screening.one_scan import all_warnings
from screening.out_of_distribution import DESCRIPTORS, describe, training_appearance, unusual

SIZE = 32
PROCESSOR = GloResNetImageProcessor(image_size=SIZE)


def standardised(image):
    return PROCESSOR(image, return_tensors="np").pixel_values[0, 0]


def head(seed, **options):
    age = np.random.default_rng(seed).uniform(32, 42)
    return make_phantom_scan(age, options.pop("injuries", {}), seed=seed, voxel_size=4.0, **options)


@pytest.fixture(scope="module")
def phantoms():
    injuries = [{}, {"ivh": "major"}, {"ventriculomegaly": "severe"}, {"punctate": "many"}]
    return [standardised(head(seed, injuries=injuries[seed % 4]).image()) for seed in range(28)]


def test_descriptors_of_a_block_by_hand():
    volume = np.full((20, 20, 20), -0.5, dtype=np.float32)
    volume[5:15, 4:12, 10:20] = 2.0
    numbers = describe((volume - volume.mean()) / volume.std())
    assert numbers["constant"] == pytest.approx(1 - 10 * 8 * 10 / 8000)
    assert numbers["centre_right_left"] == pytest.approx(9.5 / 19)
    assert numbers["centre_front_back"] == pytest.approx(7.5 / 19)
    assert numbers["centre_up_down"] == pytest.approx(14.5 / 19)
    assert numbers["symmetry"] == pytest.approx(1, abs=1e-5)  # planes 5 to 14 of 20 mirror onto themselves
    # from the plane at 5 % of the block to the plane at 95 %
    assert numbers["extent_right_left"] == pytest.approx(9 / 20)
    assert numbers["extent_front_back"] == pytest.approx(7 / 20)


def test_symmetry_is_the_correlation_with_the_mirror_image(phantoms):
    volume = phantoms[0]
    expected = np.corrcoef(volume.ravel(), volume[::-1].ravel())[0, 1]
    assert describe(volume)["symmetry"] == pytest.approx(expected, abs=1e-5)


def test_the_record_of_the_training_scans_contains_only_means_and_sds(phantoms):
    record = training_appearance(iter(phantoms))
    rows = np.array([list(describe(volume).values()) for volume in phantoms])
    assert list(record) == list(DESCRIPTORS)
    np.testing.assert_allclose(list(record.values()), np.stack([rows.mean(0), rows.std(0)], axis=1), atol=1e-5)


def test_held_out_scans_get_no_warnings(phantoms):
    for held_out in range(0, 28, 7):
        others = [volume for number, volume in enumerate(phantoms) if not held_out <= number < held_out + 7]
        record = training_appearance(others)
        for volume in phantoms[held_out : held_out + 7]:
            assert unusual(volume, record) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda data: -data, "darkest"),
        (lambda data: np.random.default_rng(0).normal(size=data.shape), "neighbouring"),
        (lambda data: np.pad(data, ((0, 60), (0, 0), (0, 0))), "from left to right"),
        (lambda data: np.where(data > np.quantile(data, 0.8), data, 0), "constant background"),
        (lambda data: np.roll(data, 9, axis=2), "from bottom to top"),
    ],
)
def test_different_scans_get_a_warning(phantoms, change, word):
    image = head(3).image()
    changed = nibabel.Nifti1Image(np.asarray(change(image.get_fdata()), dtype=np.float32), image.affine)
    sentences = unusual(standardised(changed), training_appearance(phantoms))
    assert any(word in sentence for sentence in sentences), sentences
    assert all(sentence.endswith(".") and "training scans" in sentence for sentence in sentences)


def test_a_model_without_a_record_gets_a_warning(phantoms):
    assert "not known" in unusual(phantoms[0], None)[0]


def test_the_processor_gives_the_same_warnings(phantoms):
    record = training_appearance(phantoms)
    changed = standardised(nibabel.Nifti1Image(-head(3).image().get_fdata(dtype=np.float32), np.diag([-4, 4, 4, 1])))
    batch = np.stack([phantoms[0], changed])[:, None]
    expected = [[], unusual(changed, record)]
    assert expected[1]
    assert PROCESSOR.unusual(batch, record) == PROCESSOR.unusual(torch.from_numpy(batch), record) == expected


@pytest.mark.parametrize(
    ("edge", "record", "words"),
    [
        (
            5.0,
            {"longest_edge_mm": [0.5, 1.2]},
            "is 5.00 mm; in the training scans it was 0.50 to 1.20 mm: small injuries",
        ),
        (1.4, {"longest_edge_mm": [1.2, 1.2]}, "is 1.40 mm; in the training scans it was 1.20 mm: small"),
        (1.3, {"longest_edge_mm": [0.5, 1.2]}, ""),  # 8 % more
        (0.3, {"longest_edge_mm": [0.5, 1.2]}, ""),
        (None, {"longest_edge_mm": [0.5, 1.2]}, ""),
        (5.0, {"dark": [0.1, 0.1]}, ""),  # of a model from before this record
        (5.0, None, ""),
    ],
)
def test_thicker_slices_than_all_training_scans_are_named(edge, record, words):
    found = coarser(edge, record)
    assert len(found) == bool(words) and words in " ".join(found)


def test_the_longest_edge_is_the_same_for_every_form_of_a_scan(tmp_path):
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))  # an oblique scan
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.7, 4.2, 0.9]
    data = np.random.default_rng(1).normal(100, 20, (20, 18, 16)).astype(np.float32)
    image, path = nibabel.Nifti1Image(data, affine), tmp_path / "scan.nii.gz"
    nibabel.save(image, path)
    metres = nibabel.Nifti1Image(data, np.diag([1e-3, 1e-3, 1e-3, 1]) @ affine)
    metres.header.set_xyzt_units("meter")
    volume = read_volume(path)
    for scan in (path, str(path), image, metres, volume):
        assert longest_edge(scan) == pytest.approx(4.2, abs=1e-5)
    assert longest_edge(data) is None and longest_edge(torch.from_numpy(data)) is None
    with pytest.raises(VolumeError, match="does not exist"):
        longest_edge(tmp_path / "gone.nii")
    record = training_appearance([standardised(image)])
    assert all_warnings(volume, standardised(image), record) == list(volume.warnings)
    warned = all_warnings(volume, standardised(image), record | {"longest_edge_mm": [0.5, 0.5]})
    assert len(warned) == len(volume.warnings) + 1 and "4.20 mm" in warned[-1]

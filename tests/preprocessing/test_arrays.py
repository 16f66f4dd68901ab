"""Arrays, tensors and images of other libraries: their affine counts, or they are refused."""

from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import LoadImage

from preprocessing import GloResNetImageProcessor, VolumeError, apply_mask, read_volume

DATA = np.random.default_rng(4).gamma(2, 90, (20, 24, 18)).astype(np.float32)
RAS = nibabel.Nifti1Image(DATA, np.diag([0.5, 0.6, 0.7, 1]))
LPI = RAS.as_reoriented(np.array([[0, -1], [1, -1], [2, -1]]))
PIL = RAS.as_reoriented(np.array([[2, -1], [0, -1], [1, -1]]))  # stored axes: posterior, inferior, left
PROCESSOR = GloResNetImageProcessor(image_size=16)
EXPECTED = PROCESSOR(RAS, return_tensors="np").pixel_values


def stored(image) -> np.ndarray:
    return np.ascontiguousarray(image.dataobj, dtype=np.float32)


def meta_tensor(image, **meta) -> MetaTensor:
    return MetaTensor(torch.from_numpy(stored(image))[None], affine=torch.from_numpy(image.affine), meta=meta or None)


@pytest.mark.parametrize("image", [RAS, LPI, PIL])
def test_the_affine_of_a_meta_tensor_counts(image):
    source = meta_tensor(image)
    volume = read_volume(source)
    np.testing.assert_array_equal(volume.data, DATA)
    np.testing.assert_allclose(volume.affine, RAS.affine, atol=1e-12)
    assert volume.stored_orientation == "".join(nibabel.aff2axcodes(image.affine))
    for form in (source, source[0], source[None], source.double().requires_grad_(), [source], (source,)):
        np.testing.assert_allclose(PROCESSOR(form, return_tensors="np").pixel_values, EXPECTED, atol=1e-6)


def test_a_file_that_monai_loads_equals_the_file(tmp_path):
    path = tmp_path / "scan.nii.gz"
    nibabel.save(PIL, path)
    loaded = LoadImage(reader="NibabelReader", ensure_channel_first=True)(path)
    np.testing.assert_allclose(PROCESSOR(loaded, return_tensors="np").pixel_values, EXPECTED, rtol=0, atol=5e-6)


def test_an_lps_affine_of_monai_is_converted():
    lps = torch.from_numpy(np.diag([-1.0, -1, 1, 1]) @ PIL.affine)
    volume = read_volume(MetaTensor(torch.from_numpy(stored(PIL)), affine=lps, meta={"space": "LPS"}))
    np.testing.assert_array_equal(volume.data, DATA)
    np.testing.assert_allclose(volume.affine, RAS.affine, atol=1e-12)


def test_each_scan_of_a_meta_tensor_batch_has_its_own_affine():
    same_shape = [meta_tensor(image) for image in (LPI, RAS)]
    batch = list_data_collate(same_shape)
    assert batch.shape == (2, 1, *DATA.shape) and batch.is_batch
    pixel_values = PROCESSOR(batch, return_tensors="np").pixel_values
    np.testing.assert_array_equal(pixel_values, np.concatenate([EXPECTED, EXPECTED]))
    with pytest.raises(VolumeError, match="only the affine of its first scan: give a list"):
        PROCESSOR(torch.stack(same_shape))


def test_masks_with_an_affine_are_turned_to_the_scan():
    brain = np.zeros(DATA.shape, np.float32)
    brain[4:14, 5:20, 3:12] = 1
    mask = nibabel.Nifti1Image(brain, RAS.affine).as_reoriented(np.array([[2, -1], [0, -1], [1, -1]]))
    np.testing.assert_array_equal(apply_mask(read_volume(RAS), meta_tensor(mask)).data, DATA * brain)
    moved = meta_tensor(mask)
    moved.affine[0, 3] += 5
    with pytest.raises(VolumeError, match="shifted"):
        apply_mask(read_volume(RAS), moved)


def test_other_objects_with_an_affine_count_too():
    """TorchIO's ScalarImage has `data` (C, W, H, D) and a RAS `affine`; other images have get_fdata()."""
    torchio = SimpleNamespace(data=torch.from_numpy(stored(PIL))[None], affine=PIL.affine)
    like_nibabel = SimpleNamespace(get_fdata=lambda: stored(PIL), affine=PIL.affine)

    class Array(np.ndarray):
        affine = PIL.affine

    for source in (torchio, like_nibabel, stored(PIL).view(Array), read_volume(PIL)):
        np.testing.assert_array_equal(read_volume(source).data, DATA)
        np.testing.assert_allclose(PROCESSOR(source, return_tensors="np").pixel_values, EXPECTED, rtol=0, atol=5e-6)


def test_a_bad_affine_is_refused():
    tensor = torch.from_numpy(DATA)
    for affine, needle in [
        (np.zeros((4, 4)), "singular"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.eye(3), r"shape \(3, 3\)"),
        (np.stack([np.eye(4)] * 2), r"shape \(2, 4, 4\)"),
    ]:
        with pytest.raises(VolumeError, match=needle):
            read_volume(SimpleNamespace(data=tensor, affine=affine))


def test_images_of_itk_and_ants_are_refused_with_the_way_out():
    """Their arrays lose the orientation: SimpleITK's are also in the order z, y, x."""
    itk = SimpleNamespace(GetDirection=lambda: (1, 0, 0, 0, 1, 0, 0, 0, 1))
    ants = SimpleNamespace(direction=np.eye(3), spacing=(1, 1, 1), origin=(0, 0, 0), numpy=lambda: DATA)
    for source in (itk, ants):
        for read in (read_volume, PROCESSOR):
            with pytest.raises(VolumeError, match="SimpleNamespace: write it to a NIfTI file, and give the path"):
                read(source)


def test_masked_arrays_are_refused():
    masked = np.ma.masked_greater(DATA, 400)
    with pytest.raises(VolumeError, match="masked voxels: fill them"):
        read_volume(masked)
    np.testing.assert_array_equal(read_volume(np.ma.masked_greater(DATA, 1e9)).data, DATA)
    with pytest.raises(VolumeError, match="is a SimpleNamespace: give a path"):
        read_volume(SimpleNamespace(affine=np.eye(4)))

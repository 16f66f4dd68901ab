"""The interior of the brain: where it is, on which grid, and how its intensities are scaled."""

import nibabel
import numpy as np
import pytest

from preprocessing import apply_mask, read_volume
from preprocessing.interior_gloresnet import (
    NoInterior,
    block_mean,
    find_interior,
    intensity_shares,
    is_stripped,
    otsu_thresholds,
)

CENTRE = np.array([3.0, -8.0, 12.0])  # mm


def radius_mm(shape, affine):
    places = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    return np.linalg.norm(places - CENTRE, axis=-1)


def head(spacing=(0.8, 0.8, 0.8), seed=0):
    """A round head in noisy air: skin to 38 mm, skull to 34, fluid to 31, grey matter to 29, and a ventricle of 7."""
    spacing = np.array(spacing)
    shape = tuple(np.ceil(88 / spacing).astype(int))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = CENTRE - spacing * (np.array(shape) - 1) / 2
    radius = radius_mm(shape, affine)
    data = np.full(shape, 10.0)
    for outer, intensity in ((38, 200), (34, 60), (31, 600), (29, 230), (27, 300), (7, 600)):
        data[radius < outer] = intensity
    data += np.random.default_rng(seed).normal(0, 6, shape)
    return nibabel.Nifti1Image(np.abs(data).astype(np.float32), affine), radius


def positions_of(interior):
    return np.argwhere(interior.inside) @ interior.affine[:3, :3].T + interior.affine[:3, 3]


def test_without_mask_the_interior_begins_9_mm_below_the_skin():
    image, _ = head()
    interior = find_interior(read_volume(image))
    radius = np.linalg.norm(positions_of(interior) - CENTRE, axis=1)
    assert 27 < radius.max() < 31  # 38 - 9 = 29
    volume = interior.inside.sum() * interior.spacing.prod()
    assert volume == pytest.approx(4 / 3 * np.pi * 29**3, rel=0.1)
    assert interior.white == pytest.approx(300, rel=0.02)
    assert interior.data.dtype == np.float32 and np.median(interior.data[interior.inside]) == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(interior.spacing, 0.8)
    assert interior.shares.shape == (9,) and interior.shares[0] == pytest.approx(volume / 1e6, rel=1e-5)


def test_the_neck_is_not_searched():
    image, radius = head()
    places = np.moveaxis(np.indices(image.shape), 0, -1) @ image.affine[:3, :3].T + image.affine[:3, 3] - CENTRE
    neck = (np.linalg.norm(places[..., :2], axis=-1) < 22) & (places[..., 2] < 0) & (radius > 34)
    data = np.where(neck, 250, image.get_fdata())
    interior = find_interior(read_volume(nibabel.Nifti1Image(data.astype(np.float32), image.affine)))
    lowest = positions_of(interior)[:, 2].min() - CENTRE[2]
    assert -40 < lowest < -28  # the head ends at -38 mm, and the neck reaches the edge of the scan at -44 mm
    with pytest.raises(NoInterior, match="below 0"):
        find_interior(read_volume(nibabel.Nifti1Image((data - 320).astype(np.float32), image.affine)))


def test_the_grid_is_a_part_of_the_scan_itself():
    image, _ = head()
    volume = read_volume(image)
    interior = find_interior(volume)
    first = np.rint(np.linalg.inv(volume.affine) @ interior.affine @ [0, 0, 0, 1])[:3].astype(int)
    part = volume.data[tuple(slice(n, n + m) for n, m in zip(first, interior.data.shape, strict=True))]
    np.testing.assert_allclose(interior.data * interior.white, part, rtol=1e-6)


@pytest.mark.parametrize("way", ["masked", "stripped"])
def test_a_brain_without_skull_is_eroded_by_3_mm(way):
    image, radius = head()
    brain = (radius < 30).astype(np.uint8)
    if way == "masked":
        interior = find_interior(apply_mask(read_volume(image), brain), masked=True)
    else:
        interior = find_interior(read_volume(nibabel.Nifti1Image(image.get_fdata() * brain, image.affine)))
    radius = np.linalg.norm(positions_of(interior) - CENTRE, axis=1)
    assert 26.2 < radius.max() < 27.8
    assert len(radius) * interior.spacing.prod() == pytest.approx(4 / 3 * np.pi * 27**3, rel=0.03)


def test_air_set_to_0_is_not_a_removed_skull():
    image, radius = head()
    data = image.get_fdata()
    edges = np.full(3, 0.8)
    assert is_stripped(np.where(radius < 30, data, 0), edges)
    assert not is_stripped(data, edges)
    assert not is_stripped(np.where(radius < 38, data, 0), edges)
    assert not is_stripped(np.where(data > 30, data, 0), edges)  # by a threshold, as some scanners do
    assert not is_stripped(np.where(radius < 42, data, 0), edges)  # a loose mask of the head


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [((0.5, 0.5, 0.5), 0.7), ((0.86, 0.86, 0.9), None), ((1.1, 1.1, 1.1), None), ((0.6, 0.6, 1.0), 1.0)],
)
def test_the_spacing_of_the_working_grid(spacing, expected):
    image, _ = head(spacing)
    interior = find_interior(read_volume(image))
    np.testing.assert_allclose(interior.spacing, expected or spacing)
    np.testing.assert_allclose(np.linalg.norm(interior.affine[:3, :3], axis=0), interior.spacing)
    radius = np.linalg.norm(positions_of(interior) - CENTRE, axis=1)
    assert radius.max() == pytest.approx(29, abs=2.2)
    middle = tuple(np.rint((np.linalg.inv(interior.affine) @ [*CENTRE, 1])[:3]).astype(int))
    assert interior.data[middle] > 1.8  # the ventricle, so data and affine belong together


def test_axes_of_another_order_and_direction_give_the_same_places():
    image, _ = head()
    turned = nibabel.Nifti1Image(np.ascontiguousarray(image.get_fdata()[::-1].transpose(2, 0, 1)), None)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = image.shape[0] - 1
    turned.set_sform((image.affine @ flip)[:, [2, 0, 1, 3]], 1)
    one, other = find_interior(read_volume(image)), find_interior(read_volume(turned))
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
    np.testing.assert_allclose(one.data, other.data, rtol=1e-5)


@pytest.mark.parametrize(("spacing", "words"), [((1.25, 1.25, 1.25), "1.25 mm long"), ((0.5, 0.5, 3.0), "3 mm long")])
def test_a_coarse_scan_is_not_searched(spacing, words):
    image, _ = head(spacing)
    with pytest.raises(NoInterior, match=words):
        find_interior(read_volume(image))


def test_what_has_no_millimetres_or_no_brain_is_not_searched():
    image, radius = head()
    with pytest.raises(NoInterior, match="without an affine"):
        find_interior(read_volume(image.get_fdata()))
    noise = np.random.default_rng(0).normal(100, 5, (60, 60, 60)).astype(np.float32)
    with pytest.raises(NoInterior, match="no complete head"):
        find_interior(read_volume(nibabel.Nifti1Image(np.where(noise > 112, noise, 0), image.affine)))
    with pytest.raises(NoInterior, match="only"):
        find_interior(read_volume(nibabel.Nifti1Image(image.get_fdata() * (radius < 15), image.affine)))


def test_thresholds_are_the_best_of_all_pairs():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(mean, 20, n) for mean, n in ((180, 300), (300, 900), (520, 200))])
    found = otsu_thresholds(values)

    def within(pair):  # Otsu's criterion the other way round: the variance inside the classes
        classes = np.split(np.sort(values), np.searchsorted(np.sort(values), pair))
        return sum(len(part) * part.var() for part in classes if len(part))

    grid = np.linspace(values.min(), values.max(), 120)
    best = min(within((a, b)) for n, a in enumerate(grid) for b in grid[n + 1 :])
    assert within(found) <= best * 1.01
    assert 210 < found[0] < 270 and 370 < found[1] < 450


def test_block_means():
    data = np.arange(7 * 6 * 5, dtype=np.int16).reshape(7, 6, 5)
    means = block_mean(data, np.array([2, 3, 1]))
    assert means.shape == (3, 2, 5)
    assert means[1, 1, 4] == pytest.approx(data[2:4, 3:6, 4].mean())


def test_shares_by_hand():
    values = np.array([0.5, 0.7, 0.79, 1.0, 1.0, 1.1, 1.3, 1.7])
    shares = intensity_shares(values, 250.0, (0.75, 1.2))
    np.testing.assert_allclose(shares, [0.25, 0.75, 1.2, 2 / 8, 2 / 8, 1 / 8, 3 / 8, 2 / 8, 1 / 8])

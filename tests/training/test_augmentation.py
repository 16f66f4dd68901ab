"""Rotation compared with scipy, flips checked by hand, and the distribution of the drawn parameters."""

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from training.augmentation import Augmentation, augment, draw_augmentation


def volumes(count=2, size=17, seed=0):
    return torch.randn(count, 1, size, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [16, 17])
def test_rotation_equals_scipy(size):
    batch = volumes(3, size)
    drawn = draw_augmentation(np.random.default_rng(1), 3, rotation_degrees=25, flip_prob=0)
    rotated = augment(batch, drawn)
    centre = np.full(3, (size - 1) / 2)
    for volume, rotation, result in zip(batch, drawn.rotations, rotated, strict=True):
        offset = centre - rotation @ centre
        expected = affine_transform(volume[0].double().numpy(), rotation, offset=offset, order=1, mode="nearest")
        assert np.abs(result[0].numpy() - expected).max() < 1e-4


def test_a_quarter_turn_moves_a_voxel_in_the_right_direction():
    volume = torch.zeros(1, 1, 9, 9, 9)
    volume[0, 0, 8, 4, 4] = 1  # rightmost voxel
    quarter = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # from output to input: (r, a) -> (a, -r)
    turned = augment(volume, Augmentation(quarter[None], np.array([False])))
    r, a, s = (turned[0, 0] > 0.5).nonzero()[0].tolist()
    # input offset (4, 0) = (a, -r) of the output offset, so the output offset is r = 0, a = 4
    assert (r, a, s) == (4, 8, 4)


def test_flip_mirrors_left_and_right_only():
    batch = volumes()
    identity = np.tile(np.eye(3), (2, 1, 1))
    flipped = augment(batch, Augmentation(identity, np.array([True, False])))
    assert torch.equal(flipped[0], batch[0].flip(1))
    assert torch.equal(flipped[1], batch[1])


def test_rotation_of_zero_degrees_changes_nothing():
    batch = volumes()
    drawn = draw_augmentation(np.random.default_rng(0), 2, rotation_degrees=0, flip_prob=0)
    assert torch.equal(augment(batch, drawn), batch)


def test_the_input_is_not_changed():
    batch = volumes()
    before = batch.clone()
    augment(batch, draw_augmentation(np.random.default_rng(0), 2, rotation_degrees=10, flip_prob=1))
    assert torch.equal(batch, before)


def test_drawn_rotations_are_within_the_range_and_repeatable():
    drawn = draw_augmentation(np.random.default_rng(5), 2000, rotation_degrees=10, flip_prob=0.5)
    products = drawn.rotations @ drawn.rotations.transpose(0, 2, 1)
    assert np.allclose(products, np.eye(3)) and np.allclose(np.linalg.det(drawn.rotations), 1)
    total_angle = np.degrees(np.arccos((np.trace(drawn.rotations, axis1=1, axis2=2) - 1) / 2))
    assert 10 < total_angle.max() < np.sqrt(3) * 10 + 0.5
    assert abs(drawn.flips.mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    again = draw_augmentation(np.random.default_rng(5), 2000, rotation_degrees=10, flip_prob=0.5)
    assert np.array_equal(drawn.rotations, again.rotations) and np.array_equal(drawn.flips, again.flips)

"""Candidates of the local stream, the cubes around them, and the list of places."""

import numpy as np
import pytest

from preprocessing import read_volume
from preprocessing.candidates_gloresnet import ALONE, cut_patches, find_candidates, local_inputs, top_places
from preprocessing.interior_gloresnet import Interior
from tests.brains import SPOT, brain_with_spot


def interior(seed=0, shape=(34, 31, 29), spacing=0.8, noise=0.08):
    rng = np.random.default_rng(seed)
    data = (1 + rng.normal(0, noise, shape)).astype(np.float32)
    data[: shape[0] // 4] *= 1.4  # too bright for candidates
    affine = np.diag([spacing, spacing, spacing, 1.0])
    inside = np.indices(shape).sum(axis=0) > 35
    return Interior(data, affine, np.full(3, spacing), inside, 300.0, (250.0, 400.0), np.zeros(9, np.float32))


def gaussian(data, sigma):
    """By a dense matrix per axis, radius 4 standard deviations, the outermost voxels continued."""
    result = data.astype(np.float64)
    for axis, length in enumerate(data.shape):
        reach = int(4 * sigma + 0.5)
        offsets = np.arange(-reach, reach + 1)
        weights = np.exp(-(offsets**2) / (2 * sigma**2))
        matrix = np.zeros((length, length))
        for row in range(length):
            np.add.at(matrix[row], (row + offsets).clip(0, length - 1), weights / weights.sum())
        result = np.moveaxis(np.tensordot(matrix, result, (1, axis)), 0, axis)
    return result


def test_candidates_are_the_minima_that_a_plain_search_finds():
    some = interior()
    fine, around = gaussian(some.data, 0.5 / 0.8), gaussian(some.data, 1.8 / 0.8)
    expected = []
    for x in range(9, 34 - 9):
        for y in range(9, 31 - 9):
            for z in range(9, 29 - 9):
                value = fine[x, y, z]
                cube = fine[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2]
                lowest = (cube > value).sum() == 26
                dark = 0.35 < value < 1.15 and around[x, y, z] - value >= 0.03
                if some.inside[x, y, z] and lowest and dark:
                    expected.append((x, y, z))
    found = find_candidates(some)
    assert len(expected) > 20
    np.testing.assert_array_equal(found, expected)


def test_a_scan_with_too_many_keeps_those_darkest_against_their_surroundings(monkeypatch):
    some = interior()
    every = find_candidates(some)
    monkeypatch.setattr("preprocessing.candidates_gloresnet.MOST", 7)
    kept = find_candidates(some)
    contrast = gaussian(some.data, 1.8 / 0.8) - gaussian(some.data, 0.5 / 0.8)
    darkest = np.argsort([-contrast[tuple(voxel)] for voxel in every])[:7]
    np.testing.assert_array_equal(kept, every[np.sort(darkest)])


def test_cubes_by_hand():
    data = np.random.default_rng(2).normal(1, 0.5, (30, 28, 26)).astype(np.float32)
    voxels = np.array([[14, 13, 12], [2, 25, 12]])  # the second one is near two edges
    patches = cut_patches(data, voxels)
    assert patches.shape == (2, 2, 11, 11, 11) and patches.dtype == np.float32
    far = np.pad(data, 20, mode="edge").astype(np.float64)
    for patch, (x, y, z) in zip(patches, voxels + 20, strict=True):
        for i, j, k in ((0, 0, 0), (5, 5, 5), (10, 3, 7), (1, 10, 10)):
            fine = far[x - 5 + i, y - 5 + j, z - 5 + k]
            assert patch[0, i, j, k] == pytest.approx(np.clip((fine - 1) * 4, -4, 4), abs=1e-5)
            a, b, c = x + 2 * (i - 5), y + 2 * (j - 5), z + 2 * (k - 5)
            inner = all(1 <= n - 20 < m - 1 for n, m in zip((a, b, c), data.shape, strict=True))
            if inner:
                mean = far[a - 1 : a + 2, b - 1 : b + 2, c - 1 : c + 2].mean()
                assert patch[1, i, j, k] == pytest.approx(np.clip((mean - 1) * 4, -4, 4), abs=1e-4)
    assert np.abs(patches).max() <= 4
    assert cut_patches(data, np.zeros((0, 3), int)).shape == (0, 2, 11, 11, 11)


def test_positions_are_world_millimetres():
    inputs = local_inputs(read_volume(brain_with_spot()))
    darkest = inputs.patches[:, 0, 4:7, 4:7, 4:7].mean(axis=(1, 2, 3)).argmin()
    np.testing.assert_allclose(inputs.positions[darkest], SPOT, atol=0.8)
    assert inputs.valid.all() and len(inputs.valid) == len(inputs.patches) == len(inputs.positions) >= 50
    assert inputs.warning == "" and np.isfinite(inputs.shares).all()


def test_a_scan_that_cannot_be_searched_is_silent_and_says_why(monkeypatch):
    coarse = local_inputs(read_volume(brain_with_spot(1.5)))
    assert len(coarse.patches) == len(coarse.positions) == len(coarse.valid) == 0 and np.isnan(coarse.shares).all()
    assert coarse.warning.startswith(ALONE) and "1.5 mm" in coarse.warning
    monkeypatch.setattr("preprocessing.candidates_gloresnet.FEWEST", 10**6)
    few = local_inputs(read_volume(brain_with_spot()))
    assert len(few.patches) == 0 and "places that could be a small lesion" in few.warning


def test_places_are_3_mm_apart_and_the_highest_come_first():
    rng = np.random.default_rng(3)
    positions, logits = rng.uniform(0, 12, (200, 3)), rng.normal(size=200)
    places = top_places(logits, positions, 10)
    left, expected = list(np.argsort(-logits)), []
    while left and len(expected) < 10:
        expected.append(left[0])
        left = [n for n in left if np.linalg.norm(positions[n] - positions[left[0]]) >= 3]
    np.testing.assert_array_equal(places, expected)
    assert len(top_places(np.zeros(0), np.zeros((0, 3)))) == 0

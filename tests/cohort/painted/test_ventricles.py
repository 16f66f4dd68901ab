"""Widened ventricles: as large as asked for, without folding, and only inside the brain."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cohort.painted.ventricles import displaced_labels, find_ventricles, widen_ventricles

SPACING = (1.5, 1.5, 1.5)


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A brain with two slanted ventricles, cortex and noise: scan, brain and ventricles."""
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 for n in (68, 80, 64)), indexing="ij")
    brain = (x / 29) ** 2 + (y / 36) ** 2 + (z / 27) ** 2 < 1
    ventricles = ((np.abs(x) - 7 + 0.1 * y) / 3) ** 2 + (y / 13) ** 2 + ((z - 3) / 4) ** 2 < 1
    data = np.where(brain, 1.0, 0.0) - 0.3 * (brain & ((x / 26) ** 2 + (y / 33) ** 2 + (z / 24) ** 2 >= 1))
    data = ndimage.gaussian_filter(data, 0.7) + 0.02 * np.random.default_rng(0).standard_normal(x.shape)
    data[ventricles] += 0.9
    return data.astype(np.float32), brain, ventricles


@pytest.mark.parametrize("factor", [1.5, 4.0])
def test_the_volume_grows_as_asked_and_nothing_folds(head, factor: float) -> None:
    data, brain, ventricles = head
    painted, done = widen_ventricles(data, ventricles, brain, SPACING, factor)
    assert done.before_ml == pytest.approx(ventricles.sum() * 1.5**3 / 1000)
    assert done.after_ml / done.before_ml == pytest.approx(factor, rel=0.1)
    assert done.after_ml == pytest.approx(done.mask.sum() * 1.5**3 / 1000)
    assert (done.mask >= ventricles).mean() > 0.999  # the new ventricles hold the old ones
    # the determinant by finite differences of the mapped coordinates
    mapped = np.indices(data.shape) * 1.5 + done.displacement
    jacobian = np.linalg.det(np.stack([np.stack(np.gradient(m, 1.5), -1) for m in mapped], -2).astype(float))
    assert jacobian.min() > 0  # no point is used twice
    assert np.array_equal(painted[~brain], data[~brain])
    assert np.median(painted[done.mask]) == pytest.approx(np.median(data[ventricles]), abs=0.15)
    # as many white voxels become CSF as the ventricles gain
    gained = (painted > 1.45).sum() / (data > 1.45).sum()
    assert gained == pytest.approx(factor, rel=0.15)


def test_labels_move_with_the_scan(head) -> None:
    data, brain, ventricles = head
    _, done = widen_ventricles(data, ventricles, brain, SPACING, 2.0)
    labels = displaced_labels(np.where(ventricles, 5, 3 * brain).astype(np.uint8), done.displacement, SPACING)
    assert set(np.unique(labels)) == {0, 3, 5}
    assert ((labels == 5) != done.mask).mean() < 0.005


def test_ventricles_are_found_and_cisterns_are_not(head) -> None:
    data, brain, ventricles = head
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 for n in data.shape), indexing="ij")
    cistern = (x / 4) ** 2 + ((y + 9) / 5) ** 2 + ((z + 4) / 4) ** 2 < 1
    found = find_ventricles(np.where(cistern, 1.9, data), brain, SPACING)
    assert 2 * (found & ventricles).sum() / (found.sum() + ventricles.sum()) > 0.9
    with pytest.raises(ValueError, match="no ventricles were found"):
        find_ventricles(np.minimum(data, 1.2), brain, SPACING)


def test_impossible_requests_are_refused(head) -> None:
    data, brain, ventricles = head
    for factor in (1.0, 9.0, float("nan")):
        with pytest.raises(ValueError, match="choose a factor above 1"):
            widen_ventricles(data, ventricles, brain, SPACING, factor)
    with pytest.raises(ValueError, match="no ventricles"):
        widen_ventricles(data, np.zeros_like(brain), brain, SPACING, 2.0)

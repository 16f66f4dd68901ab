"""Painted spots: their volume, contrast and place are what the truth says, and the noise of the scan stays."""

from __future__ import annotations

import numpy as np
import pytest

from cohort.painted.shapes import capsule, draw_spot, draw_streak, ellipsoid, share_of_voxels
from cohort.painted.spots import paint_spots

SPACING = np.array([0.7, 0.8, 0.9])
LEVEL = 1.0
NOISE = 0.03


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray]:
    """A noisy bright block with a dark rim and a bright core, and where spots may lie."""
    data = np.full((60, 64, 56), 0.6, dtype=np.float32)
    data[6:-6, 6:-6, 6:-6] = LEVEL
    data[26:34, 28:36, 24:32] = 1.8
    data += NOISE * np.random.default_rng(1).standard_normal(data.shape, dtype=np.float32)
    inside = np.zeros(data.shape, dtype=bool)
    inside[3:-3, 3:-3, 3:-3] = True
    return data, inside


def _turn(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]


@pytest.mark.parametrize("edge_mm", [0.0, 0.45])
def test_share_has_the_volume_of_the_formula(edge_mm: float) -> None:
    offset = np.array([0.2, -0.3, 0.1])
    for part, volume in [
        (ellipsoid(np.zeros(3), np.array([1.0, 1.6, 2.3]), _turn(0)), 4 / 3 * np.pi * 1.0 * 1.6 * 2.3),
        (ellipsoid(np.array([0.4, 0.0, 0.2]), np.full(3, 0.8), _turn(1)), 4 / 3 * np.pi * 0.8**3),
        (
            capsule(np.array([-2.0, 1.0, 0.5]), np.array([2.0, -1.0, 0.5]), 0.6),
            np.pi * 0.36 * 20**0.5 + 4 / 3 * np.pi * 0.216,
        ),
    ]:
        _, share = share_of_voxels([part], offset, SPACING, edge_mm)
        assert share.min() >= 0.0 and share.max() <= 1.0
        assert share.sum() * SPACING.prod() == pytest.approx(volume, rel=0.02)


def test_unions_and_streaks_have_the_volume_of_the_sphere_asked_for() -> None:
    rng = np.random.default_rng(2)
    for draw in (draw_spot, draw_streak):
        for diameter in (1.2, 2.5, 4.5):
            volumes = [share_of_voxels(draw(rng, diameter), np.zeros(3), np.full(3, 0.4))[1].sum() for _ in range(6)]
            assert np.array(volumes) * 0.4**3 == pytest.approx(np.pi / 6 * diameter**3, rel=0.05)


def test_streaks_are_long_and_narrow_but_not_longer_than_veins() -> None:
    rng = np.random.default_rng(3)
    for diameter in (1.5, 4.5):
        _, share = share_of_voxels(draw_streak(rng, diameter), np.zeros(3), np.full(3, 0.3))
        points = np.argwhere(share > 0.5) * 0.3
        lengths = np.sqrt(np.linalg.eigvalsh(np.cov((points - points.mean(axis=0)).T)))
        assert lengths[2] > 1.6 * lengths[1]
        assert np.ptp(points @ np.linalg.eigh(np.cov(points.T))[1][:, 2]) < 12.0


def test_the_difference_is_the_injuries_alone_and_stays_inside(head) -> None:
    data, inside = head
    painted, lesions = paint_spots(data, inside, tuple(SPACING), np.random.default_rng(4), 25)
    assert painted.dtype == np.float32 and len(lesions) == 25
    expected = np.zeros_like(data)
    touched = np.zeros(data.shape, dtype=int)
    for lesion in lesions:
        expected[lesion.box] += np.float32(lesion.contrast * lesion.background) * lesion.share
        touched[lesion.box] += lesion.share > 0
    assert np.allclose(painted - data, expected, atol=1e-5)
    assert touched.max() == 1 and not (touched > 0)[~inside].any()
    # noise of a lesion's middle is that of the scan
    middle = np.concatenate([(painted - expected)[lesion.box][lesion.share > 0.5] for lesion in lesions])
    assert middle.std() == pytest.approx(NOISE, rel=0.25)


def test_injuries_lie_in_homogeneous_bright_matter(head) -> None:
    data, inside = head
    _, lesions = paint_spots(data, inside, tuple(SPACING), np.random.default_rng(5), 25)
    for lesion in lesions:
        at = tuple(np.round(lesion.centre).astype(int))
        assert min(at) >= 6 and abs(data[at] - LEVEL) < 5 * NOISE
        assert lesion.background == pytest.approx(LEVEL, abs=0.05)
        assert -0.45 <= lesion.contrast <= -0.08 and 1.2 <= lesion.diameter_mm <= 4.5


@pytest.mark.parametrize(("kind", "sign"), [("spot", -1), ("bright", 1), ("cyst", 1)])
def test_the_centre_has_the_contrast_asked_for(kind: str, sign: int) -> None:
    data = np.full((40, 44, 40), 1.25, dtype=np.float32)
    data[:, :4] = 1.0  # a place that is not even
    painted, lesions = paint_spots(
        data * 0.8, np.ones(data.shape, dtype=bool), (0.5, 0.5, 0.5), np.random.default_rng(6), 3,
        kinds={kind: 1.0}, diameters_mm=(5.0, 5.0), contrasts=(0.3, 0.3), csf=1.7,
    )  # fmt: skip
    for lesion in lesions:
        assert lesion.background == pytest.approx(1.0, abs=1e-4)
        assert lesion.contrast == pytest.approx(0.7 if kind == "cyst" else 0.3 * sign, abs=1e-4)
        changed = (painted[lesion.box] - data[lesion.box] * 0.8) / lesion.contrast
        assert changed.max() == pytest.approx(1.0, abs=0.01)
        assert lesion.mask().sum() * 0.5**3 == pytest.approx(np.pi / 6 * 5.0**3, rel=0.2)
        assert lesion.share.sum() * 0.5**3 == pytest.approx(np.pi / 6 * 5.0**3, rel=0.03)


def test_the_seed_determines_everything(head) -> None:
    data, inside = head
    first, second, other = (
        paint_spots(data, inside, tuple(SPACING), np.random.default_rng(s), 10)[0] for s in (7, 7, 8)
    )
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_fewer_are_painted_where_there_is_no_room(head) -> None:
    data, inside = head
    small = np.zeros_like(inside)
    small[10:18, 10:18, 10:18] = True
    _, lesions = paint_spots(data, small, tuple(SPACING), np.random.default_rng(9), 40)
    assert 0 < len(lesions) < 40
    painted, lesions = paint_spots(data, np.zeros_like(inside), tuple(SPACING), np.random.default_rng(9), 40)
    assert lesions == [] and np.array_equal(painted, data)


def test_unknown_kinds_and_shapes_are_refused(head) -> None:
    data, inside = head
    with pytest.raises(ValueError, match="no kind of spot 'dot'"):
        paint_spots(data, inside, tuple(SPACING), np.random.default_rng(0), kinds={"dot": 1.0})
    with pytest.raises(ValueError, match="both must be the same"):
        paint_spots(data, inside[1:], tuple(SPACING), np.random.default_rng(0))

import numpy as np

from training.local import motion
from training.local.motion import move_head


def ball(edge=40):
    grid = np.stack(np.meshgrid(*[np.arange(edge) - edge / 2] * 3, indexing="ij"))
    return (np.sqrt((grid**2).sum(axis=0)) < edge / 4).astype(np.float32)


def test_motion_spreads_the_signal_beyond_the_head_and_keeps_its_sum():
    still = ball()
    moved = move_head(still, np.full(3, 0.7), np.random.default_rng(0))
    assert moved.shape == still.shape and moved.dtype == np.float32
    assert np.isclose(moved.sum(), still.sum(), rtol=1e-4)
    assert np.abs(moved[still == 0]).mean() > 0.01
    assert np.array_equal(moved, move_head(still, np.full(3, 0.7), np.random.default_rng(0)))


def test_one_place_for_all_lines_is_a_shift(monkeypatch):
    """The Fourier shift theorem, against np.roll: a head that stays one voxel away is a shifted head."""
    monkeypatch.setattr(motion, "MOVES", (0, 0))
    monkeypatch.setattr(motion, "STILL", -1.0)

    class OneVoxel:
        def integers(self, *_):
            return 0

        def uniform(self, *bounds):
            return np.zeros(0) if len(bounds) == 3 else 1.0

        def normal(self, *_):
            return np.array([[0.7, 0.0, -1.4]])

    still = ball()
    moved = move_head(still, np.full(3, 0.7), OneVoxel())
    assert np.abs(moved - np.roll(still, (1, -2), (0, 2))).max() < 1e-4

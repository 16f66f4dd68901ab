import numpy as np
from scipy.special import expit

from training.local.calibration import fit_voices, on_one_scale


def draw(n, seed=0):
    """Injuries of three kinds: some raise the score, some the first share, some nothing."""
    random = np.random.default_rng(seed)
    score, shares = random.normal(2, 3, n), random.normal(size=(n, 9)) * 0.1
    missed = (1 - 0.1) * (1 - expit(1.5 * score - 6)) * (1 - expit(40 * shares[:, 0] - 4))
    return (random.random(n) > missed).astype(int), score, shares


def test_the_fit_finds_which_voice_says_what():
    voices = fit_voices(*draw(4000))
    score, shares = np.array([-2.0, 4.0, 8.0]), np.zeros((3, 9))
    assert np.allclose(voices.local(score), expit(1.5 * score - 6), atol=0.06)
    shares[:, 0] = [-0.2, 0.1, 0.2]
    assert np.allclose(voices.shares(shares), expit(40 * shares[:, 0] - 4), atol=0.08)
    assert abs(voices.leak - 0.1) < 0.04


def test_the_probabilities_of_all_voices_together_are_calibrated():
    labels, score, shares = draw(2000)
    voices = fit_voices(labels, score, shares)
    p = 1 - (1 - voices.leak) * (1 - voices.local(score)) * (1 - voices.shares(shares))
    assert abs(p.mean() - labels.mean()) < 0.01
    low, high = p < np.median(p), p >= np.median(p)
    assert abs(p[low].mean() - labels[low].mean()) < 0.03 and abs(p[high].mean() - labels[high].mean()) < 0.03


def test_a_stream_that_ranks_worse_than_chance_becomes_silent():
    labels, score, shares = draw(400)
    voices = fit_voices(labels, -score, np.zeros_like(shares))
    assert np.ptp(voices.local(score)) < 0.02 and voices.calibration[0] > 0


def test_scores_that_separate_the_classes_have_a_finite_fit():
    labels = np.array([0, 0, 0, 1, 1, 1])
    voices = fit_voices(labels, labels * 10.0, np.zeros((6, 9)))
    assert np.isfinite([*voices.calibration, *voices.share_weights["weights"]]).all()
    assert voices.local(np.array([10.0]))[0] > voices.local(np.array([0.0]))[0]


def test_scores_of_one_network_are_moved_to_the_scale_of_several():
    assert on_one_scale(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.5, 9.0])) == -1.5
    assert on_one_scale(np.zeros(0), np.zeros(0)) == 0


def test_what_no_voice_explains_is_left_to_the_leak():
    """Injuries that neither scores nor shares show: the voices stay near 0 for ordinary scans."""
    random = np.random.default_rng(0)
    labels, score, shares = (
        (random.random(110) < 0.45).astype(int),
        random.normal(size=110),
        random.normal(size=(110, 9)),
    )
    voices = fit_voices(labels, score, shares)
    assert np.median(voices.local(score)) < 0.1 and np.median(voices.shares(shares)) < 0.1 and voices.leak > 0.2

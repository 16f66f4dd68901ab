import numpy as np
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from training.local.calibration import fit_local, fit_shares, on_one_scale


def scans(n=300, seed=0):
    """Scores of normal scans, and of the same scans with injuries painted into them."""
    random = np.random.default_rng(seed)
    normal = random.normal(0.5, 0.5, n)
    return normal, np.maximum(normal[:, None], random.normal(1.5, 1.0, (n, 5)))


def test_p_local_is_the_probability_of_an_injury_if_half_of_them_are_small():
    normal, painted = scans()
    slope, offset = fit_local(normal, painted, injured=0.4)
    own = LogisticRegression(C=1e6).fit(  # scikit-learn's, with each scan counted once painted and once not
        np.concatenate([normal, painted.ravel()])[:, None],
        np.repeat([0, 1], [normal.size, painted.size]),
        sample_weight=np.repeat([1, 1 / painted.shape[1]], [normal.size, painted.size]),
    )
    assert np.isclose(slope, own.coef_[0, 0], rtol=0.05)
    assert np.isclose(offset, own.intercept_[0] + logit(0.2), atol=0.1)


def test_the_scale_of_the_scores_does_not_matter():
    normal, painted = scans(12)
    slope, offset = fit_local(normal, painted, 0.5)
    again, moved = fit_local(3 * normal - 2, 3 * painted - 2, 0.5)
    assert np.isclose(again, slope / 3, rtol=1e-3) and np.isclose(moved, offset + slope * 2 / 3, atol=1e-3)


def test_scores_that_separate_painted_scans_have_a_finite_fit():
    slope, offset = fit_local(np.zeros(4), np.full((4, 20), 10.0), 0.5)
    p = expit(slope * np.array([0.0, 10.0]) + offset)
    assert np.isfinite(p).all() and p[0] < 0.25 < 0.75 < p[1]


def test_painted_injuries_that_nothing_shows_leave_the_stream_silent():
    random = np.random.default_rng(1)
    slope, offset = fit_local(random.normal(size=40), random.normal(-1, 1, (40, 20)), 0.5)
    assert 0 < slope < 0.01 and np.isclose(expit(offset), 0.25, atol=0.02)


def draw(n, seed=0):
    """Injuries of three kinds: some raise p_local, some the first share, some nothing."""
    random = np.random.default_rng(seed)
    p_local, shares = expit(1.5 * random.normal(2, 3, n) - 6), random.normal(size=(n, 9)) * 0.1
    missed = (1 - 0.1) * (1 - p_local) * (1 - expit(40 * shares[:, 0] - 4))
    return (random.random(n) > missed).astype(int), p_local, shares


def p_shares(weights, shares):
    return expit(
        (shares - np.array(weights["mean"])) / np.array(weights["scale"]) @ np.array(weights["weights"])
        + weights["intercept"]
    )


def test_the_fit_finds_what_the_shares_say():
    weights, leak = fit_shares(*draw(4000))
    shares = np.zeros((3, 9))
    shares[:, 0] = [-0.2, 0.1, 0.2]
    assert np.allclose(p_shares(weights, shares), expit(40 * shares[:, 0] - 4), atol=0.08)
    assert abs(leak - 0.1) < 0.04


def test_the_probabilities_of_all_voices_together_are_calibrated():
    labels, p_local, shares = draw(2000)
    weights, leak = fit_shares(labels, p_local, shares)
    p = 1 - (1 - leak) * (1 - p_local) * (1 - p_shares(weights, shares))
    assert abs(p.mean() - labels.mean()) < 0.01
    low, high = p < np.median(p), p >= np.median(p)
    assert abs(p[low].mean() - labels[low].mean()) < 0.03 and abs(p[high].mean() - labels[high].mean()) < 0.03


def test_what_no_voice_explains_is_left_to_the_leak():
    """Injuries that neither scores nor shares show: the shares stay near 0 for ordinary scans."""
    random = np.random.default_rng(0)
    labels, shares = (random.random(110) < 0.45).astype(int), random.normal(size=(110, 9))
    weights, leak = fit_shares(labels, np.full(110, 0.05), shares)
    assert np.median(p_shares(weights, shares)) < 0.1 and leak > 0.2


def test_scores_of_one_network_are_moved_to_the_scale_of_several():
    assert on_one_scale(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.5, 9.0])) == -1.5
    assert on_one_scale(np.zeros(0), np.zeros(0)) == 0

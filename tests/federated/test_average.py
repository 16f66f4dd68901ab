"""The mean of the sites' weights."""

import numpy as np
import pytest

from federated.average import average
from federated.messages import FederationError

RNG = np.random.default_rng(0)
STATES = {
    name: {"w": RNG.normal(size=(40, 3)).astype(np.float32), "count": np.array(number)}
    for name, number in (("b", 9), ("a", 10), ("c", 10))
}
SCANS = {"a": 30, "b": 20, "c": 7}


def test_the_mean_is_weighted_by_training_scans():
    mean = average(STATES, SCANS)
    exact = np.average([STATES[name]["w"].astype(np.longdouble) for name in "abc"], axis=0, weights=[30, 20, 7])
    np.testing.assert_array_equal(mean["w"], exact.astype(np.float32))
    assert mean["w"].dtype == np.float32


def test_whole_numbers_are_rounded_not_cut():
    assert average(STATES, SCANS)["count"] == 10  # 9.65
    assert average(STATES, SCANS)["count"].dtype == STATES["a"]["count"].dtype


def test_the_order_of_arrival_changes_no_bit():
    for order in ("abc", "cab", "bca"):
        mean = average({name: STATES[name] for name in order}, SCANS)
        assert mean["w"].tobytes() == average(STATES, SCANS)["w"].tobytes()


def test_one_site_keeps_its_weights():
    mean = average({"a": STATES["a"]}, {"a": 31})
    assert mean["w"].tobytes() == STATES["a"]["w"].tobytes() and mean["count"] == 10


@pytest.mark.parametrize(
    "change, message",
    [
        ({"w": np.full((40, 3), np.nan, np.float32)}, "diverged: w in the weights of b is not finite"),
        ({"w": np.zeros((3, 40), np.float32)}, r"weights of b do not fit the network: w is float32\[3, 40\]"),
        ({"w": np.zeros((40, 3))}, "weights of b do not fit the network: w is float64"),
        ({"other": np.zeros(1)}, "weights of b do not fit the network: other is missing or unknown"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, message):
    with pytest.raises(FederationError, match=message):
        average({**STATES, "b": STATES["b"] | change}, SCANS)

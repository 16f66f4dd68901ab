"""The mean of the sites' weights, the same to the bit in whatever order they arrive."""

from collections.abc import Mapping, Sequence

import numpy as np

from .messages import FederationError


def average(states: Mapping[str, Mapping[str, np.ndarray]], scans: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Average whole networks, weighted by training scans (FedAvg, arXiv 1602.05629).

    Sites are summed in the order of their names in float64. The result has the types of the input; whole numbers, such
    as BatchNorm's number of batches, are rounded. The mean of BatchNorm's variances leaves out how far the sites'
    means lie apart, which changed no answer where it was tried (docs/measured.md, "Several hospitals").

    Args:
        states: site -> name of a tensor -> values.
        scans: site -> number of its training scans, at least 1.

    Raises:
        FederationError: the sites' tensors differ in name, shape or type, or a value is not finite.
    """
    sites = sorted(states)
    first = states[sites[0]]
    for site in sites:
        check_state(states[site], first, site)
    total = float(sum(scans[site] for site in sites))
    return {
        name: _mean([states[site][name] for site in sites], [scans[site] for site in sites], total) for name in first
    }


def check_state(state: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], whose: str) -> None:
    """Check that weights have the names, shapes and types of `expected`, and finite values.

    Raises:
        FederationError: they do not. The message names the first such tensor.
    """
    if different := sorted(state.keys() ^ expected.keys()):
        raise FederationError(f"The weights of {whose} do not fit the network: {different[0]} is missing or unknown.")
    for name, value in state.items():
        like = expected[name]
        if not isinstance(value, np.ndarray):
            raise FederationError(f"The weights of {whose} do not fit the network: {name} is no array.")
        if (value.shape, value.dtype) != (like.shape, like.dtype):
            raise FederationError(
                f"The weights of {whose} do not fit the network: {name} is {value.dtype}{list(value.shape)}, not "
                f"{like.dtype}{list(like.shape)}."
            )
        if not np.isfinite(value).all():
            raise FederationError(
                f"Training diverged: {name} in the weights of {whose} is not finite. Start a new federated run with a "
                "lower learning_rate."
            )
        if name.endswith("running_var") and (value < 0).any():
            raise FederationError(f"The weights of {whose} do not fit the network: {name} has a variance below 0.")


def _mean(values: Sequence[np.ndarray], scans: Sequence[int], total: float) -> np.ndarray:
    summed = np.zeros(values[0].shape, np.float64)
    for value, weight in zip(values, scans, strict=True):
        summed += weight * value.astype(np.float64)
    mean = summed / total
    kind = values[0].dtype
    return (np.rint(mean) if np.issubdtype(kind, np.integer) else mean).astype(kind)

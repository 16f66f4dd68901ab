"""Modality dropout, and the subsets of the modalities that a network is asked with."""

from itertools import combinations

import numpy as np
import torch
from torch import Tensor


def drop_modalities(rng: np.random.Generator, presence: Tensor, probability: float) -> Tensor:
    """Leave out each modality of each scan with this probability, so that the network learns to do without it.

    T2w, the first, is always kept. The network blanks what is not present.

    Args:
        rng: draws (B, C - 1) numbers.
        presence: (B, C) bool, which modalities each scan has.
        probability: 0-1.

    Returns:
        (B, C) bool, a new tensor.
    """
    kept = np.ones(tuple(presence.shape), bool)
    kept[:, 1:] = rng.random((len(presence), presence.shape[1] - 1)) >= probability
    return presence & torch.as_tensor(kept, device=presence.device)


def subsets(modalities: list[str]) -> list[tuple[str, ...]]:
    """Every subset of the modalities that contains T2w, the first; the smallest first, all of them last."""
    first, *others = modalities
    return [(first, *chosen) for size in range(len(modalities)) for chosen in combinations(others, size)]


def subset_name(subset: tuple[str, ...] | list[str]) -> str:
    """A subset in tables, such as T2w+FA."""
    return "+".join(subset)

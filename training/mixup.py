"""Mixup of standardised volumes (Zhang et al. 2018, arXiv 1710.09412), with one lambda per sample."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Mixing(NamedTuple):
    """The partner of each volume in a batch, and the share of the volume itself."""

    shares: np.ndarray
    """(B,), lambda in [0, 1]"""
    partners: np.ndarray
    """(B,), a permutation of the batch indices"""


def draw_mixing(rng: np.random.Generator, batch_size: int, *, mixup_prob: float, mixup_alpha: float) -> Mixing | None:
    """Draw lambda_i ~ Beta(alpha, alpha) and a permutation with probability `mixup_prob` per mini-batch; else None."""
    if rng.random() >= mixup_prob:
        return None
    return Mixing(rng.beta(mixup_alpha, mixup_alpha, size=batch_size), rng.permutation(batch_size))


def mix(volumes: Tensor, targets: Tensor, mixing: Mixing) -> tuple[Tensor, Tensor]:
    """Return lambda_i x_i + (1 - lambda_i) x_pi(i) for the volumes, and the same for the class probabilities.

    Args:
        volumes: (B, C, R, A, S).
        targets: (B, C) class probabilities.
        mixing: lambda and pi, as drawn.

    Returns:
        New tensors of the same shapes.
    """
    shares = torch.as_tensor(mixing.shares, dtype=volumes.dtype, device=volumes.device)
    partners = torch.as_tensor(mixing.partners, device=volumes.device)
    mixed_volumes = torch.lerp(volumes[partners], volumes, shares.view(-1, 1, 1, 1, 1))
    return mixed_volumes, torch.lerp(targets[partners], targets, shares.view(-1, 1))


def mix_presence(presence: Tensor, mixing: Mixing) -> Tensor:
    """The modalities that both scans of a mixture have, (B, C) bool; the others count as missing.

    A channel of which only a share is there would look like neither a scan nor a missing channel, and its content would
    belong to one scan while the target belongs to both.
    """
    return presence & presence[torch.as_tensor(mixing.partners, device=presence.device)]

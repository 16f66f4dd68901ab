"""The weighted soft-label cross-entropy of the paper (arXiv 2606.02498) and its class weights."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(labels: Sequence[int], num_labels: int = 2) -> Tensor:
    """Return w_c = N / (C N_c), with which each class has the same total weight.

    Args:
        labels: of the training scans of a fold, 0 to C - 1.
        num_labels: C.

    Returns:
        (C,) float32.

    Raises:
        ValueError: a class is absent.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_labels)
    if (counts == 0).any():
        raise ValueError(f"Class weights need every class, but the counts are {counts.tolist()}.")
    return len(labels) / (num_labels * counts.float())


def weighted_soft_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return L = -(1/B) sum_i sum_c w_c y_ic log p_ic, computed in float32.

    Args:
        logits: (B, C).
        targets: (B, C) class probabilities, mixed or one-hot.
        weights: (C,).

    Returns:
        A scalar. The sum is divided by B, not by the sum of the weights.
    """
    return F.cross_entropy(logits.float(), targets, weight=weights)

"""The weighted soft-label cross-entropy and its class weights (method section 5)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(labels: Sequence[int], num_labels: int = 2) -> Tensor:
    """w_c = N / (C N_c) over the training part of a fold, so that each class weighs the same in all.

    Raises:
        ValueError: a class is absent.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_labels)
    if (counts == 0).any():
        raise ValueError(f"Class weights need every class, but the counts are {counts.tolist()}.")
    return len(labels) / (num_labels * counts.float())


def weighted_soft_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """L = -(1/B) sum_i sum_c w_c y_ic log p_ic, in float32.

    Args:
        logits: (B, C).
        targets: (B, C) class probabilities, mixed or one-hot.
        weights: (C,).

    Returns:
        A scalar: the sum is divided by B, not by the weights.
    """
    return F.cross_entropy(logits.float(), targets, weight=weights)

"""What every screening network shares: its loss, and probabilities averaged over a volume and its mirror image."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pipeline_gloresnet import VolumeClassificationPipeline  # noqa: F401  so that its file is saved with every model

TENSOR_LEFT_RIGHT_AXIS = 2  # of a (batch, channel, R, A, S) tensor


def screening_loss(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Return the unweighted cross-entropy, in a form that the Trainer of transformers can accumulate.

    Args:
        logits: (B, num_labels).
        labels: (B,) class indices, or (B, num_labels) class probabilities (soft labels). The loss function of
            transformers would treat soft labels as a multi-label task.
        num_items_in_batch: how many labels all micro-batches of an optimiser step have together, as the Trainer counts
            them: every entry of `labels`, so `num_labels` per scan for soft labels.

    Returns:
        A scalar: the mean over the batch; with `num_items_in_batch`, the part of this micro-batch in the mean over all
        scans of the step. These parts add up to the same loss for every split of the step.
    """
    if num_items_in_batch is None:
        return F.cross_entropy(logits, labels)
    total = F.cross_entropy(logits, labels, reduction="sum")
    if torch.is_tensor(num_items_in_batch):
        num_items_in_batch = num_items_in_batch.to(total.device)
    return total * math.prod(labels.shape[1:]) / num_items_in_batch


class ScreeningInference(nn.Module):
    """Adds `predict_views` and `predict_proba` to a classifier whose config is a `ScreeningConfig`."""

    config: Any
    num_labels: int

    @torch.no_grad()
    def predict_views(self, pixel_values: Tensor, test_time_augmentation: bool | None = None) -> Tensor:
        """Return class probabilities of each view: the plain volume, then its left-right mirror image.

        The logits are divided by `config.temperature`. The model predicts in evaluation mode; afterwards it is back in
        the mode it was in before.

        Args:
            pixel_values: (B, 1, R, A, S).
            test_time_augmentation: `False` leaves out the mirrored view; `None` follows the configuration.

        Returns:
            (V, B, num_labels) float32; V is 2, or 1 without the mirrored view.
        """
        if test_time_augmentation is None:
            test_time_augmentation = self.config.test_time_augmentation
        was_training = self.training
        self.eval()
        try:
            logits = self.view_logits(pixel_values, bool(test_time_augmentation))
        finally:
            self.train(was_training)
        probabilities = (logits / self.config.temperature).softmax(dim=-1)
        return probabilities.reshape(2 if test_time_augmentation else 1, -1, self.num_labels)

    def view_logits(self, pixel_values: Tensor, mirrored: bool) -> Tensor:
        """Return logits of the volumes and, if `mirrored`, of their mirror images: (V * B, num_labels) float32."""
        views = [pixel_values, pixel_values.flip(TENSOR_LEFT_RIGHT_AXIS)] if mirrored else [pixel_values]
        return self(torch.cat(views)).logits.float()

    def predict_proba(self, pixel_values: Tensor, test_time_augmentation: bool | None = None) -> Tensor:
        """Return p(x) = 1/2 [softmax f(x) + softmax f(flip x)], where flip mirrors left and right (the paper's rule).

        Args:
            pixel_values: (B, 1, R, A, S).
            test_time_augmentation: `False` returns softmax f(x) alone; `None` follows the configuration.

        Returns:
            (B, num_labels) float32; rows sum to 1 and column 1 is the probability of injury.
        """
        return self.predict_views(pixel_values, test_time_augmentation).mean(dim=0)

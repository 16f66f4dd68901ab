"""What every screening network shares: its loss, and probabilities averaged over a volume and its mirror image."""

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .local_gloresnet import Judgement, fuse
from .pipeline_gloresnet import VolumeClassificationPipeline  # noqa: F401  so that its file is saved with every model
from .screening_gloresnet import GLOBAL_ONLY

TENSOR_LEFT_RIGHT_AXIS = 2  # of a (batch, channel, R, A, S) tensor
INJURY = 1  # the column of the probability of injury


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


def blank_missing(pixel_values: Tensor, presence: Tensor | None) -> Tensor:
    """Return the volumes with zeros, the mean of a standardised channel, in the channels that are missing.

    Args:
        pixel_values: (B, C, R, A, S).
        presence: (B, C) bool, which modalities each scan has; None if it has all.

    Raises:
        ValueError: the shapes do not fit.
    """
    if presence is None:
        return pixel_values
    if tuple(presence.shape) != tuple(pixel_values.shape[:2]):
        raise ValueError(
            f"presence must be (batch, channels), here {tuple(pixel_values.shape[:2])}, not {tuple(presence.shape)}; "
            "use the image processor to make it."
        )
    return torch.where(presence.bool()[:, :, None, None, None], pixel_values, 0)


def of_views(presence: Tensor | None, mirrored: bool) -> dict[str, Tensor]:
    """The keyword `presence` for the volumes and, if `mirrored`, their mirror images; none for a scan that has all."""
    return {} if presence is None else {"presence": torch.cat([presence, presence]) if mirrored else presence}


class ScreeningInference(nn.Module):
    """Adds `predict_views` and `predict_proba` to a classifier whose config is a `ScreeningConfig`."""

    config: Any
    num_labels: int
    local: Any  # the LocalStream of a network that has one; others lack it

    @torch.no_grad()
    def predict_views(
        self,
        pixel_values: Tensor,
        test_time_augmentation: bool | None = None,
        local_patches: Tensor | None = None,
        local_positions: Tensor | None = None,
        local_valid: Tensor | None = None,
        local_shares: Tensor | None = None,
        presence: Tensor | None = None,
    ) -> Tensor:
        """Return class probabilities of each view: the plain volume, then its left-right mirror image.

        The logits are divided by `config.temperature`. The model predicts in evaluation mode; afterwards it is back in
        the mode it was in before. Of a network with a local stream, the global stream has two views and the local
        stream has one, with which both are fused. Without its inputs, the answers are those of the global stream.

        Args:
            pixel_values: (B, C, R, A, S).
            test_time_augmentation: `False` leaves out the mirrored view; `None` follows the configuration.
            local_patches, local_positions, local_valid, local_shares: as the processor makes them for a network with a
                local stream; other networks ignore them. Positions are not needed.
            presence: (B, C) bool, which modalities each scan has, see `blank_missing`; None if it has all.

        Returns:
            (V, B, num_labels) float32; V is 2, or 1 without the mirrored view.

        Warns:
            UserWarning: the network has a local stream, but its inputs are missing.
        """
        views, _, _ = self.predict_both(
            pixel_values, test_time_augmentation, local_patches, local_valid, local_shares, presence
        )
        return views

    @torch.no_grad()
    def predict_streams(
        self,
        pixel_values: Tensor,
        test_time_augmentation: bool | None = None,
        local_patches: Tensor | None = None,
        local_positions: Tensor | None = None,
        local_valid: Tensor | None = None,
        local_shares: Tensor | None = None,
        presence: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return what each stream says, and what they say together.

        Args:
            pixel_values, test_time_augmentation, local_patches, ...: see `predict_views`.

        Returns:
            float32 tensors. `members` (1, V, B, num_labels): the class probabilities of both streams together, as in
            `predict_views`. Probabilities of injury: `p_global` (B,), the mean over the views; `p_local` and `p_shares`
            (B,), NaN where that voice is silent; `candidates` (B, N), NaN for padding.
        """
        views, own, judged = self.predict_both(
            pixel_values, test_time_augmentation, local_patches, local_valid, local_shares, presence
        )
        unknown = own.new_full((own.shape[1],), torch.nan)
        return {
            "members": views[None],
            "p_global": own.mean(dim=0)[:, INJURY],
            "p_local": unknown if judged is None else judged.p_local,
            "p_shares": unknown if judged is None else judged.p_shares,
            "candidates": unknown[:, None][:, :0] if judged is None else judged.candidates,
        }

    @torch.no_grad()
    def predict_both(
        self,
        pixel_values: Tensor,
        test_time_augmentation: bool | None,
        patches: Tensor | None,
        valid: Tensor | None,
        shares: Tensor | None = None,
        presence: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Judgement | None]:
        """Return the probabilities of each view from both streams, those of the global stream, and the local judgement.

        The arguments are those of `predict_views`. The judgement is None if there is nothing to judge it by.
        """
        if test_time_augmentation is None:
            test_time_augmentation = self.config.test_time_augmentation
        was_training = self.training
        self.eval()
        try:
            logits = self.view_logits(pixel_values, bool(test_time_augmentation), presence) / self.config.temperature
            judged = self.judge(patches, valid, shares)
        finally:
            self.train(was_training)
        logits = logits.reshape(2 if test_time_augmentation else 1, -1, self.num_labels)
        own = logits.softmax(dim=-1)
        if judged is None:
            if hasattr(self, "local"):
                warnings.warn(GLOBAL_ONLY, UserWarning, stacklevel=4)
            return own, own, None
        return fuse(logits.log_softmax(dim=-1), judged).exp(), own, judged

    def judge(self, patches: Tensor | None, valid: Tensor | None, shares: Tensor | None) -> Judgement | None:
        """What the local stream says; None if the network has none, or no inputs for it.

        Raises:
            ValueError: `patches` without `valid`, or shapes that do not fit.
        """
        if patches is None or not hasattr(self, "local"):
            return None
        if valid is None:
            raise ValueError(
                "local_patches came without local_valid: pass everything that the image processor returns."
            )
        return self.local.judge(patches, valid, shares)

    def view_logits(self, pixel_values: Tensor, mirrored: bool, presence: Tensor | None = None) -> Tensor:
        """Return logits of the volumes and, if `mirrored`, of their mirror images: (V * B, num_labels) float32.

        Only the global stream has logits of views. All channels are mirrored.
        """
        views = [pixel_values, pixel_values.flip(TENSOR_LEFT_RIGHT_AXIS)] if mirrored else [pixel_values]
        return self(torch.cat(views), **of_views(presence, mirrored)).logits.float()

    def predict_proba(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor | None
    ) -> Tensor:
        """Return p(x) = 1/2 [softmax f(x) + softmax f(flip x)], where flip mirrors left and right (the paper's rule).

        Args:
            pixel_values: (B, C, R, A, S).
            test_time_augmentation: `False` returns softmax f(x) alone; `None` follows the configuration.
            **others: `presence`, `local_patches`, `local_positions`, `local_valid`, `local_shares`, see
                `predict_views`.

        Returns:
            (B, num_labels) float32; rows sum to 1 and column 1 is the probability of injury.
        """
        return self.predict_views(pixel_values, test_time_augmentation, **others).mean(dim=0)

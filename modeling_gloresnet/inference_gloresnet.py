"""Class probabilities of every screening network, averaged over a volume and its mirror image."""

import torch
from torch import Tensor

TENSOR_LEFT_RIGHT_AXIS = 2  # of a (batch, channel, R, A, S) tensor


class ScreeningInference:
    """Adds `predict_views` and `predict_proba` to a classifier whose config is a `ScreeningConfig`."""

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

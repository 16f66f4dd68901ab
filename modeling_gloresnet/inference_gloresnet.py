"""How every screening network answers: class probabilities, averaged over a volume and its mirror image."""

import torch
from torch import Tensor

LEFT_RIGHT_AXIS = 2  # of a (batch, channel, R, A, S) tensor


class ScreeningInference:
    """`predict_views` and `predict_proba` for a classifier whose config is a `ScreeningConfig`."""

    @torch.no_grad()
    def predict_views(self, pixel_values: Tensor, test_time_augmentation: bool | None = None) -> Tensor:
        """Class probabilities of each view of the volumes: as they are, then mirrored left to right.

        Args:
            pixel_values: (B, 1, R, A, S).
            test_time_augmentation: `False` leaves the mirrored view out; `None` follows the configuration.

        Returns:
            (V, B, num_labels) float32, V = 2 or 1, after division of the logits by `config.temperature`. The model
            answers in evaluation mode whatever mode it is in, and is left in the mode it was.
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
        """Logits of the volumes, then, if `mirrored`, of their mirror images: (V * B, num_labels) float32."""
        views = [pixel_values, pixel_values.flip(LEFT_RIGHT_AXIS)] if mirrored else [pixel_values]
        return self(torch.cat(views)).logits.float()

    def predict_proba(self, pixel_values: Tensor, test_time_augmentation: bool | None = None) -> Tensor:
        """p(x) = 1/2 [softmax f(x) + softmax f(flip x)], the flip along the left-right axis (method section 6).

        Args:
            pixel_values: (B, 1, R, A, S).
            test_time_augmentation: `False` gives softmax f(x) alone; `None` follows the configuration.

        Returns:
            (B, num_labels) float32; rows sum to 1, column 1 is the probability of injury.
        """
        return self.predict_views(pixel_values, test_time_augmentation).mean(dim=0)

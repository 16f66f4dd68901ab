"""Several networks of one cross-validation as one model: their probabilities averaged, and how far they differ."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils.generic import can_return_tuple

from .configuration_gloresnet import GloResNetConfig
from .modeling_gloresnet import GloResNetForImageClassification, GloResNetPreTrainedModel


class GloResNetEnsembleForImageClassification(GloResNetPreTrainedModel):
    """Networks of one geometry, each with its own temperature; `predict_proba` is the mean of theirs.

    `config.member_temperatures` has one entry a member. Its own `temperature` stays 1: a mean of calibrated
    probabilities is not made better known by another.
    """

    def __init__(self, config: GloResNetConfig):
        super().__init__(config)
        if not config.member_temperatures:
            raise ValueError("An ensemble needs config.member_temperatures, one number a member.")
        self.num_labels = config.num_labels
        self.members = nn.ModuleList(
            GloResNetForImageClassification(config.of_member(index)) for index in range(len(config.member_temperatures))
        )
        self.post_init()

    @classmethod
    def from_members(cls, members: list[GloResNetForImageClassification]) -> "GloResNetEnsembleForImageClassification":
        """An ensemble with copies of the members' weights, in evaluation mode; geometry and labels are the first's.

        Raises:
            RuntimeError: a member's weights have other names or shapes than the first's.
        """
        config = GloResNetConfig.from_dict(members[0].config.to_dict())
        config.member_temperatures = [member.config.temperature for member in members]
        config.temperature = 1.0
        ensemble = cls(config)
        for own, member in zip(ensemble.members, members, strict=True):
            own.load_state_dict(member.state_dict(), strict=True)
        return ensemble.eval()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs
    ) -> ImageClassifierOutputWithNoAttention:
        """Logits whose softmax is the mean of the members' probabilities, and the cross-entropy when labels are given.

        Args:
            pixel_values: (B, 1, R, A, S), as the processor makes them.
            labels: (B,) class indices, or (B, num_labels) class probabilities (soft labels).

        Returns:
            `logits` (B, num_labels): log (1/M) sum_m softmax(f_m(x) / T_m); `loss` or `None`.
        """
        each = [member(pixel_values).logits.float() / member.config.temperature for member in self.members]
        # the log of the mean, without leaving log space
        logits = torch.stack(each).log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(each))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)

    @torch.no_grad()
    def predict_members(self, pixel_values: Tensor, test_time_augmentation: bool | None = None) -> Tensor:
        """Class probabilities of each member and view, at the member's temperature: (M, V, B, num_labels) float32.

        `predict_members(x).mean(dim=1)[..., 1].std(dim=0)` is the spread of the probability of injury over members.
        """
        if test_time_augmentation is None:
            test_time_augmentation = self.config.test_time_augmentation
        return torch.stack([member.predict_views(pixel_values, test_time_augmentation) for member in self.members])

    def predict_views(self, pixel_values: Tensor, test_time_augmentation: bool | None = None) -> Tensor:
        """Class probabilities of each view, the mean over the members: (V, B, num_labels) float32."""
        return self.predict_members(pixel_values, test_time_augmentation).mean(dim=0)

    def predict_proba(self, pixel_values: Tensor, test_time_augmentation: bool | None = None) -> Tensor:
        """Class probabilities, the mean over members and views: (B, num_labels) float32, rows sum to 1."""
        return self.predict_views(pixel_values, test_time_augmentation).mean(dim=0)


__all__ = ["GloResNetEnsembleForImageClassification"]

"""Several networks of one cross-validation as one model, which averages their probabilities."""

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils import can_return_tuple

from .configuration_gloresnet import LOCAL_OF_MEMBER, GloResNetConfig
from .inference_gloresnet import screening_loss
from .local_gloresnet import fuse
from .modeling_gloresnet import GloResNetForImageClassification, GloResNetPreTrainedModel


class GloResNetEnsembleForImageClassification(GloResNetPreTrainedModel):
    """Networks of the same geometry, each with its own temperature. `predict_proba` averages their probabilities.

    `config.member_temperatures` has one entry per member. `config.temperature` stays 1: the members are calibrated one
    by one, and their mean is not calibrated again.
    """

    def __init__(self, config: GloResNetConfig):
        super().__init__(config)
        if not config.member_temperatures:
            raise ValueError("An ensemble needs config.member_temperatures, one number per member.")
        self.num_labels = config.number_of_labels
        self.members = nn.ModuleList(
            GloResNetForImageClassification(config.of_member(index)) for index in range(len(config.member_temperatures))
        )
        self.post_init()

    @classmethod
    def from_members(cls, members: list[GloResNetForImageClassification]) -> "GloResNetEnsembleForImageClassification":
        """Return an ensemble in evaluation mode that holds copies of the members' weights.

        Geometry and labels are taken from the first member.

        Raises:
            ValueError: some members have a local stream and others do not, or they have other modalities.
            RuntimeError: the weights of a member differ in names or shapes from those of the first.
        """
        config = GloResNetConfig.from_dict(members[0].config.to_dict())
        config.member_temperatures = [member.config.temperature for member in members]
        config.temperature = 1.0
        if len({member.config.local_stream for member in members}) > 1:
            raise ValueError("some members have a local stream and others do not: train all with the same setting.")
        # members of an earlier version do not name their modality
        named = {", ".join(getattr(member.config, "modalities", ["T2w"])) for member in members}
        if len(named) > 1:
            raise ValueError(f"the members have different modalities ({' and '.join(sorted(named))}): train all alike.")
        if config.local_stream:
            config.member_local = [{n: getattr(m.config, n) for n in LOCAL_OF_MEMBER} for m in members]
        ensemble = cls(config)
        for own, member in zip(ensemble.members, members, strict=True):
            own.load_state_dict(member.state_dict(), strict=True)
        return ensemble.eval()

    def _networks(self) -> Iterable[GloResNetForImageClassification]:
        return cast(Iterable[GloResNetForImageClassification], self.members)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        local_patches: Tensor | None = None,
        local_positions: Tensor | None = None,
        local_valid: Tensor | None = None,
        local_shares: Tensor | None = None,
        presence: Tensor | None = None,
        **kwargs,
    ) -> ImageClassifierOutputWithNoAttention:
        """Return logits whose softmax is the mean of the members' probabilities, and the loss if labels are given.

        Args:
            pixel_values: (B, C, R, A, S), as the processor returns them.
            labels: (B,) class indices, or (B, num_labels) class probabilities (soft labels).
            num_items_in_batch: given by the Trainer of transformers if it accumulates gradients; see `screening_loss`.
            local_patches, local_positions, local_valid, local_shares: for members with a local stream, see
                `predict_views`; others ignore them.
            presence: (B, C) bool, which modalities each scan has; None if it has all.

        Returns:
            `logits` (B, num_labels): log (1/M) sum_m softmax(f_m(x) / T_m), or the log of the mean of what the streams
            of each member say together; `loss`, the mean cross-entropy of the global streams, or `None`.
        """
        networks = list(self._networks())
        own = [
            member(pixel_values, presence=presence).logits.float() / member.config.temperature for member in networks
        ]
        each = torch.stack(own).log_softmax(dim=-1)
        # the log of the mean probability, computed in log space for numerical stability
        logits = each.logsumexp(dim=0) - math.log(len(own))
        loss = None if labels is None else screening_loss(logits, labels, num_items_in_batch)
        if local_patches is not None and self.config.local_stream:
            judged = [member.judge(local_patches, local_valid, local_shares) for member in self._networks()]
            fused = [fuse(log, said) for log, said in zip(each, judged, strict=True) if said is not None]
            logits = torch.stack(fused).logsumexp(dim=0) - math.log(len(fused))
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)

    @torch.no_grad()
    def predict_members(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor | None
    ) -> Tensor:
        """Return class probabilities of each member and view, at the member's temperature.

        `predict_members(x).mean(dim=1)[..., 1].std(dim=0)` shows how far the members disagree about injury.

        Args:
            pixel_values: (B, C, R, A, S).
            test_time_augmentation: `False` leaves out the mirrored view; `None` follows the configuration.
            **others: `presence` for members of several modalities; `local_patches`, `local_positions`, `local_valid`,
                `local_shares` for members with a local stream.

        Returns:
            (M, V, B, num_labels) float32.
        """
        if test_time_augmentation is None:
            test_time_augmentation = self.config.test_time_augmentation
        each = [member.predict_views(pixel_values, test_time_augmentation, **others) for member in self._networks()]
        return torch.stack(each)

    @torch.no_grad()
    def predict_streams(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor | None
    ) -> dict[str, Tensor]:
        """Return what each stream says, as `predict_streams` of a single network; means over the members.

        Only `members` (M, V, B, num_labels) has an entry per member.
        """
        if test_time_augmentation is None:
            test_time_augmentation = self.config.test_time_augmentation
        each = [member.predict_streams(pixel_values, test_time_augmentation, **others) for member in self._networks()]
        members = torch.cat([said.pop("members") for said in each])
        return {"members": members} | {name: torch.stack([said[name] for said in each]).mean(dim=0) for name in each[0]}

    def predict_views(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor | None
    ) -> Tensor:
        """Return class probabilities of each view, averaged over the members: (V, B, num_labels) float32."""
        return self.predict_members(pixel_values, test_time_augmentation, **others).mean(dim=0)

    def predict_proba(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor | None
    ) -> Tensor:
        """Return class probabilities, averaged over members and views: (B, num_labels) float32; rows sum to 1."""
        return self.predict_views(pixel_values, test_time_augmentation, **others).mean(dim=0)


# `save_pretrained` then copies the code into the model folder
GloResNetEnsembleForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["GloResNetEnsembleForImageClassification"]

"""What screening, the page and the maps may ask of a model, and the rule that turns a probability into a label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from run_folder import provenance

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

INJURY = 1  # the column of the probability of injury


class ScreeningModel(Protocol):
    """A trained model in evaluation mode. `load_model` returns one, and `screening.fast.prepare` a faster one.

    Attributes:
        config: labels (`id2label`), `threshold`, `temperature`, `image_size`, `provenance` and `training_appearance`,
            as in `GloResNetConfig`.
        device: where the model computes; `pixel_values` must be there.
        dtype: the precision of the network: `float32`, `bfloat16`, `float16` or `int8`.
        networks: the PyTorch networks that heat maps can be made of, one per ensemble member. Empty for a converted
            file, a model prepared for speed and a baseline.
    """

    @property
    def config(self) -> Any: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> str: ...

    @property
    def networks(self) -> tuple[nn.Module, ...]: ...

    def answer(
        self, inputs: dict[str, np.ndarray], test_time_augmentation: bool | None = None
    ) -> dict[str, np.ndarray]:
        """What screening asks a model, in arrays: `predict_streams` of a model with a local stream, else `members`.

        Args:
            inputs: `pixel_values` (B, 1, R, A, S) float32 and, for a local stream, what `stack_local_inputs` returns.
            test_time_augmentation: see `predict_members`.
        """
        ...

    def predict_members(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor
    ) -> Tensor:
        """Class probabilities of each ensemble member and view.

        Args:
            pixel_values: (B, C, R, A, S), as the processor makes them.
            test_time_augmentation: `False` skips the mirrored view; `None` follows the configuration.
            **others: `local_patches`, `local_positions`, `local_valid` and `local_shares` as the processor makes them,
                for a model with a local stream. Without them, the global stream answers alone. And `presence` (B, C)
                for a model that takes several modalities; without it, it counts all as present.

        Returns:
            (M, V, B, num_labels) float32: M = 1 for a single network; V = 2 views (original, mirrored left to right)
            or 1.
        """
        ...

    def predict_streams(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor
    ) -> dict[str, Tensor]:
        """What each stream of a model with a local stream says; see `ScreeningInference.predict_streams`.

        Only `members` (M, V, B, num_labels) has an entry per ensemble member.
        """
        ...

    def predict_views(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor
    ) -> Tensor:
        """The mean of `predict_members` over the members, (V, B, num_labels) float32."""
        ...

    def predict_proba(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor
    ) -> Tensor:
        """The mean of `predict_views` over the views, (B, num_labels) float32; each row sums to 1."""
        ...


def predicted_label(p_injury: float, config: Any, scan: str) -> str:
    """The label of a scan: injury if the probability reaches `config.threshold`.

    Args:
        p_injury: the mean probability over the views.
        config: of the model.
        scan: the scan's name for the message.

    Raises:
        ValueError: `p_injury` is not between 0 and 1, for instance NaN.
    """
    if not 0 <= p_injury <= 1:
        raise ValueError(f"{scan}: the model returned {p_injury}, which is not a probability; check the model.")
    return config.id2label[INJURY if p_injury >= config.threshold else 1 - INJURY]


def has_local_stream(config: Any) -> bool:
    """Whether a model has a local stream. The configuration may be of a class from before it existed."""
    return bool(getattr(config, "local_stream", False))


def is_trained(model: ScreeningModel) -> bool:
    """Whether the weights were trained. A trained model records the number of its training scans."""
    return bool((model.config.provenance or {}).get("train_scans"))


def caution(model: ScreeningModel) -> str:
    """The sentence that belongs to every answer of a model trained on phantoms or painted injuries, else ""."""
    return provenance.caution(model.config.provenance)

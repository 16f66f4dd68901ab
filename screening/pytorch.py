"""A PyTorch model behind the `ScreeningModel` protocol."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from architectures.networks import member_temperatures, resnets_of


def allow_tf32(allowed: bool) -> None:
    """Let a GPU round the factors of float32 products to 10 bits (TF32), or not.

    PyTorch allows it for convolutions by default.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


class PyTorchModel:
    """A GloResNet, an ensemble or a baseline as a `ScreeningModel`.

    `module` may be a class from a model folder's own code, possibly of an older version. So this class asks only for
    methods that every version has, and decides by the configuration, never by the class.

    Args:
        module: the model, in evaluation mode.
        networks: the networks that heat maps can be made of; by default every ResNet in `module`.
    """

    def __init__(self, module: nn.Module, networks: tuple[nn.Module, ...] | None = None):
        self.module: Any = module  # of a class that this project may not have
        self.networks = resnets_of(module) if networks is None else networks

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def dtype(self) -> str:
        return str(self.module.dtype).removeprefix("torch.")

    @torch.inference_mode()
    def answer(
        self, inputs: dict[str, np.ndarray], test_time_augmentation: bool | None = None
    ) -> dict[str, np.ndarray]:
        """See `ScreeningModel`."""
        tensors = {name: torch.from_numpy(rows).to(self.device) for name, rows in inputs.items()}
        pixel_values = tensors.pop("pixel_values")
        if "local_patches" in tensors:
            said = self.predict_streams(pixel_values, test_time_augmentation, **tensors)
        else:
            said = {"members": self.predict_members(pixel_values, test_time_augmentation, **tensors)}
        return {name: rows.float().cpu().numpy() for name, rows in said.items()}

    def predict_members(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor
    ) -> Tensor:
        """(M, V, B, num_labels), see `ScreeningModel`."""
        if member_temperatures(self.config):
            return self.module.predict_members(pixel_values, test_time_augmentation, **others)
        return self.module.predict_views(pixel_values, test_time_augmentation, **others)[None]

    def predict_streams(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor
    ) -> dict[str, Tensor]:
        """See `ScreeningModel`."""
        return self.module.predict_streams(pixel_values, test_time_augmentation, **others)

    def predict_views(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor
    ) -> Tensor:
        """(V, B, num_labels), see `ScreeningModel`."""
        return self.module.predict_views(pixel_values, test_time_augmentation, **others)

    def predict_proba(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor
    ) -> Tensor:
        """(B, num_labels), see `ScreeningModel`."""
        return self.module.predict_proba(pixel_values, test_time_augmentation, **others)

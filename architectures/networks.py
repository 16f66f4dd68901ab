"""The networks that a recipe can name, their configurations, and the function that builds them.

Importing this module does not import torch or transformers.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

    from modeling_gloresnet import (
        BaselineConfig,
        BaselineForImageClassification,
        GloResNetConfig,
        GloResNetForImageClassification,
    )

Architecture = Literal["resnet10", "resnet18", "resnet50", "compact", "vit_base", "swin_unet_encoder", "densenet121"]
ARCHITECTURES = typing.get_args(Architecture)
DEPTHS = {"resnet10": 10, "resnet18": 18, "resnet50": 50}  # MedicalNet has weights for these
NAMES = {"vit_base": "3D ViT-Base", "swin_unet_encoder": "3D Swin-UNet encoder", "densenet121": "3D DenseNet-121"}


class MissingPackageError(ImportError):
    """An architecture needs a package that is not installed. The message says how to install it."""


def is_resnet(config: Any) -> bool:
    """Whether a configuration is that of a ResNet (GloResNet) or an ensemble of them.

    It asks the configuration and not the class: a model folder brings classes of its own (`trust_remote_code`).
    """
    return config.model_type == "gloresnet"


def is_baseline(config: Any) -> bool:
    """Whether a configuration is that of one of the paper's other architectures."""
    return config.model_type == "gloresnet_baseline"


def member_temperatures(config: Any) -> list[float]:
    """The temperature of each member of an ensemble; empty for a single network."""
    return config.member_temperatures if is_resnet(config) else []


def resnets_of(model: Any) -> tuple[nn.Module, ...]:
    """The ResNets in a PyTorch model: each member of an ensemble, or the model itself; none in a baseline."""
    if member_temperatures(model.config):
        return tuple(model.members)
    return (model,) if is_resnet(model.config) else ()


def problem(architecture: str, image_size: int, init: str, gradient_checkpointing: bool) -> str | None:
    """Say why these settings cannot be combined and what to do, or return None if they can."""
    if init != "random" and architecture not in DEPTHS:
        return f"{architecture} has no MedicalNet weights: add --init random."
    if architecture not in NAMES:
        return None
    from modeling_gloresnet import wrong_size

    if gradient_checkpointing:
        return f"gradient_checkpointing works with the ResNets only, not with {architecture}: leave it out."
    return wrong_size(architecture, image_size)


def new_config(
    architecture: str, image_size: int = 128, medicalnet: bool = False, modalities: Sequence[str] = ("T2w",)
) -> GloResNetConfig | BaselineConfig:
    """Return the configuration of an architecture.

    Args:
        architecture: one of `ARCHITECTURES`. `resnet10` is the paper's GloResNet, `compact` is our narrower version.
        image_size: edge of the cubic input volume, voxels.
        medicalnet: whether the network will hold MedicalNet's weights. MedicalNet's ResNet-18 uses shortcut type A;
            type B has the number of parameters that the paper gives.
        modalities: what each input channel shows, T2w first; see `GloResNetConfig`.

    Raises:
        StrictDataclassError: the architecture cannot take this image size, or a modality is not known.
    """
    from modeling_gloresnet import BaselineConfig, GloResNetConfig

    size: dict[str, Any] = {"image_size": image_size, "modalities": list(modalities)}
    if architecture in DEPTHS:
        shortcut = "A" if medicalnet and architecture == "resnet18" else "B"
        return GloResNetConfig.from_depth(DEPTHS[architecture], shortcut_type=shortcut, **size)
    if architecture == "compact":
        return GloResNetConfig.compact(**size)
    name: Any = architecture  # BaselineConfig checks it
    return BaselineConfig(architecture=name, **size)


def build(
    config: GloResNetConfig | BaselineConfig, medicalnet: str | Path | None = None
) -> GloResNetForImageClassification | BaselineForImageClassification:
    """Build the classifier of a configuration.

    Args:
        config: as `new_config` returns it.
        medicalnet: file or Hub repository with MedicalNet's weights for the encoder of a ResNet; None for random ones.

    Raises:
        MissingPackageError: MONAI, or a package that MONAI needs for this network, is not installed.
        FileNotFoundError, MedicalNetImportError: the MedicalNet weights are unavailable or do not fit.
    """
    from modeling_gloresnet import BaselineForImageClassification, GloResNetConfig, GloResNetForImageClassification

    if isinstance(config, GloResNetConfig):
        if medicalnet is not None:
            return GloResNetForImageClassification.from_medicalnet(medicalnet, config)
        return GloResNetForImageClassification(config)
    try:
        return BaselineForImageClassification(config)
    except ImportError as error:
        package = (error.name or "a package that it needs").split(".")[0]
        raise MissingPackageError(
            f"{config.architecture} is built with MONAI, and {package} is not installed: "
            "pip install -r requirements-baselines.txt."
        ) from error


def network_name(config: GloResNetConfig | BaselineConfig) -> str:
    """Return the network's name for cards, tables and the page. The configuration may be of a model folder's code."""
    if is_baseline(config):
        return NAMES[config.architecture]
    narrow = "" if list(config.widths) == [64, 128, 256, 512] else f" of widths {'-'.join(map(str, config.widths))}"
    return f"3D ResNet-{config.network_depth}{narrow}"

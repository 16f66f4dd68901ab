"""Grad-CAM of the baselines, and of any other architecture, from the last feature map that keeps spatial positions."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from architectures.networks import is_resnet
from explanation.gradcam import (
    MAP_LEFT_RIGHT_AXIS,
    divided_by_maximum,
    gradcam_map,
    in_float32,
    maps_and_gradients,
    place,
    stage_steps,
)


class LastMap(NamedTuple):
    """The last spatial feature map of a network, and its position: voxel i is centred on input voxel start + step * i.

    Attributes:
        module: outputs the map (B, C, d, h, w), or tokens (B, 1 + g^3, C) with the class token first.
        step: distance between neighbouring voxels of the map, input voxels.
        start: centre of the first voxel, input voxels.
    """

    module: nn.Module
    step: float
    start: float


def last_map(model: Any) -> LastMap:
    """The feature map that Grad-CAM uses in a GloResNet or a baseline, also if loaded with `trust_remote_code`.

    - ResNets: the last stage. Its voxels are centred on every 32nd input voxel.
    - `densenet121`: the features after the last ReLU. Each of its three poolings over 2^3 voxels moves the centres by
      half a voxel of the map before it: 2 + 4 + 8 input voxels.
    - `swin_unet_encoder`: the last stage, before the pooling. One voxel covers 32^3 input voxels.
    - `vit_base`: the patches as the last block's attention reads them. After it, no path leads from a patch to the
      class token, so later maps have no gradient.
    """
    if is_resnet(model.config):
        return LastMap(model.base_model.layers[-1], stage_steps(model)[-1], 0)
    network = model.network
    return {
        "densenet121": lambda: LastMap(network.densenet.class_layers.relu, 32, 14),
        "swin_unet_encoder": lambda: LastMap(network.encoder.layers4[0], 32, 15.5),
        "vit_base": lambda: LastMap(network.vit.blocks[-1].norm1, 16, 7.5),
    }[model.config.architecture]()


def explain_baseline(model: Any, pixel_values: Tensor, target: int = 1) -> Tensor:
    """Grad-CAM maps on the input grid, averaged over the same views as the model's prediction.

    It works for every architecture. For a GloResNet it equals `explanation.gradcam.explain(..., method="gradcam")`.
    The model is not changed.

    Args:
        model: a GloResNet or a baseline, in any mode and precision.
        pixel_values: (B, C, S, S, S), from the processor.
        target: the class to show evidence for; 1 is injury.

    Returns:
        (B, S, S, S) float32 on the input's device. Each map is divided by its maximum: 0 to 1, or all 0 if there is no
        evidence for the class. The maps are as coarse as the network's last feature map, which for some networks is a
        single voxel at 32^3.

    Raises:
        ValueError: the model has no such class.
    """
    model = in_float32(model)
    views = [pixel_values]
    if model.config.test_time_augmentation:
        views.append(pixel_values.flip(MAP_LEFT_RIGHT_AXIS + 1))
    where = last_map(model)
    ((activation, gradient),) = maps_and_gradients(model, [where.module], torch.cat(views), target)
    maps = gradcam_map(_grid(activation), _grid(gradient))
    heat, *mirrored = place(maps, where.step, pixel_values.shape[2:], start=where.start).split(len(pixel_values))
    for other in mirrored:
        heat = (heat + other.flip(MAP_LEFT_RIGHT_AXIS)) / 2
    return divided_by_maximum(heat).to(pixel_values.device)


def _grid(tokens: Tensor) -> Tensor:
    """Arrange tokens (B, N, C) as a cube (B, C, g, g, g) and drop the class token. A map (5 axes) stays unchanged."""
    if tokens.ndim == 5:
        return tokens
    edge = round((tokens.shape[1] - 1) ** (1 / 3))
    patches = tokens[:, -(edge**3) :]
    return patches.transpose(1, 2).unflatten(2, (edge, edge, edge))

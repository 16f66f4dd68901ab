"""Grad-CAM of any architecture, from the last map that still has a place in the volume."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from architectures.networks import is_resnet
from explanation.gradcam import gradcam_map, maps_and_gradients, place, stage_steps


class LastMap(NamedTuple):
    """Where a network's last map is, and where its voxels lie: voxel i of an axis is centred on start + step * i.

    Attributes:
        module: puts the map out, (B, C, d, h, w), or tokens (B, 1 + g^3, C), the class token first.
        step, start: input voxels.
    """

    module: nn.Module
    step: float
    start: float


def last_map(model: nn.Module) -> LastMap:
    """The map that Grad-CAM reads in this model, a GloResNet or a baseline, also loaded by `trust_remote_code`.

    - ResNets: the last stage, each voxel centred on every 32nd input voxel.
    - `densenet121`: the features after the last ReLU. Its three poolings over 2^3 voxels move the centres by half a
      voxel of the map before: 2 + 4 + 8 input voxels.
    - `swin_unet_encoder`: the last stage, before the pooling; a voxel stands for 32^3 input voxels.
    - `vit_base`: the patches as the last block's attention reads them. Nothing after it leads from a patch to the class
      token, so later maps have no gradient.
    """
    if is_resnet(model.config):
        return LastMap(model.base_model.layers[-1], stage_steps(model)[-1], 0)
    network = model.network
    return {
        "densenet121": lambda: LastMap(network.densenet.class_layers.relu, 32, 14),
        "swin_unet_encoder": lambda: LastMap(network.encoder.layers4[0], 32, 15.5),
        "vit_base": lambda: LastMap(network.vit.blocks[-1].norm1, 16, 7.5),
    }[model.config.architecture]()


def explain_baseline(model: nn.Module, pixel_values: Tensor, target: int = 1) -> Tensor:
    """Grad-CAM maps on the input lattice, averaged over the views that the model's own answer is averaged over.

    The same for every architecture; for a GloResNet it is `explanation.gradcam.explain(..., method="gradcam")`. The
    model is left as it was.

    Args:
        model: a GloResNet or a baseline, in any mode and precision.
        pixel_values: (B, 1, S, S, S), as the processor makes them.
        target: the class whose evidence is shown, 1 for injury.

    Returns:
        (B, S, S, S) float32 on the input's device, each map divided by its maximum: 0 to 1, or all 0 where nothing
        speaks for the class. Such maps are as coarse as the network's last map: one voxel at 32^3 for some.

    Raises:
        ValueError: no such class.
    """
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        model = copy.deepcopy(model).float()  # small gradients would be lost to rounding
    views = [pixel_values]
    if model.config.test_time_augmentation:
        views.append(pixel_values.flip(2))
    where = last_map(model)
    ((activation, gradient),) = maps_and_gradients(model, [where.module], torch.cat(views), target)
    maps = gradcam_map(_grid(activation), _grid(gradient))
    heat, *mirrored = place(maps, where.step, pixel_values.shape[2:], start=where.start).split(len(pixel_values))
    for other in mirrored:
        heat = (heat + other.flip(1)) / 2
    highest = heat.amax(dim=(1, 2, 3), keepdim=True)
    return torch.where(highest > 0, heat / highest, torch.zeros_like(heat)).to(pixel_values.device)


def _grid(tokens: Tensor) -> Tensor:
    """Tokens (B, N, C) on their cube (B, C, g, g, g), without a class token before them; a map as it is."""
    if tokens.ndim == 5:
        return tokens
    edge = round((tokens.shape[1] - 1) ** (1 / 3))
    patches = tokens[:, -(edge**3) :]
    return patches.transpose(1, 2).unflatten(2, (edge, edge, edge))

"""Grad-CAM and LayerCAM heat maps of a network's prediction, and their resampling to the scan's own voxel grid.

    inputs = processor("scan.nii.gz", return_tensors="pt")
    heat = explain(model, inputs["pixel_values"])[0]                    # (S, S, S) on the input grid, 0 to 1
    scan_image(heat, read_volume("scan.nii.gz")).to_filename("heat.nii.gz")

A map shows what the prediction was based on, not where an injury is. Its scale is not calibrated: the map of a wrong
prediction is as bright as that of a right one. `explanation.localisation` measures how well maps find phantom injuries.
"""

import copy
import threading
from collections.abc import Sequence
from math import prod
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor, nn

from architectures.networks import resnets_of
from preprocessing import Frame, Volume, resample
from preprocessing.resampling_gloresnet import whole_grid

METHODS = ("layercam", "gradcam")
MAP_LEFT_RIGHT_AXIS = 1  # of a map (batch, R, A, S)


def explain(
    model: nn.Module | Sequence[nn.Module], pixel_values: Tensor, method: str = "layercam", target: int = 1
) -> Tensor:
    """Heat maps on the input grid, averaged over the same views as the model's prediction.

    The map of the mirrored view is mirrored back first. The model's modes, gradients and parameters are not changed.
    Presence flags are not needed: they shift the logits by a constant, and the channels they stand for are 0.

    Args:
        model: a GloResNet classifier or ensemble in any mode and precision, on any device, also if loaded with
            `trust_remote_code`; or the `networks` of a `ScreeningModel`. The maps of several networks are averaged.
        pixel_values: (B, C, R, A, S), from the processor. All channels are mirrored.
        method: `layercam`, or `gradcam` of the last stage.
        target: the class to show evidence for; 1 is injury.

    Returns:
        (B, R, A, S) float32 on the input's device. Each map is divided by its maximum: 0 to 1, or all 0 if there is no
        evidence for the class.

    Raises:
        ValueError: unknown method or class, or another architecture.
    """
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r}: choose one of {', '.join(METHODS)}.")
    networks = resnets_of(model) if isinstance(model, nn.Module) else model
    if not networks:
        raise ValueError("These maps exist for ResNets only: use explanation.baseline_maps for a baseline.")
    maps = [_explain_network(network, pixel_values, method, target) for network in networks]
    return maps[0] if len(maps) == 1 else divided_by_maximum(torch.stack(maps).mean(dim=0))


def _explain_network(model: Any, pixel_values: Tensor, method: str, target: int) -> Tensor:
    """`explain` for one network."""
    views = [pixel_values]
    if model.config.test_time_augmentation:
        views.append(pixel_values.flip(MAP_LEFT_RIGHT_AXIS + 1))
    batch = torch.cat(views)
    steps = stage_steps(model)
    if method == "gradcam":
        maps, step = gradcam(model, batch, target), steps[-1]
    else:
        stages = default_stages(model, pixel_values.shape[2:])
        maps, step = layercam(model, batch, target, stages), min(steps[stage - 1] for stage in stages)
    heat, *mirrored = place(maps, step, pixel_values.shape[2:]).split(len(pixel_values))
    for other in mirrored:
        heat = (heat + other.flip(MAP_LEFT_RIGHT_AXIS)) / 2
    return divided_by_maximum(heat).to(pixel_values.device)


def gradcam(model: nn.Module, pixel_values: Tensor, target: int = 1, stage: int | None = None) -> Tensor:
    """Grad-CAM of one stage: ReLU(sum_c a_c A_c), where a_c is the spatial mean of d logit / d A_c.

    Selvaraju et al. 2017 (10.1109/ICCV.2017.74), equations 1 and 2.

    Args:
        stage: number of the stage, counted from 1; the last stage by default.

    Returns:
        (B, d, h, w) float32, >= 0, not scaled. Along an axis, voxel i is centred on input voxel
        `stage_steps(model)[stage - 1] * i`.

    Raises:
        ValueError: there is no such stage or class.
    """
    model = in_float32(model)
    stages = (len(stage_steps(model)) if stage is None else stage,)
    ((activation, gradient),) = maps_and_gradients(model, _modules(model, stages), pixel_values, target)
    return gradcam_map(activation, gradient)


def layercam(
    model: nn.Module,
    pixel_values: Tensor,
    target: int = 1,
    stages: Sequence[int] | None = None,
    smooth: bool = True,
) -> Tensor:
    """LayerCAM of several stages: ReLU(sum_c ReLU(d logit / d A_c) A_c) of each stage, then the maximum over stages.

    Jiang et al. 2021 (10.1109/TIP.2021.3089943) weight each voxel by its own gradient, so earlier stages with finer
    maps can be used. The stages differ in scale by orders of magnitude, so each map is first divided by its maximum.
    They also take the maximum over stages, so a stage without evidence at a voxel does not suppress another stage.

    Args:
        stages: the stages to use, counted from 1; `default_stages` by default.
        smooth: first average the gradients over a voxel of the last stage. This is ours. Without it, the gradients of a
            strided network peak at the voxels that every later stride reads, for any scan and any weights: the
            checkerboard of Herdt et al. 2024 (arXiv 2404.02282). With an input of 64^3, the only such voxel inside the
            head is the centre, and the maximum of the unsmoothed map is there for every scan.

    Returns:
        (B, D, H, W) float32, 0 to 1, on the voxel grid of the finest of these stages.

    Raises:
        ValueError: there is no such stage or class.
    """
    model = in_float32(model)
    stages = default_stages(model, pixel_values.shape[2:]) if stages is None else tuple(stages)
    found = maps_and_gradients(model, _modules(model, stages), pixel_values, target)
    every = stage_steps(model)
    steps = [every[stage - 1] for stage in stages]
    finest = steps.index(min(steps))
    placed = []
    for (activation, gradient), step in zip(found, steps, strict=True):
        if smooth:
            gradient = _smoothed(gradient, every[-1] // step)
        heat = divided_by_maximum(layercam_map(activation, gradient))
        placed.append(place(heat, step, found[finest][0].shape[2:], steps[finest]))
    return torch.stack(placed).amax(dim=0)


def default_stages(model: nn.Module, size: Sequence[int]) -> tuple[int, ...]:
    """The stages whose maps have at least 8 voxels per edge for an input of `size` voxels, and always the first stage.

    In the maximum over stages, a coarse map hides the finer ones nearly everywhere. We measured this with
    `explanation.localisation` on a 64^3 network of the phantom cohort, whose maps have 16, 8, 4 and 2 voxels per edge.
    Enlarged ventricles get 1.9 times the heat of a uniform map with stages 1 and 2, 1.6 times with stages 1 to 3, and
    1.1 times with stages 2 to 4 (random weights: 1.2, 1.2 and 1.1). The choice was made on that run, so these values
    are slightly optimistic. Larger inputs were not measured.
    """
    steps = stage_steps(model)
    return tuple(stage for stage, step in enumerate(steps, start=1) if stage == 1 or (min(size) - 1) // step + 1 >= 8)


# ------------------------------------------------------------------------------------------------ for any architecture


def maps_and_gradients(
    model: nn.Module, modules: Sequence[nn.Module], pixel_values: Tensor, target: int
) -> list[tuple[Tensor, Tensor]]:
    """The outputs of modules inside a network, and the gradients of a class's logit with respect to them.

    The network runs in evaluation mode, so that the scans of a batch do not affect each other. No parameter gets a
    gradient.

    Args:
        model: returns logits (B, classes), alone or as the first item of its output.
        modules: modules of this model that run once per forward pass. If a module returns several items, the first is
            used.

    Returns:
        (activation, gradient) per module: tensors of equal shape, detached, float32.

    Raises:
        ValueError: the model has no such class, or a module did not run.
    """
    outputs: dict[nn.Module, Tensor] = {}
    thread = threading.get_ident()

    def keep(module, _, output):
        if threading.get_ident() == thread:  # another thread of a server may use the same network
            outputs[module] = _first(output)

    modes = [(module, module.training) for module in model.modules()]
    handles = [module.register_forward_hook(keep) for module in modules]
    model.eval()
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(pixel_values.device.type, enabled=False),
        ):
            device = next(model.parameters()).device
            # with a gradient required for the input, every map has one, even if all parameters are frozen
            pixel_values = pixel_values.detach().clone().to(device, torch.float32).requires_grad_()
            logits = _first(model(pixel_values))
            if logits.ndim != 2 or not 0 <= target < logits.shape[1]:
                raise ValueError(
                    f"There is no class {target} in an output of shape {tuple(logits.shape)}: give a classifier and "
                    "one of its classes, counted from 0."
                )
            if missing := [type(module).__name__ for module in modules if module not in outputs]:
                raise ValueError(f"The network did not run {', '.join(missing)}: give modules of this network.")
            activations = [outputs[module] for module in modules]
            gradients = torch.autograd.grad(logits[:, target].sum(), activations)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return [(a.detach().float(), g.float()) for a, g in zip(activations, gradients, strict=True)]


def gradcam_map(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM (B, d, h, w) from a pair that `maps_and_gradients` returns, (B, C, d, h, w) each."""
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)
    return (weights * activation).sum(dim=1).relu()


def layercam_map(activation: Tensor, gradient: Tensor) -> Tensor:
    """LayerCAM (B, d, h, w) from a pair that `maps_and_gradients` returns, (B, C, d, h, w) each."""
    return (gradient.relu() * activation).sum(dim=1).relu()


def place(maps: Tensor, step: float, size: Sequence[int], out_step: float = 1, start: float = 0) -> Tensor:
    """Trilinear interpolation from the voxel grid of a feature map to another grid over the same input.

    Voxel i of the map is centred on input voxel start + step * i, and voxel j of the result on out_step * j. Beyond the
    outer centres, the nearest value is used. A layer with an odd kernel and padding (kernel - 1) / 2 has start 0 for
    any stride; this holds for all layers of a GloResNet. Patches of p voxels have step p and start (p - 1) / 2.

    Args:
        maps: (B, d, h, w).
        step: distance between neighbouring voxels of the map, input voxels.
        size: shape of the result.
        out_step: distance between neighbouring voxels of the result, input voxels.
        start: centre of the map's first voxel, input voxels.

    Returns:
        (B, *size), same type as `maps`.
    """
    for axis, (count, wanted) in enumerate(zip(maps.shape[1:], size, strict=True), start=1):
        at = (torch.arange(wanted, device=maps.device) * out_step - start) / step
        at = at.clamp(0, count - 1)
        shares = (1 - (at[:, None] - torch.arange(count, device=maps.device)).abs()).clamp(min=0)
        maps = _along(maps, axis, shares)
    return maps


def stage_steps(model: Any) -> list[int]:
    """Distance between neighbouring voxels of each stage's map, in input voxels: 4, 8, 16, 32 with the defaults."""
    config = model.config
    stem = config.stem_stride * (2 if config.stem_pooling else 1)
    return [stem * prod(config.strides[: stage + 1]) for stage in range(len(config.strides))]


# ----------------------------------------------------------------------------------------------- on the scan's own grid


def cube_affine(volume: Volume, size: int) -> np.ndarray:
    """Affine of a cube of `size`^3 voxels that covers the volume's frame: voxels to mm (RAS+).

    Without a frame, the corner voxels of the cube coincide with those of the scan.

    Returns:
        (4, 4) float64. For a volume without an affine, one voxel of the scan counts as 1 mm.
    """
    frame = volume.frame or whole_grid(volume.data.shape)
    to_scan = np.eye(4)
    for axis, (first, last) in enumerate(zip(frame.first, frame.last, strict=True)):
        to_scan[axis, axis] = (last - first) / (size - 1) if size > 1 and last > first else 1.0
        to_scan[axis, 3] = first
    return _affine(volume) @ to_scan


def map_image(heat: Tensor | np.ndarray, volume: Volume) -> nibabel.Nifti1Image:
    """A map (S, S, S) as a float32 NIfTI on its own voxel grid. Its affine lets viewers overlay it on the scan."""
    data = _as_array(heat)
    return nibabel.Nifti1Image(data, cube_affine(volume, data.shape[0]))


def scan_image(heat: Tensor | np.ndarray, volume: Volume) -> nibabel.Nifti1Image:
    """A map (S, S, S) interpolated to the scan's own voxel grid, float32, with the axes in the file's order.

    The interpolation is trilinear, as in the preprocessing. Outside the volume's frame, the map is 0. Affine and shape
    (first three axes) are those of the file that the volume was read from.
    """
    cube, frame = _as_array(heat), volume.frame or whole_grid(volume.data.shape)
    low, high = np.array(frame.first), np.array(frame.last)
    # where the scan's corner voxels are in the cube
    ends = [(corner - low) / (high - low) * (len(cube) - 1) for corner in (0.0, np.array(volume.data.shape) - 1)]
    on_scan = resample(cube, volume.data.shape, Frame(tuple(ends[0]), tuple(ends[1])))
    data = on_scan.astype(np.float32, copy=False)  # resample may compute in float64
    stored = nibabel.orientations.axcodes2ornt(tuple(volume.stored_orientation))
    ras = nibabel.orientations.axcodes2ornt(("R", "A", "S"))
    return nibabel.Nifti1Image(data, _affine(volume)).as_reoriented(nibabel.orientations.ornt_transform(ras, stored))


def peak_position(heat: Tensor | np.ndarray, volume: Volume) -> tuple[float, float, float]:
    """Position of the maximum of a map (S, S, S), in mm of the scan (RAS+); the first such voxel if there are several.

    Raises:
        ValueError: the map is 0 everywhere.
    """
    data = _as_array(heat)
    if not data.any():
        raise ValueError("The map is 0 everywhere (no evidence for the class), so it has no peak.")
    index = np.unravel_index(data.argmax(), data.shape)
    x, y, z = nibabel.affines.apply_affine(cube_affine(volume, data.shape[0]), index)
    return float(x), float(y), float(z)


# ------------------------------------------------------------------------------------------------------------- details


def _modules(model: Any, stages: Sequence[int]) -> list[nn.Module]:
    layers = model.base_model.layers
    if not stages or not all(1 <= stage <= len(layers) for stage in stages):
        raise ValueError(f"There are no stages {list(stages)}: choose from 1 to {len(layers)}.")
    return [layers[stage - 1] for stage in stages]


def in_float32(model: nn.Module) -> nn.Module:
    """The model, or a float32 copy if it is in half precision, which would round small gradients to 0."""
    if all(tensor.dtype == torch.float32 for tensor in model.parameters()):
        return model
    return copy.deepcopy(model).float()


def _smoothed(gradient: Tensor, width: int) -> Tensor:
    """Smooth each axis with a triangle of this half width, which removes any pattern of that period.

    The triangle is cut off and rescaled at the borders, so border voxels count less.
    """
    for axis in (2, 3, 4):
        at = torch.arange(gradient.shape[axis], device=gradient.device)
        shares = (1 - (at[:, None] - at).abs() / width).clamp(min=0)
        gradient = _along(gradient, axis, shares / shares.sum(dim=1, keepdim=True))
    return gradient


def _along(maps: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Apply a matrix (new, old) along one axis."""
    with torch.autocast(maps.device.type, enabled=False):
        return torch.tensordot(maps, matrix.to(maps.dtype), dims=([axis], [1])).movedim(-1, axis)


def divided_by_maximum(maps: Tensor) -> Tensor:
    """Each map (B, d, h, w) divided by its maximum; all 0 if it has no value above 0."""
    highest = maps.amax(dim=(1, 2, 3), keepdim=True)
    return torch.where(highest > 0, maps / highest, torch.zeros_like(maps))


def _first(output) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _affine(volume: Volume) -> np.ndarray:
    return np.eye(4) if volume.affine is None else volume.affine


def _as_array(heat: Tensor | np.ndarray) -> np.ndarray:
    heat = heat.detach().cpu().numpy() if isinstance(heat, Tensor) else heat
    return np.ascontiguousarray(heat, dtype=np.float32)

"""Where a network looks: Grad-CAM and LayerCAM heat maps, and their way back into the scan.

    inputs = processor("scan.nii.gz", return_tensors="pt")
    heat = explain(model, inputs["pixel_values"])[0]                    # (S, S, S) on the input lattice, 0 to 1
    scan_image(heat, read_volume("scan.nii.gz")).to_filename("heat.nii.gz")

A map says what a network's answer rested on, not where an injury is: it has no calibrated scale, and a wrong answer has
as bright a map as a right one. `python -m explanation.localisation` measures how far it can be trusted on phantoms.
"""

import copy
import threading
from collections.abc import Sequence
from math import prod

import nibabel
import numpy as np
import torch
from torch import Tensor, nn

from architectures.networks import resnets_of
from preprocessing import Volume

METHODS = ("layercam", "gradcam")
LEFT_RIGHT_AXIS = 1  # of a (batch, R, A, S) map


def explain(
    model: nn.Module | Sequence[nn.Module], pixel_values: Tensor, method: str = "layercam", target: int = 1
) -> Tensor:
    """Heat maps on the input lattice, averaged over the views that the model's own answer is averaged over.

    The mirrored view's map is mirrored back first. The model is left as it was: modes, gradients, parameters.

    Args:
        model: a GloResNet classifier or ensemble, in any mode, precision and on any device; also loaded by
            `trust_remote_code`. Or the `networks` of a `ScreeningModel`. The maps of several networks are averaged.
        pixel_values: (B, 1, R, A, S), as the processor makes them.
        method: `layercam` or `gradcam` (of the last stage).
        target: the class whose evidence is shown, 1 for injury.

    Returns:
        (B, R, A, S) float32 on the input's device, each map divided by its maximum: 0 to 1, or all 0 where nothing
        speaks for the class.

    Raises:
        ValueError: unknown method or class, or another architecture.
    """
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r}: choose one of {', '.join(METHODS)}.")
    networks = resnets_of(model) if isinstance(model, nn.Module) else model
    if not networks:
        raise ValueError("These maps exist for ResNets only: use explanation.baseline_maps for a baseline.")
    maps = [_explain_network(network, pixel_values, method, target) for network in networks]
    return maps[0] if len(maps) == 1 else _divided_by_maximum(torch.stack(maps).mean(dim=0))


def _explain_network(model: nn.Module, pixel_values: Tensor, method: str, target: int) -> Tensor:
    """`explain` for one network."""
    views = [pixel_values]
    if model.config.test_time_augmentation:
        views.append(pixel_values.flip(LEFT_RIGHT_AXIS + 1))
    views = torch.cat(views)
    steps = stage_steps(model)
    if method == "gradcam":
        maps, step = gradcam(model, views, target), steps[-1]
    else:
        stages = default_stages(model, pixel_values.shape[2:])
        maps, step = layercam(model, views, target, stages), min(steps[stage - 1] for stage in stages)
    heat, *mirrored = place(maps, step, pixel_values.shape[2:]).split(len(pixel_values))
    for other in mirrored:
        heat = (heat + other.flip(LEFT_RIGHT_AXIS)) / 2
    return _divided_by_maximum(heat).to(pixel_values.device)


def gradcam(model: nn.Module, pixel_values: Tensor, target: int = 1, stage: int | None = None) -> Tensor:
    """Grad-CAM of one stage's map: ReLU(sum_c a_c A_c), a_c the mean over space of d logit / d A_c.

    Selvaraju et al. 2017 (10.1109/ICCV.2017.74), equations 1 and 2.

    Args:
        stage: 1 to the number of stages; the last when left out.

    Returns:
        (B, d, h, w) float32, >= 0, not scaled; voxel i of an axis is centred on input voxel `stage_steps[stage-1]` * i.

    Raises:
        ValueError: no such stage or class.
    """
    model = _in_float32(model)
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
    """LayerCAM over several stages: each stage's ReLU(sum_c ReLU(d logit / d A_c) A_c), fused by the greatest value.

    Jiang et al. 2021 (10.1109/TIP.2021.3089943): gradients are taken voxel by voxel, so that earlier stages, which see
    finer, can be used. Each stage's map is divided by its maximum, as they differ in scale by orders of magnitude, and
    the greatest value at a place is kept, as in the paper: a stage that finds nothing somewhere does not veto another.

    Args:
        stages: which ones, counting from 1; `default_stages` when left out.
        smooth: average the gradients over a voxel of the last stage first (ours). As published, a strided network's
            gradients peak wherever a voxel is read by every stride after it, whatever the scan and the weights: the
            checkerboard of Herdt et al. 2024 (arXiv 2404.02282). On a 64^3 lattice the one such voxel inside the head
            is its centre, where the plain map has its maximum for every scan.

    Returns:
        (B, D, H, W) float32, 0 to 1, on the grid of the finest of these stages.

    Raises:
        ValueError: no such stage or class.
    """
    model = _in_float32(model)
    stages = default_stages(model, pixel_values.shape[2:]) if stages is None else tuple(stages)
    found = maps_and_gradients(model, _modules(model, stages), pixel_values, target)
    every = stage_steps(model)
    steps = [every[stage - 1] for stage in stages]
    finest = steps.index(min(steps))
    placed = []
    for (activation, gradient), step in zip(found, steps, strict=True):
        if smooth:
            gradient = _smoothed(gradient, every[-1] // step)
        heat = _divided_by_maximum(layercam_map(activation, gradient))
        placed.append(place(heat, step, found[finest][0].shape[2:], steps[finest]))
    return torch.stack(placed).amax(dim=0)


def default_stages(model: nn.Module, size: Sequence[int]) -> tuple[int, ...]:
    """The stages whose maps of an input of `size` voxels have 8 or more on every edge, at least the first.

    In the maximum over stages a coarser map hides the finer ones nearly everywhere. Measured on a 64^3 network of the
    phantom cohort (`explanation.localisation`; maps of 16, 8, 4 and 2 voxels): with stages 1 and 2 enlarged ventricles
    get 1.9 times the heat of a map even over the brain, with 1 to 3 1.6, with 2 to 4 1.1; with random weights 1.2, 1.2
    and 1.1. Chosen on that run, so its own figures are a little kind; larger lattices were not measured.
    """
    steps = stage_steps(model)
    return tuple(stage for stage, step in enumerate(steps, start=1) if stage == 1 or (min(size) - 1) // step + 1 >= 8)


# -------------------------------------------------------------------------------------- what any architecture can use


def maps_and_gradients(
    model: nn.Module, modules: Sequence[nn.Module], pixel_values: Tensor, target: int
) -> list[tuple[Tensor, Tensor]]:
    """What modules inside a network put out, and the gradient of a class's logit with respect to it.

    The network answers in evaluation mode, so that the scans of a batch do not meet; no parameter gets a gradient.

    Args:
        model: gives logits (B, classes), alone or as the first item of its output.
        modules: of this model, each run once in a pass; a tensor, or the first item of what it gives, is taken.

    Returns:
        (activation, gradient) for each module, of one shape, detached, float32.

    Raises:
        ValueError: the model has no such class, or a module was not run.
    """
    outputs: dict[nn.Module, Tensor] = {}
    thread = threading.get_ident()

    def keep(module, _, output):
        if threading.get_ident() == thread:  # a server may answer another request with the same network
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
            # an input that asks for a gradient gives one to every map, also where all parameters are frozen
            pixel_values = pixel_values.detach().clone().to(device, torch.float32).requires_grad_()
            logits = _first(model(pixel_values))
            if logits.ndim != 2 or not 0 <= target < logits.shape[1]:
                raise ValueError(
                    f"There is no class {target} in an output of shape {tuple(logits.shape)}: give a classifier and "
                    "one of its classes, counting from 0."
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
    """Grad-CAM from what `maps_and_gradients` gives, (B, C, d, h, w) each -> (B, d, h, w)."""
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)
    return (weights * activation).sum(dim=1).relu()


def layercam_map(activation: Tensor, gradient: Tensor) -> Tensor:
    """LayerCAM from what `maps_and_gradients` gives, (B, C, d, h, w) each -> (B, d, h, w)."""
    return (gradient.relu() * activation).sum(dim=1).relu()


def place(maps: Tensor, step: float, size: Sequence[int], out_step: float = 1, start: float = 0) -> Tensor:
    """Trilinear interpolation from a feature map's grid to another one over the same input.

    Voxel i of the map is centred on input voxel start + step * i, voxel j of the result on out_step * j; outside the
    centres the nearest value holds. An odd kernel with padding (kernel - 1) / 2 has start 0 whatever its stride, as all
    layers of a GloResNet; patches of p voxels have step p and start (p - 1) / 2.

    Args:
        maps: (B, d, h, w).
        size: of the result.

    Returns:
        (B, *size), the type of `maps`.
    """
    for axis, (count, wanted) in enumerate(zip(maps.shape[1:], size, strict=True), start=1):
        at = (torch.arange(wanted, device=maps.device) * out_step - start) / step
        at = at.clamp(0, count - 1)
        shares = (1 - (at[:, None] - torch.arange(count, device=maps.device)).abs()).clamp(min=0)
        maps = _along(maps, axis, shares)
    return maps


def stage_steps(model: nn.Module) -> list[int]:
    """How many input voxels lie between neighbouring voxels of each stage's map; 4, 8, 16, 32 with the defaults."""
    config = model.config
    stem = config.stem_stride * (2 if config.stem_pooling else 1)
    return [stem * prod(config.strides[: stage + 1]) for stage in range(len(config.strides))]


# ------------------------------------------------------------------------------------------------- back into the scan


def lattice_affine(volume: Volume, size: int) -> np.ndarray:
    """Voxel indices of a cube of `size` voxels, corner voxels on the scan's, to the scan's millimetres (RAS+).

    Returns:
        (4, 4) float64; for a volume without a position, the scan's own voxels count as millimetres.
    """
    edges = [(n - 1) / (size - 1) if min(n, size) > 1 else 1.0 for n in volume.data.shape]
    return _affine(volume) @ np.diag([*edges, 1.0])


def lattice_image(heat: Tensor | np.ndarray, volume: Volume) -> nibabel.Nifti1Image:
    """A map (S, S, S) as a float32 NIfTI of its own grid, which viewers lay over the scan by position."""
    data = _as_array(heat)
    return nibabel.Nifti1Image(data, lattice_affine(volume, data.shape[0]))


def scan_image(heat: Tensor | np.ndarray, volume: Volume) -> nibabel.Nifti1Image:
    """A map (S, S, S) interpolated onto the scan's own grid, float32, in the stored order of its axes.

    Trilinear, the inverse of the preprocessing's corner-on-corner resampling. Shape (its first three axes) and affine
    are those of the file the volume was read from.
    """
    batch = torch.from_numpy(_as_array(heat))[None, None]
    data = nn.functional.interpolate(batch, size=volume.data.shape, mode="trilinear", align_corners=True)[0, 0].numpy()
    stored = nibabel.orientations.axcodes2ornt(tuple(volume.stored_orientation))
    ras = nibabel.orientations.axcodes2ornt(("R", "A", "S"))
    return nibabel.Nifti1Image(data, _affine(volume)).as_reoriented(nibabel.orientations.ornt_transform(ras, stored))


def peak_position(heat: Tensor | np.ndarray, volume: Volume) -> tuple[float, float, float]:
    """Where a map (S, S, S) is highest, in the scan's millimetres (RAS+); the first such voxel if there are several.

    Raises:
        ValueError: the map is 0 everywhere.
    """
    data = _as_array(heat)
    if not data.any():
        raise ValueError("The map is 0 everywhere, nothing speaks for the class: it has no peak.")
    index = np.unravel_index(data.argmax(), data.shape)
    x, y, z = nibabel.affines.apply_affine(lattice_affine(volume, data.shape[0]), index)
    return float(x), float(y), float(z)


# ------------------------------------------------------------------------------------------------------------- details


def _modules(model: nn.Module, stages: Sequence[int]) -> list[nn.Module]:
    layers = model.base_model.layers
    if not stages or not all(1 <= stage <= len(layers) for stage in stages):
        raise ValueError(f"There are no stages {list(stages)}: choose among 1 to {len(layers)}.")
    return [layers[stage - 1] for stage in stages]


def _in_float32(model: nn.Module) -> nn.Module:
    """The model, or a float32 copy of one in half precision, whose small gradients would be lost to rounding."""
    if all(tensor.dtype == torch.float32 for tensor in model.parameters()):
        return model
    return copy.deepcopy(model).float()


def _smoothed(gradient: Tensor, width: int) -> Tensor:
    """A triangle of this half width along each axis, which flattens any pattern of that period; borders count less."""
    for axis in (2, 3, 4):
        at = torch.arange(gradient.shape[axis], device=gradient.device)
        shares = (1 - (at[:, None] - at).abs() / width).clamp(min=0)
        gradient = _along(gradient, axis, shares / shares.sum(dim=1, keepdim=True))
    return gradient


def _along(maps: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """A matrix (new, old) applied to one axis."""
    with torch.autocast(maps.device.type, enabled=False):
        return torch.tensordot(maps, matrix.to(maps.dtype), dims=([axis], [1])).movedim(-1, axis)


def _divided_by_maximum(maps: Tensor) -> Tensor:
    highest = maps.amax(dim=(1, 2, 3), keepdim=True)
    return torch.where(highest > 0, maps / highest, torch.zeros_like(maps))


def _first(output) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _affine(volume: Volume) -> np.ndarray:
    return np.eye(4) if volume.affine is None else volume.affine


def _as_array(heat: Tensor | np.ndarray) -> np.ndarray:
    heat = heat.detach().cpu().numpy() if isinstance(heat, Tensor) else heat
    return np.ascontiguousarray(heat, dtype=np.float32)

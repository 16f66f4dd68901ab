"""Measured parameters and multiply-adds of each architecture, next to the figures in the paper."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modeling_gloresnet import wrong_size

from .networks import ARCHITECTURES, NAMES, build, network_name, new_config

# Table 2 of arXiv 2606.02498: parameters in millions, GFLOPs
PAPER = {
    "vit_base": (86.4, 16.8),
    "swin_unet_encoder": (28.1, 6.4),
    "resnet50": (46.2, 8.2),
    "densenet121": (11.2, 5.8),
    "resnet18": (33.1, 6.1),
    "resnet10": (5.4, 3.9),
}


def parameters(model: nn.Module) -> int:
    """Number of trainable parameters. BatchNorm's running statistics are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def gmac(model: nn.Module, image_size: int, channels: int = 1) -> float:
    """Billions of multiply-adds (GMAC) of one forward pass over one volume, without the mirrored view.

    This is half the FLOPs that torch counts. It includes convolutions and matrix products, also those of attention, but
    not normalisation, activation or pooling.

    Args:
        model: on any device; on `meta`, nothing is computed and no memory is used.
        image_size: edge of the cubic volume, voxels.
        channels: of the volume.
    """
    parameter = next(model.parameters())
    volume = torch.zeros((1, channels) + (image_size,) * 3, device=parameter.device, dtype=parameter.dtype)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(volume)
    finally:
        model.train(was_training)
    return counter.get_total_flops() / 2e9


def measure(architecture: str, image_size: int = 128, modalities: Sequence[str] = ("T2w",)) -> tuple[int, float]:
    """Return parameters and GMAC of an architecture, for volumes with a channel per modality.

    Raises:
        MissingPackageError: MONAI is not installed.
        StrictDataclassError: the architecture cannot take this image size.
    """
    with torch.device("meta"):
        model = build(new_config(architecture, image_size, modalities=modalities))
    return parameters(model), gmac(model, image_size, len(modalities))


def cost_table(
    image_size: int = 128, architectures: Sequence[str] = ARCHITECTURES, modalities: Sequence[str] = ("T2w",)
) -> list[dict]:
    """Return one row per architecture, in the paper's order, with our own last.

    Returns:
        Rows of `architecture`, `network`, `parameters`, `gmac`, `paper_parameters_millions`, `paper_gflops` and
        `discrepancy` (a sentence). The paper's figures are None for our own architecture. The measured ones are None
        if the architecture cannot take this image size; `discrepancy` then says why.

    Raises:
        MissingPackageError: MONAI is not installed.
    """
    rows = []
    for architecture in sorted(architectures, key=[*PAPER, "compact"].index):
        millions, gflops = PAPER.get(architecture, (None, None))
        count, cost = None, None
        if architecture in NAMES and (message := wrong_size(architecture, image_size)):
            name, words = NAMES[architecture], message
        else:
            name = network_name(new_config(architecture, image_size))
            count, cost = measure(architecture, image_size, modalities)
            words = discrepancy(count, cost, millions, gflops, image_size)
        rows.append(
            {
                "architecture": architecture,
                "network": name,
                "parameters": count,
                "gmac": cost,
                "paper_parameters_millions": millions,
                "paper_gflops": gflops,
                "discrepancy": words,
            }
        )
    return rows


def discrepancy(parameters: int, gmac: float, stated: float | None, gflops: float | None, image_size: int) -> str:
    """Compare the measured figures with the stated ones, in words. `gmac` and `gflops` are in billions."""
    if stated is None or gflops is None:
        within = image_size == 128 and parameters <= 5.4e6 and gmac <= 3.9
        return "ours" + (", within the 5.4 M and 3.9 GFLOPs that the paper states for GloResNet" if within else "")
    ratio = parameters / 1e6 / stated
    if abs(parameters / 1e6 - stated) < 0.1:
        size = "parameters agree"
    elif ratio < 1.5:
        size = f"parameters {abs(ratio - 1):.1%} {'above' if ratio > 1 else 'below'}"
    else:
        size = f"{ratio:.2f} times the parameters"
    if image_size != 128:
        return f"{size}; the paper's GFLOPs are for 128^3"
    times = gmac / gflops
    return f"{size}; {times:.1f} times the GFLOPs, {2 * times:.1f} if the paper counts a multiply-add as two"


def markdown(rows: list[dict], image_size: int, modalities: Sequence[str] = ("T2w",)) -> str:
    """Format the table as Markdown, followed by a line that says what is counted."""
    header = ["architecture", "network", "parameters", "GMAC", "paper: parameters, GFLOPs", "discrepancy"]
    lines = [f"| {' | '.join(header)} |", "|---|---|---:|---:|---:|---|"]
    for row in rows:
        stated = "-" if row["paper_gflops"] is None else f"{row['paper_parameters_millions']} M, {row['paper_gflops']}"
        counts = ("-", "-") if row["gmac"] is None else (f"{row['parameters']:,}", f"{row['gmac']:.2f}")
        cells = [f"`{row['architecture']}`", row["network"], *counts, stated, row["discrepancy"]]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Measured at {image_size}^3, one volume, one view: multiply-adds of convolutions and matrix products, "
        "including those of attention, counted by torch."
        + (
            f" Channels: {', '.join(modalities)}; the paper's figures are for T2w alone." if len(modalities) > 1 else ""
        ),
    ]
    return "\n".join(lines)

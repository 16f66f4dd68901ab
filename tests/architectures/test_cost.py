"""The counter compared with calculations by hand: MAC = output voxels x kernel x input channels x output channels."""

import os

import pytest
import torch
from torch import nn

from architectures.__main__ import main
from architectures.cost import cost_table, discrepancy, gmac, markdown, measure

if not os.environ.get("CI"):
    pytest.importorskip("monai")


def resnet10_macs(stem, widths):
    """Multiply-adds at 128^3. The maps have edges of 64 voxels after the stem's convolution, then 32, 16, 8 and 4."""
    total, channels = 64**3 * 343 * stem, stem
    for edge, width in zip((32, 16, 8, 4), widths, strict=True):
        total += edge**3 * 27 * (channels * width + width**2)
        total += edge**3 * channels * width if channels != width or edge < 32 else 0
        channels = width
    return total + 2 * channels


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_one_convolution(device):
    with torch.device(device):
        network = nn.Conv3d(1, 4, 3, padding=1).train()
    assert gmac(network, 8) == 8**3 * 27 * 4 / 1e9
    assert network.training


@pytest.mark.parametrize(
    ("architecture", "stem", "widths", "count", "rounded"),
    [
        ("resnet10", 64, (64, 128, 256, 512), 14_356_546, 17.82),
        ("compact", 16, (24, 64, 160, 320), 5_365_794, 3.70),
    ],
)
def test_resnet10_and_compact(architecture, stem, widths, count, rounded):
    parameters, cost = measure(architecture, 128)
    assert parameters == count
    assert cost == pytest.approx(resnet10_macs(stem, widths) / 1e9, rel=1e-12)
    assert cost == pytest.approx(rounded, abs=0.005)


def test_compact_is_within_the_papers_stated_budget():
    parameters, cost = measure("compact", 128)
    assert parameters <= 5.4e6 and cost <= 3.9


def test_attention_is_counted():
    tokens = 8**3 + 1
    layer = 12 * 768**2 * tokens + 2 * tokens**2 * 768
    assert measure("vit_base", 128)[1] == pytest.approx((512 * 4096 * 768 + 12 * layer + 2 * 768) / 1e9, rel=1e-12)


def test_attention_in_windows_is_counted():
    total = 32**3 * 64 * 96
    for stage, depth in enumerate((2, 2, 6, 2)):
        width, voxels = 96 * 2**stage, (32 // 2**stage) ** 3
        total += depth * voxels * (12 * width**2 + 2 * 64 * width)  # each token attends to the 64 tokens of its window
        if stage < 3:
            total += voxels // 8 * 8 * width * 2 * width
    assert measure("swin_unet_encoder", 128)[1] == pytest.approx((total + 2 * 768) / 1e9, rel=1e-12)


def test_the_table_has_every_architecture_and_states_the_discrepancy():
    rows = {row["architecture"]: row for row in cost_table(128)}
    assert list(rows) == [
        *("vit_base", "swin_unet_encoder", "resnet50", "densenet121", "resnet18", "resnet10", "compact")
    ]
    assert rows["resnet10"]["discrepancy"].startswith("2.66 times the parameters; 4.6 times the GFLOPs, 9.1 if")
    assert rows["densenet121"]["discrepancy"].startswith("parameters agree; 7.4 times the GFLOPs")
    assert "within the 5.4 M and 3.9 GFLOPs" in rows["compact"]["discrepancy"]


def test_discrepancies_in_words():
    assert discrepancy(9_000_000, 5.0, 10.0, 5.0, 64) == "parameters 10.0% below; the paper's GFLOPs are for 128^3"
    assert discrepancy(11_000_000, 5.0, 10.0, 5.0, 128).startswith("parameters 10.0% above; 1.0 times the GFLOPs, 2.0")


def test_the_row_names_an_impossible_size():
    (row,) = cost_table(48, ["swin_unet_encoder"])
    assert row["gmac"] is None and "the nearest are 32 and 64" in row["discrepancy"]
    assert "| - | - | 28.1 M, 6.4 |" in markdown([row], 48)


def test_the_command_prints_the_table_and_refuses_an_impossible_size(capsys):
    assert main(["--image_size", "64"]) == 0 and "| `compact` |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["--image_size", "8"])
    assert "choose 16 to 512 voxels" in capsys.readouterr().err


def test_a_further_modality_costs_kernels_and_flags():
    one, four = measure("resnet10"), measure("resnet10", modalities=["T2w", "T1w", "FA", "MD"])
    assert four[0] - one[0] == 3 * (64 * 343 + 2)  # a kernel of 7^3 per feature map, and a weight per label
    assert four[1] - one[1] == pytest.approx(3 * 64**3 * 343 * 64 / 1e9, rel=1e-9)

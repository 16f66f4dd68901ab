"""Grad-CAM of each baseline, compared with Captum and with the geometry of its patches and poolings."""

import os

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam

from architectures.networks import ARCHITECTURES, build, new_config
from explanation.baseline_maps import _grid, explain_baseline, last_map
from explanation.gradcam import explain

if not os.environ.get("CI"):
    pytest.importorskip("monai")


def model_of(architecture, image_size=64):
    torch.manual_seed(1)
    return build(new_config(architecture, image_size)).eval()


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in ("resnet18", "resnet50")])
def test_a_map_is_on_the_input_grid_and_the_model_is_unchanged(architecture):
    model = model_of(architecture).train()
    volume = torch.randn(2, 1, 64, 64, 64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    maps = [explain_baseline(model, volume, target) for target in (0, 1)]
    for heat in maps:
        assert heat.shape == (2, 64, 64, 64) and heat.dtype == torch.float32
        assert heat.min() >= 0 and heat.max() <= 1
    assert max(heat.max() for heat in maps) == 1  # at least one class has evidence
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_for_a_gloresnet_it_equals_its_gradcam():
    model, volume = model_of("compact"), torch.randn(1, 1, 64, 64, 64)
    assert torch.allclose(explain_baseline(model, volume), explain(model, volume, method="gradcam"), atol=1e-6)


@pytest.mark.parametrize("target", [0, 1])
def test_densenet_equals_captum(target):
    model, volume = model_of("densenet121"), torch.randn(2, 1, 64, 64, 64)
    model.config.test_time_augmentation = False
    cam = LayerGradCam(lambda x: model(x).logits, model.network.densenet.class_layers.relu)
    maps = cam.attribute(volume, target=target, relu_attributions=True)[:, 0].detach()
    # the two voxels of an axis are centred on 14 and 46: linear in between, constant outside
    weight = ((torch.arange(64) - 14) / 32).clamp(0, 1)
    for axis in (1, 2, 3):
        first, second = maps.unbind(axis)
        shape = [1, 1, 1]
        shape[axis - 1] = 64
        along = weight.view(1, *shape)
        maps = first.unsqueeze(axis) * (1 - along) + second.unsqueeze(axis) * along
    highest = maps.amax((1, 2, 3), keepdim=True)
    expected = torch.where(highest > 0, maps / highest, maps)
    assert highest.max() > 0
    assert torch.allclose(explain_baseline(model, volume, target), expected, atol=1e-4)


def test_the_map_of_a_mirrored_scan_is_mirrored():
    model, volume = model_of("swin_unet_encoder"), torch.randn(1, 1, 64, 64, 64)
    assert torch.allclose(explain_baseline(model, volume.flip(2)), explain_baseline(model, volume).flip(1), atol=1e-4)


def test_map_voxels_are_centred_on_their_patches_and_poolings():
    pooled = 4 * torch.arange(32.0)[None]  # centres after the strided stem: every fourth voxel
    for _ in range(3):
        pooled = F.avg_pool1d(pooled, 2)
    expected = {"densenet121": pooled[0], "vit_base": torch.arange(128.0).view(-1, 16).mean(1)}
    expected["swin_unet_encoder"] = torch.arange(128.0).view(-1, 32).mean(1)
    for architecture, centres in expected.items():
        with torch.device("meta"):
            where = last_map(build(new_config(architecture)))
        assert (where.start + where.step * torch.arange(len(centres))).tolist() == centres.tolist()


def test_tokens_of_a_vit_are_arranged_by_position():
    embedding = model_of("vit_base").network.vit.patch_embedding
    volume = torch.zeros(1, 1, 64, 64, 64)
    with torch.no_grad():
        blank = embedding(volume)
        volume[:, :, 17, 40, 63] = 5  # in patch 1, 2, 3
        changed = (embedding(volume) - blank).abs()
    grid = _grid(torch.cat((torch.full_like(changed[:, :1], 99), changed), dim=1)).sum(1)[0]
    assert grid.shape == (4, 4, 4) and grid.nonzero().tolist() == [[1, 2, 3]]


def test_a_model_in_half_precision_gives_the_same_map():
    model, volume = model_of("swin_unet_encoder").bfloat16(), torch.randn(1, 1, 64, 64, 64)
    expected = explain_baseline(model_of("swin_unet_encoder").bfloat16().float(), volume)
    assert torch.allclose(explain_baseline(model, volume), expected, atol=1e-5)
    assert next(model.parameters()).dtype == torch.bfloat16

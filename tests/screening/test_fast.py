"""A prepared model gives the same answers as the plain one for every geometry, and does not change the plain one."""

import copy

import pytest
import torch
from torch import nn

from modeling_gloresnet import (
    BaselineConfig,
    GloResNetConfig,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
)
from screening import fast
from screening.convolutions import MirroredStem, WinogradConv3d
from screening.pytorch import PyTorchModel

GEOMETRIES = {
    "paper": {},
    "dilated": {"strides": [1, 2, 1, 1], "dilations": [1, 1, 2, 4]},
    "bottleneck": {"block": "bottleneck", "depths": [1, 2, 1, 1]},
    "shortcut A": {"shortcut_type": "A", "depths": [2, 2, 1, 1]},
    "odd image size": {"image_size": 33},
    "no pooling": {"stem_pooling": False},
    "kernel of 3": {"stem_kernel_size": 3},
    "kernel of 5, odd image size": {"stem_kernel_size": 5, "image_size": 31},
    "stem of stride 1": {"stem_stride": 1},
    "two channels": {"modalities": ["T2w", "FA"]},
}


def make_model(seed=0, **config):
    """A small network with non-trivial BatchNorm statistics, as after training."""
    torch.manual_seed(seed)
    config = {"image_size": 32, "stem_channels": 8, "widths": [8, 8, 16, 16], "temperature": 2.5} | config
    model = GloResNetForImageClassification(GloResNetConfig(head_init_std=0.5, **config))
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm3d)):
        norm.running_mean.uniform_(-0.3, 0.3), norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(0.7, 1.3), norm.bias.data.uniform_(-0.2, 0.2)
    return model.eval()


def prepare(model, dtype="auto"):
    return fast.prepare(PyTorchModel(model), dtype)


def volumes(config, number=3):
    return fast.smooth_noise(number, config.num_channels, config.image_size, seed=1)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_geometry_gives_the_same_answers(geometry):
    model = make_model(**GEOMETRIES[geometry])
    x = volumes(model.config)
    expected = model.predict_views(x)
    assert expected[:, :, 1].std() > 1e-3
    exact, rounded = prepare(model, "float32"), prepare(model, "bfloat16")
    assert (exact.dtype, rounded.dtype) == ("float32", "bfloat16")
    torch.testing.assert_close(exact.predict_views(x), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(rounded.predict_views(x), expected, atol=fast.TOLERANCE, rtol=0)
    torch.testing.assert_close(exact.predict_proba(x, False), expected[0], atol=1e-6, rtol=0)
    assert rounded.predict_views(x).dtype == torch.float32
    assert not [module for module in exact.module.modules() if isinstance(module, nn.BatchNorm3d)]


def test_a_stem_without_a_mirrored_form_is_kept():
    kinds = {name: type(prepare(make_model(**GEOMETRIES[name]), "float32").module.stem) for name in GEOMETRIES}
    assert [name for name, kind in kinds.items() if kind is not MirroredStem] == [
        "stem of stride 1",
        "two channels",
    ]


def test_float32_replaces_convolutions_where_that_is_faster_at_the_models_size():
    def replaced(image_size, dtype):
        fast_model = prepare(make_model(image_size=image_size), dtype).module
        return [name for name, module in fast_model.layers.named_modules() if isinstance(module, WinogradConv3d)]

    assert replaced(128, "float32") == ["0.0.conv1", "0.0.conv2", "1.0.conv2", "2.0.conv2"]
    assert replaced(32, "float32") == ["0.0.conv1", "0.0.conv2"]
    assert replaced(16, "float32") == replaced(128, "bfloat16") == []


def test_the_plain_model_is_not_changed():
    model = make_model()
    before, kind = copy.deepcopy(model.state_dict()), type(model.gloresnet.stem.conv1)
    for dtype in ("float32", "bfloat16", "auto"):
        prepare(model, dtype)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model.gloresnet.stem.conv1) is kind and all(p.requires_grad for p in model.parameters())


def test_each_member_of_an_ensemble_is_prepared():
    members = [make_model(seed, temperature=1 + seed) for seed in range(2)]
    ensemble = GloResNetEnsembleForImageClassification.from_members(members)
    x = volumes(ensemble.config)
    for dtype, tolerance in (("float32", 1e-6), ("bfloat16", fast.TOLERANCE)):
        prepared = prepare(ensemble, dtype)
        torch.testing.assert_close(prepared.predict_members(x), ensemble.predict_members(x), atol=tolerance, rtol=0)


def test_the_same_volume_always_gets_the_same_answer():
    model = prepare(make_model(), "bfloat16")
    x = volumes(model.config)
    assert all(torch.equal(model.predict_views(x), model.predict_views(x)) for _ in range(3))


def test_auto_falls_back_to_float32_if_rounding_errors_are_too_large(monkeypatch):
    monkeypatch.setattr(fast, "has_native_bfloat16", lambda device: True)
    model = make_model()
    assert prepare(model, "auto").dtype == "bfloat16"
    model.classifier.weight.data *= 1000  # a head too steep for the eight significant bits of bfloat16
    assert prepare(model, "auto").dtype == "float32"
    model.classifier.weight.data[:] = float("nan")
    assert prepare(model, "auto").dtype == "float32"


def test_auto_is_float32_if_the_processor_has_no_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert prepare(make_model(), "auto").dtype == "float32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert prepare(make_model(), "auto").dtype == "bfloat16"


def test_smooth_noise_is_standardised_and_seeded():
    noise = fast.smooth_noise(2, 1, 24)
    assert noise.shape == (2, 1, 24, 24, 24) and torch.equal(noise, fast.smooth_noise(2, 1, 24))
    torch.testing.assert_close(noise.mean(dim=(1, 2, 3, 4)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(noise.std(dim=(1, 2, 3, 4)), torch.ones(2), atol=1e-5, rtol=0)


def test_a_baseline_is_returned_unchanged_and_answers_in_float32():
    baseline = nn.Linear(2, 2)
    baseline.config = BaselineConfig()
    model = PyTorchModel(baseline)
    assert fast.prepare(model) is model and fast.prepare(model, "float32") is model
    with pytest.raises(fast.ModelError, match="float32 only"):
        fast.prepare(model, "bfloat16")


@pytest.mark.parametrize("channels", [2, 4])
def test_missing_modalities_give_the_same_answers(channels):
    model = make_model(modalities=["T2w", "T1w", "FA", "MD"][:channels])
    nn.init.normal_(model.presence.weight)
    x, flags = volumes(model.config), torch.ones(3, channels, dtype=torch.bool)
    flags[1, 1] = flags[2, 1:] = False
    expected = model.predict_views(x, presence=flags)
    assert (expected - model.predict_views(x))[:, 1:].abs().min() > 1e-3
    fast_views = prepare(model, "float32").predict_views(x, presence=flags)
    torch.testing.assert_close(fast_views, expected, atol=1e-6, rtol=0)
    alone = prepare(model, "float32").predict_views(x, False, presence=flags)
    torch.testing.assert_close(alone, expected[:1], atol=1e-6, rtol=0)
    ensemble = GloResNetEnsembleForImageClassification.from_members([model, model])
    torch.testing.assert_close(
        prepare(ensemble, "float32").predict_views(x, presence=flags), expected, atol=1e-6, rtol=0
    )

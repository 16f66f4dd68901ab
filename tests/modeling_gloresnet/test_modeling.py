"""The network compared with MONAI's ResNet, torch's softmax and loss, and calculations by hand."""

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from monai.networks.nets import resnet as monai_resnet

from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification, GloResNetModel


def tiny_config(**kwargs):
    return GloResNetConfig(stem_channels=4, widths=[4, 8, 8, 16], image_size=32, **kwargs)


def randomised(model, seed=0):
    """Give every weight and running statistic a random value, so that a missing term changes the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.is_floating_point():
                fan_in = tensor[0].numel() if tensor.ndim > 1 else 4
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5)
                if tensor.ndim == 1 and name.endswith("weight"):
                    tensor.add_(1)
    return model.eval()


def monai_twin(model):
    """MONAI's ResNet with the same geometry and weights."""
    config = model.config
    block = "bottleneck" if config.block == "bottleneck" else "basic"
    twin = monai_resnet.ResNet(
        block,
        list(config.depths),
        list(config.widths),
        n_input_channels=1,
        conv1_t_size=7,
        conv1_t_stride=2,
        num_classes=2,
        shortcut_type=config.shortcut_type,
        bias_downsample=False,
    )
    names = {"classifier.weight": "fc.weight", "classifier.bias": "fc.bias"}
    weights = {
        names.get(key, key.removeprefix("gloresnet.").removeprefix("stem.")): value
        for key, value in model.state_dict().items()
    }
    twin.load_state_dict(weights, strict=True)
    return twin.eval()


@pytest.mark.parametrize(("depth", "shortcut"), [(10, "B"), (18, "B"), (18, "A"), (50, "B")])
def test_features_and_logits_equal_monai(depth, shortcut):
    config = GloResNetConfig.from_depth(depth, shortcut_type=shortcut)
    model = randomised(GloResNetForImageClassification(config))
    twin = monai_twin(model)
    volume = torch.randn(2, 1, 48, 40, 33, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model.gloresnet(volume)
        theirs = volume
        for module in (
            twin.conv1,
            twin.bn1,
            twin.act,
            twin.maxpool,
            twin.layer1,
            twin.layer2,
            twin.layer3,
            twin.layer4,
        ):
            theirs = module(theirs)
        scale = theirs.abs().max()
        assert torch.allclose(ours.last_hidden_state / scale, theirs / scale, atol=1e-5)
        assert torch.allclose(ours.pooler_output / scale, twin.avgpool(theirs).flatten(1) / scale, atol=1e-5)
        logits = twin(volume)
        assert torch.allclose(model(volume).logits / logits.abs().max(), logits / logits.abs().max(), atol=1e-5)


@pytest.mark.parametrize(("depth", "parameters"), [(10, 14_356_546), (18, 33_161_026), (50, 46_159_170)])
def test_parameter_count(depth, parameters):
    with torch.device("meta"):
        model = GloResNetForImageClassification(GloResNetConfig.from_depth(depth))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_shapes_at_the_papers_size():
    model = GloResNetModel(GloResNetConfig()).eval()
    with torch.no_grad():
        outputs = model(torch.zeros(1, 1, 128, 128, 128), output_hidden_states=True)
    assert outputs.last_hidden_state.shape == (1, 512, 4, 4, 4)
    assert outputs.pooler_output.shape == (1, 512)
    assert [tuple(h.shape[1:3]) for h in outputs.hidden_states] == [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)]


def test_medicalnets_dilated_geometry_returns_larger_maps():
    model = GloResNetModel(tiny_config(strides=[1, 2, 1, 1], dilations=[1, 1, 2, 4])).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 64, 64, 64)).last_hidden_state.shape == (1, 16, 8, 8, 8)


def test_initial_head_is_small_and_unbiased():
    torch.manual_seed(0)
    head = GloResNetForImageClassification(GloResNetConfig()).classifier
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert head.bias.abs().max().item() == 0


def test_hard_and_soft_losses_equal_the_formula():
    model = GloResNetForImageClassification(tiny_config()).eval()
    volume = torch.randn(3, 1, 32, 32, 32)
    hard = torch.tensor([0, 1, 1])
    soft = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    with torch.no_grad():
        output = model(volume, labels=hard)
        log_p = output.logits.log_softmax(-1)
        assert output.loss.item() == pytest.approx(-log_p[range(3), hard].mean().item(), abs=1e-6)
        assert model(volume, labels=soft).loss.item() == pytest.approx(-(soft * log_p).sum(1).mean().item(), abs=1e-6)
        assert model(volume, labels=F.one_hot(hard, 2).float()).loss.item() == pytest.approx(
            output.loss.item(), abs=1e-6
        )
        assert model(volume).loss is None


def test_predict_proba_is_the_mean_over_both_views():
    model = randomised(GloResNetForImageClassification(tiny_config(temperature=2.5)))
    volume = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        plain = (model(volume).logits / 2.5).softmax(-1)
        mirrored = (model(torch.flip(volume, dims=[2])).logits / 2.5).softmax(-1)
    assert torch.allclose(model.predict_proba(volume), (plain + mirrored) / 2, atol=1e-6)
    assert torch.allclose(model.predict_proba(volume, test_time_augmentation=False), plain, atol=1e-6)
    assert torch.allclose(model.predict_views(volume)[1], mirrored, atol=1e-6)
    mirror_image = model.predict_proba(volume.flip(2))
    assert torch.allclose(mirror_image, model.predict_proba(volume), atol=1e-6)
    model.config.test_time_augmentation = False
    assert torch.allclose(model.predict_proba(volume), plain, atol=1e-6)


def test_predict_proba_does_not_change_a_model_in_training_mode():
    model = GloResNetForImageClassification(tiny_config()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model.eval().predict_proba(volume := torch.randn(2, 1, 32, 32, 32))
    model.train()
    assert torch.equal(model.predict_proba(volume), expected)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_gradient_checkpointing_changes_neither_gradients_nor_running_statistics(block, reentrant):
    volume, labels = torch.randn(3, 1, 32, 32, 32), torch.tensor([0, 1, 1])
    models = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = GloResNetForImageClassification(tiny_config(block=block)).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model(volume, labels=labels).loss.backward()
        models.append(model)
    plain, checkpointed = models
    assert checkpointed.gloresnet.stem.gradient_checkpointing
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(plain.state_dict().items(), checkpointed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_wrong_input_shape_is_named():
    model = GloResNetModel(tiny_config())
    with pytest.raises(ValueError, match=r"\(batch, 1, R, A, S\), not \(1, 32, 32, 32\)"):
        model(torch.zeros(1, 32, 32, 32))


@pytest.mark.parametrize(
    "wrong",
    [
        {"block": "dense"},
        {"shortcut_type": "C"},
        {"depths": [1, 1, 1]},
        {"widths": [0, 8, 8, 8]},
        {"stem_kernel_size": 4},
        {"temperature": 0.0},
        {"threshold": 1.5},
        {"depths": "1111"},
    ],
)
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(StrictDataclassError):
        GloResNetConfig(**wrong)


def test_save_and_load_gives_equal_probabilities(tmp_path):
    model = randomised(GloResNetForImageClassification(tiny_config()))
    model.save_pretrained(tmp_path)
    volume = torch.randn(1, 1, 32, 32, 32)
    loaded = GloResNetForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.predict_proba(volume), model.predict_proba(volume))
    encoder = GloResNetModel.from_pretrained(tmp_path)
    assert torch.equal(encoder(volume).pooler_output, model.gloresnet(volume).pooler_output)

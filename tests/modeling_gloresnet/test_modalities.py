"""Networks of several modalities: presence flags, what a missing channel means, and MedicalNet's weights in them."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from modeling_gloresnet import (
    GloResNetConfig,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
    GloResNetModel,
)
from tests.modeling_gloresnet.test_medicalnet import medicalnet_state, saved

NARROW = {"image_size": 32, "stem_channels": 4, "widths": [4, 8, 16, 32]}
THREE = ["T2w", "T1w", "MD"]
HALF = torch.tensor([[True, True, True], [True, False, True], [True, False, False]])


def make_model(seed=0, modalities=THREE, **config):
    """A network whose head and presence flags matter."""
    torch.manual_seed(seed)
    model = GloResNetForImageClassification(
        GloResNetConfig(modalities=modalities, head_init_std=0.5, **NARROW | config)
    )
    if len(modalities) > 1:
        nn.init.normal_(model.presence.weight)
    return model.eval()


def volumes(count=3, channels=3):
    return torch.randn(count, channels, 32, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_channels_are_those_of_the_modalities():
    config = GloResNetConfig(modalities=THREE)
    assert config.num_channels == 3 and GloResNetConfig.from_dict(config.to_dict()).modalities == THREE
    assert GloResNetConfig().modalities == ["T2w"] and "modalities" not in GloResNetConfig().to_dict()
    for wrong, message in (
        ({"modalities": ["T1w", "T2w"]}, "must start with T2w, not T1w, T2w"),
        ({"modalities": []}, "must start with T2w"),
        ({"modalities": ["T2w", "PD"]}, "'PD': choose from T2w, T1w, FA, MD"),
        ({"modalities": ["T2w", "FA", "FA"]}, "names one twice"),
        ({"num_channels": 2}, "num_channels 2, but modalities T2w"),
        ({"modalities": THREE, "num_channels": 2}, "num_channels 2, but modalities T2w, T1w, MD"),
    ):
        with pytest.raises(StrictDataclassError, match=message):
            GloResNetConfig(**wrong)


def test_a_missing_modality_is_a_channel_of_zeros_and_a_shift_of_the_logits():
    model, x = make_model(), volumes()
    logits, weight = model(x, presence=HALF).logits, model.presence.weight
    blank = x.clone()
    blank[1, 1] = blank[2, 1] = blank[2, 2] = 0
    pooled = model.gloresnet(blank).pooler_output
    expected = model.classifier(pooled)
    expected[1] += weight[:, 0]
    expected[2] += weight[:, 0] + weight[:, 1]
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.gloresnet(x, presence=HALF).pooler_output, pooled)
    for complete in (None, torch.ones(3, 3, dtype=torch.bool)):
        assert torch.equal(model(x, presence=complete).logits, model.classifier(model.gloresnet(x).pooler_output))


def test_a_new_network_gives_nothing_for_the_flags():
    model = GloResNetForImageClassification(GloResNetConfig(modalities=THREE, head_init_std=0.5, **NARROW)).eval()
    blank = volumes() * HALF[:, :, None, None, None]
    assert torch.equal(model(volumes(), presence=HALF).logits, model(blank).logits)
    loss = model(volumes(), presence=HALF, labels=torch.tensor([0, 1, 1])).loss
    loss.backward()
    assert model.presence.weight.grad.abs().min() > 0  # it can learn


def test_probabilities_average_mirrored_channels_and_follow_the_flags():
    model, x = make_model(temperature=2.0), volumes()
    views = [(model(each, presence=HALF).logits / 2).softmax(dim=-1) for each in (x, x.flip(2))]
    torch.testing.assert_close(model.predict_proba(x, presence=HALF), (views[0] + views[1]) / 2)
    assert torch.equal(model.predict_proba(x), model.predict_proba(x, presence=torch.ones(3, 3, dtype=torch.bool)))
    assert (model.predict_proba(x) - model.predict_proba(x, presence=HALF))[1:].abs().min() > 1e-4
    said = model.predict_streams(x, presence=HALF)
    torch.testing.assert_close(said["p_global"], model.predict_proba(x, presence=HALF)[:, 1])
    for shape in ((3, 2), (2, 3), (3,)):
        with pytest.raises(ValueError, match=r"presence must be \(batch, channels\), here \(3, 3\), not"):
            model(x, presence=torch.ones(shape, dtype=torch.bool))


def test_an_ensemble_passes_the_flags_on_and_needs_equal_modalities():
    members, x = [make_model(0), make_model(1, temperature=2.0)], volumes()
    ensemble = GloResNetEnsembleForImageClassification.from_members(members)
    assert ensemble.config.modalities == THREE
    expected = torch.stack([member.predict_proba(x, presence=HALF) for member in members]).mean(dim=0)
    torch.testing.assert_close(ensemble.predict_proba(x, presence=HALF), expected)
    plain = torch.stack([member.predict_proba(x, False, presence=HALF) for member in members]).mean(dim=0)
    torch.testing.assert_close(ensemble(x, presence=HALF).logits.exp(), plain)
    with pytest.raises(ValueError, match="different modalities .T2w and T2w, T1w, MD.: train all alike"):
        GloResNetEnsembleForImageClassification.from_members([members[0], make_model(modalities=["T2w"])])


def test_every_class_loads_a_saved_folder_and_features_need_no_flags(tmp_path):
    model, x = make_model(), volumes(1)
    model.save_pretrained(tmp_path)
    loaded = GloResNetForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(x, presence=HALF[1:2]).logits, model(x, presence=HALF[1:2]).logits)
    features = GloResNetModel.from_pretrained(tmp_path)(x).pooler_output
    torch.testing.assert_close(features, model.gloresnet(x).pooler_output)


@pytest.mark.parametrize("changed", [{"modalities": ["T2w"], "num_channels": 1}, {"modalities": ["T2w", "T1w"]}])
def test_weights_of_other_modalities_are_refused(tmp_path, changed):
    make_model(modalities=["T2w", "T1w", "FA"]).save_pretrained(tmp_path)
    config = GloResNetConfig(**NARROW | {"modalities": changed["modalities"]})
    config.architectures = ["GloResNetForImageClassification"]
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="presence.weight"):
        GloResNetForImageClassification.from_pretrained(tmp_path)


def test_the_encoder_of_medicalnet_becomes_that_of_t2w(tmp_path):
    state = medicalnet_state()
    path = saved(tmp_path, {name: value.abs() if "var" in name else value for name, value in state.items()})
    one, three = (
        GloResNetModel.from_medicalnet(path, GloResNetConfig(**NARROW | {"modalities": modalities}))
        for modalities in (["T2w"], THREE)
    )
    kernel = three.stem.conv1.weight
    assert torch.equal(kernel[:, :1], one.stem.conv1.weight) and not kernel[:, 1:].any()
    # the one-channel encoder does not see the other channels, so it is an independent reference
    alone = one(volumes(2)[:, :1]).pooler_output
    assert alone.std() > 0.01
    scale = alone.abs().max()
    for x in (volumes(2), volumes(2) * torch.tensor([1.0, 0, 0])[None, :, None, None, None]):
        torch.testing.assert_close(three(x).pooler_output / scale, alone / scale, atol=1e-6, rtol=0)
        flags = torch.tensor([[True, False, False]] * 2)
        torch.testing.assert_close(three(x, presence=flags).pooler_output / scale, alone / scale, atol=1e-6, rtol=0)


def test_zeroed_channels_leave_the_network_for_t2w():
    """Built by hand: its kernels are copied, and those of the other channels may be anything."""
    three = make_model()
    one = make_model(modalities=["T2w"])
    state = {name: tensor for name, tensor in three.state_dict().items() if not name.startswith("presence.")}
    state["gloresnet.stem.conv1.weight"] = state["gloresnet.stem.conv1.weight"][:, :1]
    one.load_state_dict(state, strict=True)
    x = volumes()
    x[:, 1:] = 0
    torch.testing.assert_close(three.predict_proba(x), one.predict_proba(x[:, :1]), atol=1e-6, rtol=0)

"""The networks of the local stream, and their answer together with the global stream."""

import json
import math
import warnings

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from modeling_gloresnet import (
    GloResNetConfig,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
    GloResNetModel,
)
from modeling_gloresnet.local_gloresnet import LocalStream, PatchNetwork, fuse


def test_a_scorer_has_the_stated_parameters():
    scorer = PatchNetwork()
    per_scale = 27 * (1 * 16 + 16 * 24 + 24 * 32) + 2 * (16 + 24 + 32)
    assert sum(p.numel() for p in scorer.parameters()) == 2 * per_scale + (64 * 32 + 32) + (32 + 1) == 65_473
    assert scorer.head[-1].bias.item() == -2
    assert scorer(torch.zeros(3, 2, 11, 11, 11)).shape == (3,)


def test_each_scale_has_its_own_weights():
    torch.manual_seed(0)
    scorer = PatchNetwork().eval()
    patches = torch.randn(4, 2, 11, 11, 11)
    assert not torch.allclose(scorer(patches), scorer(patches.flip(1)))


def test_scorers_are_averaged_and_padding_never_counts():
    torch.manual_seed(0)
    stream = LocalStream(3, (0.8, -1.0))
    patches = torch.randn(2, 5, 2, 11, 11, 11)
    valid = torch.tensor([[True, True, True, False, False], [False] * 5])
    each = torch.stack([scorer.eval()(patches[0, :3]) for scorer in stream.scorers])
    expected = torch.sigmoid(0.8 * each.mean(dim=0) - 1)
    said = stream.judge(patches, valid)
    torch.testing.assert_close(said.candidates[0, :3], expected)
    assert said.candidates[0, 3:].isnan().all() and said.candidates[1].isnan().all()
    assert said.p_local[0].item() == pytest.approx(expected.max().item())
    assert said.log_silence[0].exp().item() == pytest.approx(1 - expected.max().item())
    assert said.p_local[1].isnan() and said.p_shares.isnan().all()
    assert said.log_silence[1].item() == 0  # nothing to judge: the local stream is silent
    torch.testing.assert_close(stream.judge(patches[:1, :3], valid[:1, :3]).candidates, said.candidates[:1, :3])


def test_the_third_voice_is_a_logistic_regression_on_the_shares():
    numbers = torch.arange(9.0)
    weights = {"mean": [1.0] * 9, "scale": [2.0] * 9, "weights": [0.1] * 8 + [-0.3], "intercept": 0.25}
    stream = LocalStream(1, share_weights=weights)
    patches, valid = torch.zeros(2, 1, 2, 11, 11, 11), torch.tensor([[False], [False]])
    said = stream.judge(patches, valid, torch.stack([numbers, torch.full((9,), math.nan)]))
    logit = sum((n - 1) / 2 * (0.1 if n < 8 else -0.3) for n in range(9)) + 0.25
    assert said.p_shares[0].item() == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)
    assert said.log_silence[0].item() == pytest.approx(math.log(1 - 1 / (1 + math.exp(-logit))), abs=1e-6)
    assert said.log_alarm[0].exp().item() == pytest.approx(said.p_shares[0].item(), abs=1e-6)
    assert said.p_shares[1].isnan() and said.log_silence[1].item() == 0
    both = stream.judge(patches, ~valid, numbers.repeat(2, 1))
    p_local, p_shares = both.p_local.double(), both.p_shares.double()
    torch.testing.assert_close(both.log_alarm.exp().double(), 1 - (1 - p_local) * (1 - p_shares))
    torch.testing.assert_close(both.log_silence.exp().double(), (1 - p_local) * (1 - p_shares))


def test_a_fused_answer_stays_exact_near_0_and_1(monkeypatch):
    p = [1e-9, 1e-4, 0.5, 0.75, 1 - 1e-6]
    cases = [(one, other) for one in p for other in p]
    own = torch.tensor([[math.log1p(-g), math.log(g)] for g, _ in cases])
    stream, patches = LocalStream(1), torch.zeros(25, 1, 2, 11, 11, 11)
    scores = torch.tensor([[math.log(x) - math.log1p(-x)] for _, x in cases])
    monkeypatch.setattr(stream, "forward", lambda patches, valid: torch.where(valid, scores, -1e4))
    fused = fuse(own, stream.judge(patches, torch.ones(25, 1, dtype=torch.bool)))
    for (g, x), (no, yes) in zip(cases, fused.double().exp().tolist(), strict=True):
        q = max(0, 2 * g - 1)  # half and below: the global stream has found nothing
        assert yes == pytest.approx(q + x - q * x, rel=1e-5)
        assert no == pytest.approx((1 - q) * (1 - x), rel=1e-5)
    silent = fuse(own, stream.judge(patches, torch.zeros(25, 1, dtype=torch.bool))).double().exp()
    q = torch.tensor([max(0, 2 * g - 1) for g, _ in cases]).double()
    torch.testing.assert_close(silent, torch.stack([1 - q, q], dim=-1), rtol=0, atol=1e-7)
    scores = torch.full((25, 1), 90.0)
    assert fuse(own, stream.judge(patches, torch.ones(25, 1, dtype=torch.bool))).isfinite().all()


@pytest.mark.parametrize("searched", [True, False])
def test_a_global_stream_that_answers_nan_is_not_hidden(searched):
    judged = LocalStream(1).judge(torch.zeros(1, 1, 2, 11, 11, 11), torch.tensor([[searched]]))
    assert fuse(torch.full((1, 2), math.nan), judged).isnan().all()


CONFIG = {"stem_channels": 2, "widths": [2, 2, 2, 2], "image_size": 16}


def network(seed=0, **settings):
    torch.manual_seed(seed)
    model = GloResNetForImageClassification(GloResNetConfig(**CONFIG, local_stream=True, **settings)).eval()
    with torch.no_grad():  # as after training: answers differ between scans and from 0.5
        model.classifier.weight.normal_(std=2)
        for scorer in model.local.scorers:
            scorer.head[-1].bias.fill_(0)
            scorer.head[-1].weight.mul_(20)
    return model


def inputs(batch=3, candidates=4):
    generator = torch.Generator().manual_seed(7)
    valid = torch.ones(batch, candidates, dtype=torch.bool)
    valid[0, 2:], valid[-1] = False, False
    return {
        "pixel_values": torch.randn(batch, 1, 16, 16, 16, generator=generator),
        "local_patches": torch.randn(batch, candidates, 2, 11, 11, 11, generator=generator),
        "local_positions": torch.zeros(batch, candidates, 3),
        "local_valid": valid,
        "local_shares": torch.rand(batch, 9, generator=generator),
    }


def global_alone(model, pixel_values, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.predict_views(pixel_values, **kwargs)


def test_both_streams_together():
    model, batch = network(temperature=1.7, local_calibration=[0.6, -0.4]), inputs()
    views = model.predict_views(**batch)
    streams = model.predict_streams(**batch)
    own = global_alone(model, batch["pixel_values"])
    with torch.no_grad():
        scores = torch.stack([scorer(batch["local_patches"].flatten(0, 1)) for scorer in model.local.scorers])
    p = (0.6 * scores.mean(dim=0).reshape(3, 4) - 0.4).sigmoid()
    p_local = torch.tensor([p[0, :2].max(), p[1].max()])
    q = (2 * own[:, :2, 1] - 1).clamp_min(0)
    assert 0 < (q > 0).sum() < 4  # both cases
    expected = 1 - (1 - q) * (1 - p_local)
    assert views.shape == (2, 3, 2)
    torch.testing.assert_close(views[:, :2, 1], expected)
    q = (2 * own[:, 2, 1] - 1).clamp_min(0)  # no candidates
    torch.testing.assert_close(views[:, 2, 1], q)
    torch.testing.assert_close(views.sum(dim=-1), torch.ones(2, 3))
    torch.testing.assert_close(model.predict_proba(**batch), views.mean(dim=0))
    torch.testing.assert_close(streams["members"][0], views)
    torch.testing.assert_close(streams["p_global"], own.mean(dim=0)[:, 1])
    torch.testing.assert_close(streams["p_local"][:2], p_local)
    torch.testing.assert_close(streams["candidates"][0, :2], p[0, :2])
    assert streams["p_local"][2].isnan() and streams["p_shares"].isnan().all()
    with torch.no_grad():
        logits = model(**batch).logits
    torch.testing.assert_close(logits.softmax(dim=-1), model.predict_views(**batch, test_time_augmentation=False)[0])
    torch.testing.assert_close(logits.exp().sum(dim=-1), torch.ones(3))


def test_pixel_values_alone_are_answered_by_the_global_stream_with_a_warning():
    model, batch = network(), inputs()
    plain = GloResNetForImageClassification(GloResNetConfig(**CONFIG)).eval()
    plain.load_state_dict({name: w for name, w in model.state_dict().items() if not name.startswith("local.")})
    with pytest.warns(UserWarning, match="global stream"):
        alone = model.predict_proba(batch["pixel_values"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(alone, plain.predict_proba(batch["pixel_values"]), rtol=0, atol=0)
        torch.testing.assert_close(plain.predict_proba(**batch), alone, rtol=0, atol=0)  # a network without the stream
    with pytest.raises(ValueError, match="local_valid"):
        model.predict_proba(batch["pixel_values"], local_patches=batch["local_patches"])
    with pytest.raises(ValueError, match="11, 11, 11"):
        model.predict_proba(**batch | {"local_patches": batch["local_patches"][..., 1:]})


def test_the_global_stream_is_trained_as_without_a_local_stream():
    torch.manual_seed(3)
    plain = GloResNetForImageClassification(GloResNetConfig(**CONFIG))
    after = torch.rand(1)
    torch.manual_seed(3)
    both = GloResNetForImageClassification(GloResNetConfig(**CONFIG, local_stream=True))
    assert torch.rand(1) == after
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(both.state_dict()[name], weight, rtol=0, atol=0)
    assert both.local.scorers[0].head[-1].bias.item() == -2
    batch, labels = inputs(), torch.tensor([0, 1, 1])
    loss, expected = both.train()(**batch, labels=labels).loss, plain.train()(batch["pixel_values"], labels=labels).loss
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    assert not any(module.training for module in both.local.modules())
    assert not any(weight.requires_grad for weight in both.local.parameters())


def test_an_ensemble_averages_what_the_streams_of_each_member_say():
    members = [network(1, temperature=1.5, local_calibration=[0.5, -1.0]), network(2, local_calibration=[1.0, 0.2])]
    ensemble, batch = GloResNetEnsembleForImageClassification.from_members(members), inputs()
    expected = torch.stack([member.predict_views(**batch) for member in members])
    torch.testing.assert_close(ensemble.predict_members(**batch), expected)
    torch.testing.assert_close(ensemble.predict_proba(**batch), expected.mean(dim=(0, 1)))
    streams = ensemble.predict_streams(**batch)
    torch.testing.assert_close(streams["members"], expected)
    each = torch.stack([member.predict_streams(**batch)["candidates"] for member in members])
    torch.testing.assert_close(streams["candidates"], each.mean(dim=0), equal_nan=True)
    with torch.no_grad():
        logits = ensemble(**batch).logits
    torch.testing.assert_close(logits.exp(), expected[:, 0].mean(dim=0))
    with pytest.raises(ValueError, match="some members have a local stream"):
        plain = GloResNetForImageClassification(GloResNetConfig(**CONFIG))
        GloResNetEnsembleForImageClassification.from_members([members[0], plain])


def test_a_folder_brings_its_local_stream_along(tmp_path):
    weights = {"mean": [0.5] * 9, "scale": [1.0] * 9, "weights": [0.3] * 9, "intercept": -1.0}
    model, batch = network(local_scorers=2, local_calibration=[0.7, -2.0], local_share_weights=weights), inputs()
    model.save_pretrained(tmp_path / "one")
    again = GloResNetForImageClassification.from_pretrained(tmp_path / "one").eval()
    torch.testing.assert_close(again.predict_proba(**batch), model.predict_proba(**batch), rtol=0, atol=0)
    assert not torch.allclose(again.predict_proba(**batch | {"local_shares": None}), model.predict_proba(**batch))
    features = GloResNetModel.from_pretrained(tmp_path / "one").eval()(**batch)
    torch.testing.assert_close(features.pooler_output, model.gloresnet(batch["pixel_values"]).pooler_output)
    ensemble = GloResNetEnsembleForImageClassification.from_members([model, network(3, local_scorers=2)])
    ensemble.save_pretrained(tmp_path / "two")
    again = GloResNetEnsembleForImageClassification.from_pretrained(tmp_path / "two").eval()
    torch.testing.assert_close(again.predict_proba(**batch), ensemble.predict_proba(**batch), rtol=0, atol=0)


@pytest.mark.parametrize("stated", [True, False])
def test_configuration_weights_and_processor_must_agree(tmp_path, stated):
    model = network() if not stated else GloResNetForImageClassification(GloResNetConfig(**CONFIG))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"local_stream": stated}))
    with pytest.raises(ValueError, match=r"(missing|unexpected) \(local\.scorers"):
        GloResNetForImageClassification.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"local_stream": not stated}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_size": 16, "local_stream": stated}))
    with pytest.raises(ValueError, match="local stream, but preprocessor_config.json"):
        GloResNetForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"local_calibration": [1.0]}, "two numbers"),
        ({"local_calibration": [-1.0, 0.0]}, "above 0"),
        ({"local_scorers": 0}, "at least 1"),
        ({"local_share_weights": {"mean": [0] * 9, "scale": [0] * 9, "weights": [0] * 9, "intercept": 0}}, "above 0"),
        ({"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": None}, "two labels"),
        ({"member_temperatures": [1, 1], "member_local": [{}]}, "one per member"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings, words):
    with pytest.raises(StrictDataclassError) as error:
        GloResNetConfig(**CONFIG, local_stream=True, **settings)
    assert words in str(error.value.__cause__ or error.value)

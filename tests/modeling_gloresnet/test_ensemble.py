"""The ensemble: means over its members, and what it refuses."""

import pytest
import torch

from modeling_gloresnet import (
    GloResNetConfig,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
    GloResNetModel,
)


def member(seed, temperature=1.0, **config):
    torch.manual_seed(seed)
    geometry = {"stem_channels": 4, "widths": [4, 8, 8, 8], "image_size": 16, "head_init_std": 1.0}
    return GloResNetForImageClassification(GloResNetConfig(**geometry | config, temperature=temperature)).eval()


@pytest.fixture
def members():
    return [member(0, 1.5), member(1), member(2, 0.5)]


@pytest.fixture
def volumes():
    return torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def test_probabilities_are_the_mean_over_members_at_their_own_temperatures(members, volumes):
    ensemble = GloResNetEnsembleForImageClassification.from_members(members)
    each = torch.stack([one.predict_views(volumes) for one in members])
    assert each.std(dim=0).max() > 0.05  # the members differ
    assert torch.allclose(ensemble.predict_members(volumes), each, atol=1e-6)
    assert torch.allclose(ensemble.predict_views(volumes), each.mean(dim=0), atol=1e-6)
    assert torch.allclose(ensemble.predict_proba(volumes), each.mean(dim=(0, 1)), atol=1e-6)
    assert ensemble.predict_members(volumes, False).shape == (3, 1, 2, 2)


def test_logits_match_the_plain_view_and_give_a_loss(members, volumes):
    ensemble = GloResNetEnsembleForImageClassification.from_members(members)
    outputs = ensemble(volumes, labels=torch.tensor([0, 1]))
    plain = ensemble.predict_views(volumes, test_time_augmentation=False)[0]
    assert torch.allclose(outputs.logits.softmax(dim=-1), plain, atol=1e-6)
    assert outputs.loss.item() == pytest.approx(-(plain[0, 0].log() + plain[1, 1].log()).item() / 2, abs=1e-5)


def test_a_saved_ensemble_predicts_the_same_after_loading(members, volumes, tmp_path):
    ensemble = GloResNetEnsembleForImageClassification.from_members(members)
    ensemble.save_pretrained(tmp_path)
    again = GloResNetEnsembleForImageClassification.from_pretrained(tmp_path)
    assert again.config.member_temperatures == [1.5, 1.0, 0.5]
    assert torch.equal(again.predict_proba(volumes), ensemble.predict_proba(volumes))


def test_wrong_configurations_and_members_are_refused(members):
    with pytest.raises(ValueError, match="needs config.member_temperatures"):
        GloResNetEnsembleForImageClassification(GloResNetConfig())
    with pytest.raises(ValueError, match="ensemble of 3 networks.*AutoModelForImageClassification"):
        GloResNetModel(GloResNetEnsembleForImageClassification.from_members(members).config)
    with pytest.raises(RuntimeError, match="size mismatch"):
        GloResNetEnsembleForImageClassification.from_members([members[0], member(3, widths=[4, 8, 8, 16])])

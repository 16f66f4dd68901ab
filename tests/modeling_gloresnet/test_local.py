"""The networks of the local stream."""

import math

import pytest
import torch

from modeling_gloresnet.local_gloresnet import LocalStream, PatchNetwork


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
    stream = LocalStream(3, (0.8, -1.0)).eval()
    patches = torch.randn(2, 5, 2, 11, 11, 11)
    valid = torch.tensor([[True, True, True, False, False], [False] * 5])
    with torch.no_grad():
        logits = stream(patches, valid)
        each = torch.stack([scorer(patches[0, :3]) for scorer in stream.scorers])
    torch.testing.assert_close(logits[0, :3], each.mean(dim=0))
    silence = stream.log_silence(logits, valid)
    p = 1 / (1 + math.exp(-(0.8 * each.mean(dim=0).max().item() - 1.0)))
    assert silence[0].exp().item() == pytest.approx(1 - p, abs=1e-6)
    assert silence[1].item() == 0  # nothing to judge: the local stream is silent
    assert stream.log_silence(logits[:, :0], valid[:, :0]).tolist() == [0, 0]
    with torch.no_grad():
        alone = stream(patches[:1, :3], valid[:1, :3])
    torch.testing.assert_close(alone, logits[:1, :3])


def test_a_certain_lesion_is_still_a_number():
    stream = LocalStream(1)
    silence = stream.log_silence(torch.tensor([[80.0], [-80.0]]), torch.ones(2, 1, dtype=torch.bool))
    torch.testing.assert_close(silence, torch.tensor([-80.0, 0.0]))

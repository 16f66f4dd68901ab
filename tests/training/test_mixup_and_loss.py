"""Mixup compared with its formula, the loss with a sum in numpy, the class weights with scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from sklearn.utils.class_weight import compute_class_weight

from training.loss import class_weights, weighted_soft_cross_entropy
from training.mixup import Mixing, draw_mixing, mix


def test_mix_follows_the_formula_for_volumes_and_labels():
    volumes = torch.randn(3, 1, 4, 4, 4)
    targets = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    mixing = Mixing(np.array([0.25, 1.0, 0.6]), np.array([2, 0, 1]))
    mixed, soft = mix(volumes, targets, mixing)
    for i, (share, partner) in enumerate(zip(mixing.shares, mixing.partners, strict=True)):
        assert torch.allclose(mixed[i], share * volumes[i] + (1 - share) * volumes[partner], atol=1e-6)
        assert torch.allclose(soft[i], share * targets[i] + (1 - share) * targets[partner], atol=1e-6)
    assert torch.equal(mixed[1], volumes[1])
    assert soft[0].tolist() == [0.25, 0.75]


def test_each_sample_has_a_beta_distributed_lambda_and_half_the_batches_are_mixed():
    rng = np.random.default_rng(0)
    drawn = [draw_mixing(rng, 8, mixup_prob=0.5, mixup_alpha=0.4) for _ in range(2000)]
    mixed = [mixing for mixing in drawn if mixing is not None]
    assert abs(len(mixed) / 2000 - 0.5) < 4 * 0.5 / np.sqrt(2000)
    assert kstest(np.concatenate([m.shares for m in mixed]), "beta", args=(0.4, 0.4)).pvalue > 0.01
    assert all(len(set(m.shares)) == 8 for m in mixed[:20])
    assert all(sorted(m.partners) == list(range(8)) for m in mixed)


@pytest.mark.parametrize(("prob", "mixed"), [(0.0, False), (1.0, True)])
def test_mixup_can_be_turned_off_and_fully_on(prob, mixed):
    rng = np.random.default_rng(1)
    assert all((draw_mixing(rng, 4, mixup_prob=prob, mixup_alpha=1) is not None) == mixed for _ in range(200))


def test_loss_equals_the_sum_in_the_paper():
    logits = torch.tensor([[1.0, -1.0], [0.5, 2.0], [-0.3, 0.1]])
    targets = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.6, 0.4]])
    weights = torch.tensor([0.8, 1.3])
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    expected = -(weights.numpy() * targets.numpy() * np.log(p)).sum() / 3
    assert weighted_soft_cross_entropy(logits, targets, weights).item() == pytest.approx(expected, rel=1e-6)


def test_loss_of_bfloat16_logits_is_computed_in_float32():
    logits = torch.randn(4, 2).bfloat16()
    targets = torch.full((4, 2), 0.5)
    loss = weighted_soft_cross_entropy(logits, targets, torch.ones(2))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(weighted_soft_cross_entropy(logits.float(), targets, torch.ones(2)).item())


def test_class_weights_equal_scikit_learns_balanced_weights():
    labels = [0] * 59 + [1] * 43
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
    assert np.allclose(class_weights(labels).numpy(), expected)


def test_a_missing_class_is_an_error():
    with pytest.raises(ValueError, match=r"the counts are \[3, 0\]"):
        class_weights([0, 0, 0])

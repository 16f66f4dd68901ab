import numpy as np
import pytest
import torch

from training.local import scorer
from training.local.scorer import Normal, augmented, cube_symmetries, focal_loss, packed, scores, train_scorer, unpacked

CPU = torch.device("cpu")


def test_packed_patches_are_right_within_half_a_step():
    patches = np.random.default_rng(0).uniform(-5, 5, (20, 2, 11, 11, 11)).astype(np.float32)
    restored = unpacked(torch.from_numpy(packed(patches))).numpy()
    assert np.abs(restored - patches.clip(-4, 4)).max() <= 0.5 / scorer.STEPS + 1e-6
    assert packed(np.zeros((1, 2, 11, 11, 11), np.float32)).any() == False  # noqa: E712  # white matter is exactly 0


def test_a_cube_has_48_symmetries_that_keep_distances_from_the_centre():
    orders = cube_symmetries(11)
    assert orders.shape == (48, 1331) and len(np.unique(orders, axis=0)) == 48
    grid = np.stack(np.meshgrid(*[np.arange(11) - 5] * 3, indexing="ij"))
    distance = (grid**2).sum(axis=0).ravel()
    assert all(np.array_equal(distance[order], distance) for order in orders)


def test_augmentation_turns_both_cubes_of_a_patch_alike(monkeypatch):
    monkeypatch.setattr(scorer, "GAIN", 0.0)
    monkeypatch.setattr(scorer, "NOISE", 0.0)
    cube = torch.rand(8, 1, 11, 11, 11)
    turned = augmented(torch.cat([cube, cube], dim=1), torch.from_numpy(cube_symmetries(11)))
    assert torch.equal(turned[:, 0], turned[:, 1]) and not torch.equal(turned[:, :1], cube)
    assert torch.equal(turned.flatten(1).sort(dim=1)[0], torch.cat([cube, cube], 1).flatten(1).sort(dim=1)[0])


def test_the_focal_loss_by_hand():
    logits, targets = torch.tensor([0.3, -1.2]), torch.tensor([1.0, 0.0])
    p = torch.sigmoid(logits)
    expected = ((1 - p[0]) ** 1.5 * -p[0].log() + p[1] ** 1.5 * -(1 - p[1]).log()) / 2
    assert torch.isclose(focal_loss(logits, targets), expected)


def normals(count=3):
    random = np.random.default_rng(0)
    result = []
    for _ in range(count):
        patches = [packed(random.normal(0, 0.8, (n, 2, 11, 11, 11))) for n in (120, 60, 40)]
        patches[2][:, :, 4:7, 4:7, 4:7] -= 60  # what is painted is dark in its middle
        result.append(Normal(patches[0], patches[1], [patches[2][:20], patches[2][20:]]))
    return result


@pytest.fixture(scope="module")
def trained():
    return train_scorer(normals(), [1, 2], CPU)


def test_a_scorer_finds_what_was_painted_and_the_same_seed_gives_the_same_bytes(trained):
    scans = normals()
    assert scores(trained, scans[0].painted[0], CPU).min() > scores(trained, scans[0].as_acquired, CPU).max()
    before = torch.random.get_rng_state()
    again = train_scorer(scans, [1, 2], CPU)
    assert torch.equal(before, torch.random.get_rng_state())  # nothing else draws other numbers afterwards
    assert all(
        torch.equal(a, b) for a, b in zip(trained.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_a_last_batch_of_one_patch_is_left_out(monkeypatch):
    scans = normals(1)
    first = sum(map(len, scans[0].painted)) + 120 + 60  # patches of the first epoch: painted, as acquired, with motion
    monkeypatch.setattr(scorer, "BATCH", first - 1)
    monkeypatch.setattr(scorer, "EPOCHS", 1)
    train_scorer(scans, [1, 2], CPU)


def test_bfloat16_is_for_training_only(monkeypatch):
    monkeypatch.setattr(scorer, "EPOCHS", 1)
    plain, short = (train_scorer(normals(1), [1, 2], CPU, bf16=bf16) for bf16 in (False, True))
    assert {value.dtype for value in short.parameters()} == {torch.float32}
    weights = [network.head[1].weight for network in (plain, short)]
    assert not torch.equal(*weights) and torch.allclose(*weights, atol=0.02)


def test_no_candidate_no_score(trained):
    assert scores(trained, normals()[0].moved[:0], CPU).shape == (0,)


def test_few_normal_scans_give_more_negatives_each():
    scan = Normal(np.zeros((900, 2, 3, 3, 3), np.int8), np.zeros((900, 2, 3, 3, 3), np.int8), [])
    for count, random, hard in ((96, 150, 60), (48, 150, 60), (12, 600, 120)):
        first = scorer._sources([scan] * count)[0]
        assert (first.random, first.hard) == (random, hard)

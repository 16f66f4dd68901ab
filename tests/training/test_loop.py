"""One epoch of training, and predictions, on a tiny network in this process."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from datasets import Array4D, Dataset, Features
from sklearn.metrics import log_loss
from tqdm import tqdm

from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from training.build import ScanDataset, new_loader
from training.loop import NonFiniteLossError, check_finite, mean_log_loss, predict_fold, train_one_epoch
from training.recipe import load_recipe

RECIPE = load_recipe("demo", per_device_train_batch_size=2, image_size=16)


def volumes(count=9, seed=0):
    data = np.random.default_rng(seed).normal(size=(count, 1, 16, 16, 16)).astype(np.float32)
    return Dataset.from_dict(
        {"pixel_values": data}, features=Features(pixel_values=Array4D((1, 16, 16, 16), "float32"))
    )


def start(recipe=RECIPE, rows=range(8)):
    torch.manual_seed(0)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=1),
    )
    config = GloResNetConfig(image_size=16, stem_channels=4, widths=[4, 8, 8, 16], head_init_std=0.5)
    model = GloResNetForImageClassification(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scans = ScanDataset(volumes(), list(rows), [row % 2 for row in rows])
    loader = new_loader(scans, recipe, accelerator, shuffle=True)
    return accelerator, *accelerator.prepare(model, optimizer, loader)


def epoch(accelerator, model, optimizer, loader, recipe=RECIPE, number=1, fold=0):
    with tqdm(disable=True) as progress:
        return train_one_epoch(
            model, loader, optimizer, torch.ones(2), recipe, accelerator, epoch=number, fold=fold, progress=progress
        )


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_an_epoch_depends_only_on_seed_fold_and_epoch():
    first, again, other_epoch, other_fold = (start() for _ in range(4))
    assert epoch(*first) == epoch(*again)
    assert all(torch.equal(a, b) for a, b in zip(weights(first[1]).values(), weights(again[1]).values(), strict=True))
    assert epoch(*other_epoch, number=2) != epoch(*start())
    assert epoch(*other_fold, fold=1) != epoch(*start())


def test_a_loss_that_is_not_finite_changes_no_weight():
    accelerator, model, optimizer, loader = start()
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    before = weights(model.gloresnet.layer4)
    with pytest.raises(NonFiniteLossError, match="the loss became nan at epoch 3, step 1.*--learning_rate below 0.001"):
        epoch(accelerator, model, optimizer, loader, number=3)
    after = weights(model.gloresnet.layer4)
    assert all(torch.equal(before[name], after[name]) for name in before if "weight" in name)
    views = predict_fold(model, loader, accelerator)
    with pytest.raises(NonFiniteLossError, match="not a finite number at epoch 3"):
        check_finite(views, 3, RECIPE)


def test_gradient_accumulation_makes_one_update_for_several_batches(monkeypatch):
    recipe = load_recipe("demo", per_device_train_batch_size=2, image_size=16, gradient_accumulation_steps=2)
    accelerator, model, optimizer, loader = start(recipe)
    steps, step = [], optimizer.optimizer.step
    monkeypatch.setattr(optimizer.optimizer, "step", lambda *a, **k: steps.append(1) or step(*a, **k))
    epoch(accelerator, model, optimizer, loader, recipe)
    assert len(loader) == 4 and len(steps) == 2


def test_a_last_batch_of_one_is_dropped_and_the_scan_changes_each_epoch():
    accelerator, _, _, loader = start(rows=range(9))
    seen = []
    for number in range(1, 13):
        loader.set_epoch(number)
        seen.append({row for batch in loader for row in batch["row"].tolist()})
    assert all(len(rows) == 8 for rows in seen) and set.union(*seen) == set(range(9))


def test_every_row_is_predicted_once_with_both_views():
    accelerator, model, _, _ = start()
    scans = ScanDataset(volumes(), [7, 1, 4, 3, 8], [1, 1, 0, 1, 0])
    views = predict_fold(model, accelerator.prepare(new_loader(scans, RECIPE, accelerator)), accelerator)
    assert list(views) == [7, 1, 4, 3, 8]
    stack = torch.tensor(np.array(volumes()[[7, 1, 4, 3, 8]]["pixel_values"], dtype=np.float32))
    assert np.allclose(np.stack(list(views.values())), model.predict_views(stack)[:, :, 1].T.numpy(), atol=1e-6)


def test_no_scans_give_no_predictions():
    accelerator, model, _, _ = start()
    loader = accelerator.prepare(new_loader(ScanDataset(volumes(), [], []), RECIPE, accelerator))
    assert predict_fold(model, loader, accelerator) == {}


def test_mean_log_loss_equals_scikit_learn():
    labels, probabilities = [0, 1, 1, 0], [0.2, 0.9, 0.4, 0.6]
    assert mean_log_loss(labels, probabilities) == pytest.approx(log_loss(labels, probabilities))
    assert np.isfinite(mean_log_loss([1], [0.0]))

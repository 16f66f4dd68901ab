"""Training with the Trainer of transformers: loss and gradient do not depend on how a step is split."""

import os

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from modeling_gloresnet import (
    BaselineConfig,
    BaselineForImageClassification,
    GloResNetConfig,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
)

SIZE = 32
HARD = torch.tensor([0, 1, 1, 0, 1, 0, 1, 1])
SOFT = torch.stack([1 - HARD * 0.7 - 0.1, HARD * 0.7 + 0.1], dim=1)


@pytest.fixture(autouse=True)
def _no_trace_of_the_trainer():
    """The Trainer sets variables for Accelerate, such as torch.compile's backend, and Accelerate keeps its state."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def frozen(model):
    """BatchNorm in evaluation mode, so that every scan counts alone, and no dropout."""
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm3d, nn.Dropout)):
            module.train = lambda mode=True, module=module: module
            module.training = False
    return model


def build(kind):
    torch.manual_seed(0)
    if kind == "densenet121":
        return frozen(BaselineForImageClassification(BaselineConfig(architecture=kind, image_size=SIZE)))
    config = GloResNetConfig(stem_channels=4, widths=[4, 8, 8, 8], image_size=SIZE, head_init_std=1.0)
    networks = [GloResNetForImageClassification(config) for _ in range(2 if kind == "ensemble" else 1)]
    return frozen(GloResNetEnsembleForImageClassification.from_members(networks) if kind == "ensemble" else networks[0])


def volumes():
    return torch.randn(8, 1, SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


class Gradient(TrainerCallback):
    """The gradient of the step, as the optimiser gets it."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.value = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def one_step(kind, folder, batch, steps, labels=HARD, **settings):
    """Loss and gradient of one optimiser step of the Trainer, split into `steps` micro-batches."""
    gradient = Gradient()
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=steps,
        max_steps=1,
        learning_rate=0.0,
        max_grad_norm=1e9,
        optim="sgd",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    rows = [{"pixel_values": volume, "labels": label} for volume, label in zip(volumes(), labels, strict=True)]
    trainer = Trainer(build(kind), arguments, train_dataset=rows, callbacks=[gradient])
    trainer.train()
    return trainer.state.log_history[0]["loss"], gradient.value


def expected(kind, labels=HARD, smoothing=0.0):
    """Loss and gradient of all eight scans at once, with torch alone."""
    model = build(kind)
    loss = F.cross_entropy(model(volumes()).logits, labels, label_smoothing=smoothing)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def assert_equal(found, wanted):
    assert found[0] == pytest.approx(wanted[0], rel=1e-4)
    assert found[1].shape == wanted[1].shape
    assert (found[1] - wanted[1]).norm() < 1e-3 * wanted[1].norm()


# 3 and 3 and 2: the last micro-batch is smaller
@pytest.mark.parametrize(("batch", "steps"), [(8, 1), (4, 2), (2, 4), (3, 3)])
@pytest.mark.parametrize("kind", ["single", "ensemble", "densenet121"])
def test_every_split_gives_the_same_loss_and_gradient(kind, batch, steps, tmp_path):
    assert_equal(one_step(kind, tmp_path, batch, steps), expected(kind))


@pytest.mark.parametrize("kind", ["single", "ensemble", "densenet121"])
def test_soft_labels_are_counted_once_per_scan(kind, tmp_path):
    for batch, steps in [(8, 1), (2, 4)]:
        assert_equal(one_step(kind, tmp_path, batch, steps, labels=SOFT), expected(kind, SOFT))


def test_label_smoothing_is_split_as_well(tmp_path):
    for batch, steps in [(8, 1), (2, 4)]:
        found = one_step("single", tmp_path, batch, steps, label_smoothing_factor=0.2)
        assert_equal(found, expected("single", smoothing=0.2))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant, tmp_path):
    settings = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": reentrant}}
    for kind in ("single", "ensemble"):
        assert_equal(one_step(kind, tmp_path, 2, 4, **settings), expected(kind))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiling_changes_nothing(checkpointing, tmp_path):
    settings = {"torch_compile": True, "torch_compile_backend": "aot_eager", "activation_checkpointing": checkpointing}
    for kind in ("single", "ensemble"):
        assert_equal(one_step(kind, tmp_path, 2, 4, **settings), expected(kind))

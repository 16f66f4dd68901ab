"""Training on a GPU: one step, an epoch with its data, a run that was stopped, and a whole fold, in each precision."""

import functools
import itertools
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from machine.cores import available_cores
from machine.programs import one_line
from run_folder.layout import RunFolder
from screening.pytorch import allow_tf32
from training.build import new_loader, new_model
from training.data import TrainingData, prepare_data
from training.fold import Fold, open_fold
from training.launch import start_accelerator
from training.loop import train_one_epoch
from training.recipe import Recipe, load_recipe

from .gpu_plan import PRECISIONS, Plan, forget_peak, milliseconds, peak, timed, training_on, wait_for

# accepted difference of the training loss from float32 on the CPU: in the first epoch, where only rounding differs, and
# in the mean of the last five, where rounding has grown
LOSS_BOUNDS = {"float32": (0.01, 0.1), "tf32": (0.02, 0.1), "bf16": (0.05, 0.1), "fp16": (0.02, 0.1)}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def measure_steps(plan: Plan) -> Iterator[dict[str, Any]]:
    """A training step (forward, backward, AdamW) on a batch of noise that lies on the GPU, per sample, with the voxels
    of a feature map first in memory (channels first) or its channels (channels last)."""
    batch = plan.batches[0]
    for precision, last in itertools.product(plan.precisions, (False, True)):
        row = {"precision": precision, "layout": "channels last" if last else "channels first", "batch": batch}
        yield attempt(row, functools.partial(_steps, plan, precision, last, batch))


def _steps(plan: Plan, precision: str, last: bool, batch: int) -> dict[str, Any]:
    torch.manual_seed(0)
    allow_tf32(precision == "tf32")
    model: Any = new_model(paper(plan)).to(plan.device).train()
    if last:
        model = model.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler(plan.device.type, enabled=precision == "fp16")
    volumes = torch.randn(batch, 1, *[plan.image_size] * 3, device=plan.device)
    labels = torch.arange(batch, device=plan.device) % 2

    def step() -> None:
        with torch.autocast(plan.device.type, DTYPES.get(precision), enabled=precision in DTYPES):
            logits = model(volumes).logits
        scaler.scale(nn.functional.cross_entropy(logits.float(), labels)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    forget_peak(plan.device)
    try:
        seconds = timed(step, plan.device, max(2, plan.repeats // 5), warm_up=2)
    finally:
        allow_tf32(False)
    return milliseconds(seconds, batch) | peak(plan.device)


def measure_epoch(plan: Plan) -> Iterator[dict[str, Any]]:
    """An epoch of the recipe `paper` (random initial weights) on phantoms, with reading, augmentation and mixup, after
    one epoch to warm up. The scans of the fold repeat until there are as many as the table says. "waiting" is the share
    of the time in which the next batch was not there yet."""
    for precision, batch, checkpointing in itertools.product(plan.precisions, plan.batches, (False, True)):
        if plan.dry and checkpointing != (precision == "bf16"):
            continue  # each of the two once
        recipe = paper(
            plan,
            per_device_train_batch_size=batch,
            mixed_precision=PRECISIONS[precision],
            gradient_checkpointing=checkpointing,
        )
        row = {"precision": precision, "batch": batch, "checkpointing": "on" if checkpointing else "off"}
        row["scans"] = plan.epoch_scans
        yield attempt(row, functools.partial(_epoch, plan, recipe))


def _epoch(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    with fold_on(plan, recipe, plan.device, f"epoch-{time.monotonic_ns()}") as fold:
        repeated = itertools.islice(itertools.cycle(fold.scans.train), plan.epoch_scans)
        loader = new_loader(fold.data.dataset(list(repeated)), recipe, fold.accelerator, shuffle=True)
        waiting = Waiting(fold.accelerator.prepare(loader))
        epoch = functools.partial(
            train_one_epoch, fold.model, waiting, fold.optimizer, fold.loss_weights, recipe, fold.accelerator,
            fold=fold.number, progress=tqdm(disable=True),
        )  # fmt: skip
        epoch(epoch=1)
        wait_for(plan.device)
        forget_peak(plan.device)
        waiting.seconds, started = 0.0, time.perf_counter()
        loss = epoch(epoch=2)
        wait_for(plan.device)
        seconds = time.perf_counter() - started
    columns = {"ms per sample": 1000 * seconds / plan.epoch_scans, "waiting": waiting.seconds / seconds, "repeats": 1}
    return columns | peak(plan.device) | {"loss of epoch 2": loss}


class Waiting:
    """A loader that adds up the seconds in which the next batch is waited for, its copy to the GPU included."""

    def __init__(self, loader: Any):
        self.loader, self.seconds = loader, 0.0

    def set_epoch(self, epoch: int) -> None:
        self.loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        started = time.perf_counter()
        for batch in self.loader:
            self.seconds += time.perf_counter() - started
            yield batch
            started = time.perf_counter()


def measure_resume(plan: Plan) -> Iterator[dict[str, Any]]:
    """Two epochs of the recipe `demo`, stopped after the first and continued from the checkpoint, compared with two
    epochs without a stop: the largest difference of a weight. The same for a second run without a stop shows what of it
    the stop does not cause. "deterministic" asks cuDNN for convolutions that add in a fixed order."""
    cases = [(name, False) for name in plan.precisions if name != "tf32"]  # which takes the same way as float32
    for precision, deterministic in cases[:1] if plan.dry else [*cases, ("float32", True)]:
        recipe = demo(plan, precision)
        row = {"precision": precision, "deterministic": "yes" if deterministic else "not asked"}
        yield attempt(row, functools.partial(_resume, plan, recipe, deterministic))


def _resume(plan: Plan, recipe: Recipe, deterministic: bool) -> dict[str, Any]:
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = deterministic
    try:
        name = f"resume-{time.monotonic_ns()}"
        whole, again = (_weights(plan, recipe, f"{name}-{number}", [2]) for number in (1, 2))
        continued = _weights(plan, recipe, f"{name}-3", [1, 2])
    finally:
        torch.backends.cudnn.deterministic = before
    from_stop, from_repeat = _difference(whole, continued), _difference(whole, again)
    return {
        "largest weight": max(value.abs().max().item() for value in whole.values()),
        "difference, continued": from_stop,
        "difference, repeated": from_repeat,
        "exact": from_stop == 0,
        "repeats": 1,
    }


def _weights(plan: Plan, recipe: Recipe, name: str, stops: list[int]) -> dict[str, torch.Tensor]:
    """The weights after the last of these epochs, where training stops after each of them."""
    for last in stops:
        with fold_on(plan, recipe, plan.device, name) as fold:
            for number in range(1, last + 1):
                fold.epoch(number)
            weights = {k: v.detach().cpu().clone() for k, v in fold.state().items() if v.is_floating_point()}
    return weights


def _difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max((value - second[name]).abs().max().item() for name, value in first.items())


def measure_fold(plan: Plan) -> Iterator[dict[str, Any]]:
    """The demo's fold from its first epoch to its predictions, in each precision on the GPU, compared with float32 on
    the CPU by the training loss of the first epoch and the mean of the last five. No layer is a SyncBatchNorm."""
    cpu = torch.device("cpu")
    reference = attempt({"device": "CPU", "precision": "float32"}, functools.partial(_fold, plan, cpu, "float32", None))
    yield reference
    for precision in plan.precisions:
        if plan.dry and precision == "float32":
            continue  # the reference itself
        row: dict[str, Any] = {"device": "CPU" if plan.dry else "GPU", "precision": precision}
        yield attempt(row, functools.partial(_fold, plan, plan.device, precision, reference.get("losses")))


def _fold(plan: Plan, device: torch.device, precision: str, expected: list[float] | None) -> dict[str, Any]:
    """Train the fold. `expected` holds the losses to compare with."""
    recipe = demo(plan, precision)
    started = time.perf_counter()
    with fold_on(plan, recipe, device, f"fold-{time.monotonic_ns()}") as fold:
        history = [fold.epoch(number) for number in range(1, recipe.num_train_epochs + 1)]
        result = fold.finish()
    losses = [row["train_loss"] for row in history]
    row: dict[str, Any] = {
        "scans": len(fold.scans.train),
        "epochs": len(losses),
        "first loss": losses[0],
        "mean of the last five": _mean(losses[-5:]),
    }
    if expected is not None:
        first, last = LOSS_BOUNDS[precision]
        row["difference, first"] = abs(losses[0] - expected[0])
        row["difference, last five"] = abs(_mean(losses[-5:]) - _mean(expected[-5:]))
        row["bounds"] = f"{first}, {last}"
        row["within the bounds"] = row["difference, first"] <= first and row["difference, last five"] <= last
    metrics = (result.metrics if result else None) or {}
    row |= {
        "AUC": metrics.get("auc"),
        "seconds per epoch": sorted(row["seconds"] for row in history)[len(history) // 2],
    }
    return row | {"seconds in all": time.perf_counter() - started, "repeats": 1, "losses": losses}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def paper(plan: Plan, **settings: Any) -> Recipe:
    """The recipe `paper` at the plan's size, with random initial weights, which need no download."""
    same = {name: value for name, value in plan.demo.items() if name in ("architecture", "num_folds")}
    return load_recipe("paper", init="random", image_size=plan.image_size, **same, **settings)


def demo(plan: Plan, precision: str) -> Recipe:
    return load_recipe("demo", mixed_precision=PRECISIONS[precision], **plan.demo)


@contextmanager
def fold_on(plan: Plan, recipe: Recipe, device: torch.device, name: str) -> Iterator[Fold]:
    """The plan's fold, in a run folder of this name, on this device.

    Raises:
        RuntimeError: a layer is a SyncBatchNorm, which only several GPUs need, or Accelerate chose another device.
    """
    run = RunFolder(plan.folder / name)
    run.path.mkdir(exist_ok=True)
    threads = 1 if plan.dry else available_cores()  # more would wait for each other at these sizes
    recipe = replace(recipe, num_threads=threads)
    torch.set_num_threads(threads)
    with training_on(device):
        data = _data(plan, recipe, run)
        with open_fold(plan.fold, data, recipe, run) as fold:
            fold.progress.disable = True
            if fold.accelerator.device.type != device.type:
                raise RuntimeError(f"Accelerate trains on {fold.accelerator.device}, not on {device}.")
            if any(isinstance(module, nn.SyncBatchNorm) for module in fold.network.modules()):
                raise RuntimeError("The network has a SyncBatchNorm on a single device.")
            yield fold


_prepared: dict[tuple, TrainingData] = {}


def _data(plan: Plan, recipe: Recipe, run: RunFolder) -> TrainingData:
    """The cohort at the recipe's image size, found and standardised once."""
    key = plan.cohort, recipe.image_size, recipe.num_folds
    if key not in _prepared:
        _prepared[key] = prepare_data(plan.cohort, None, recipe, run, start_accelerator(recipe, run.path, "none"))
    return _prepared[key]


def attempt(row: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row with its figures, or with the error that stopped it."""
    try:
        return row | measure()
    except Exception as error:  # any error costs this row, not the others
        traceback.print_exc(file=sys.stderr)
        return row | {"error": f"{type(error).__name__}: {one_line(error)[:300]}"}

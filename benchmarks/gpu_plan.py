"""What the sections of `python -m benchmarks gpu` share: sizes, the device, and how time and memory are measured."""

import contextlib
import gc
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from cohort.phantom import generate_phantom_cohort

from .setting import GB, find_scans, random_model

PRECISIONS = {"float32": "no", "tf32": "tf32", "bf16": "bf16", "fp16": "fp16"}  # name -> `mixed_precision` of a recipe
ON_CPU = ("float32", "bf16")  # tf32 and fp16 need a GPU


@dataclass(frozen=True)
class Plan:
    """What the sections measure, and how often.

    Attributes:
        device: the GPU, or the CPU in a dry run.
        folder: scratch space, removed at the end.
        cohort: folder of a phantom cohort.
        model: model folder with seeded random weights.
        scans: paths of scans for `predict.py`.
        image_size: edge of the input cube, voxels.
        fold: number of the fold that is trained.
        demo: changes of the recipe `demo`.
        batches: batch sizes of the epoch.
        epoch_scans: scans per epoch; those of the fold repeat.
        repeats: timed passes or maps; a tenth of them for training steps.
        predicted: numbers of scans given to `predict.py`.
    """

    device: torch.device
    folder: Path
    cohort: Path
    model: Path
    scans: list[str]
    image_size: int
    fold: int
    demo: dict[str, Any]
    batches: tuple[int, ...]
    epoch_scans: int
    repeats: int
    predicted: tuple[int, ...]

    @property
    def dry(self) -> bool:
        return self.device.type == "cpu"

    @property
    def precisions(self) -> tuple[str, ...]:
        return ON_CPU if self.dry else tuple(PRECISIONS)


def gpu_plan(folder: Path) -> Plan:
    """The sizes of the paper, volumes of 128^3 and batches of 32, with fewer scans."""
    cohort = generate_phantom_cohort("data/phantom-clear")  # the one that train.py generates
    return Plan(
        torch.device("cuda"), folder, cohort, random_model(folder / "model", 128), find_scans(None),
        image_size=128, fold=4, demo={}, batches=(8, 32), epoch_scans=64, repeats=50, predicted=(8, 40),
    )  # fmt: skip


def dry_plan(folder: Path) -> Plan:
    """The same sections in seconds on a CPU."""
    cohort = generate_phantom_cohort(folder / "phantom", num_subjects=8, voxel_size=4, progress=False)
    demo = {"architecture": "compact", "image_size": 16, "per_device_train_batch_size": 2}
    return Plan(
        torch.device("cpu"), folder, cohort, random_model(folder / "model", 16), find_scans(cohort),
        image_size=16, fold=1, demo=demo | {"num_folds": 2, "num_train_epochs": 2}, batches=(2,), epoch_scans=4,
        repeats=2, predicted=(2,),
    )  # fmt: skip


@contextlib.contextmanager
def training_on(device: torch.device) -> Iterator[None]:
    """Let Accelerate train on this device, in a new state: it keeps device and precision for a whole process."""
    before = os.environ.get("ACCELERATE_USE_CPU")
    os.environ["ACCELERATE_USE_CPU"] = str(device.type == "cpu").lower()
    _forget()
    try:
        yield
    finally:
        if before is None:
            del os.environ["ACCELERATE_USE_CPU"]
        else:
            os.environ["ACCELERATE_USE_CPU"] = before
        _forget()


def _forget() -> None:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    gc.collect()  # ends the workers of loaders, and frees models
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait_for(device: torch.device) -> None:
    """Wait until the GPU has done its work. A CPU never lags behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device, repeats: int, warm_up: int, limit: float = 5) -> list[float]:
    """Seconds of each repeat of `work()`, from an idle device to an idle device.

    Args:
        work: what is timed.
        device: where it computes.
        repeats: at most; fewer if `limit` seconds are over, but at least one.
        warm_up: repeats before, not timed.
        limit: seconds.
    """
    for _ in range(warm_up):
        work()
    wait_for(device)
    taken: list[float] = []
    while len(taken) < repeats and (not taken or sum(taken) < limit):
        started = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - started)
    return taken


def milliseconds(seconds: list[float], share: float = 1) -> dict[str, Any]:
    """The columns of a time: median, minimum and maximum per sample, and the number of repeats."""
    each = [1000 * second / share for second in seconds]
    return {"ms, median": statistics.median(each), "min": min(each), "max": max(each), "repeats": len(each)}


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> dict[str, float]:
    """The column of the peak memory since `forget_peak`: of the GPU's tensors, or of the whole process on a CPU."""
    if device.type == "cuda":
        return {"peak GB": torch.cuda.max_memory_allocated(device) / GB}
    return {"peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB}

"""The folder of a run: what it was started with, and whether another start may go on in it."""

import importlib.metadata
import os
import platform
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from cohort.cache import available_cores
from evaluation.tables import read_json, write_json

from .recipe import Recipe, RecipeError, load_recipe

RUN_FILES = ("splits.json", "recipe.yaml", "environment.json", "cohort.csv", "cv_metrics.json", "report.html")


class RunError(ValueError):
    """The run folder belongs to another run or to another process; the message says how to go on."""


def open_run(folder: Path, recipe: Recipe, source: dict, num_processes: int, *, overwrite: bool = False) -> Recipe:
    """Claim a run folder: save the recipe in a new one, or check that an old one was started with the same.

    Args:
        folder: `runs/NAME`, created if need be.
        recipe: as asked for; `num_threads` may be open.
        source: what names the cohort (`data_dir`, `labels`, `phantom`).
        num_processes: over which the batches are spread.
        overwrite: remove what an earlier run left here.

    Returns:
        The recipe to use, its number of threads settled: the one on record, else the cores shared out.

    Raises:
        RunError: the folder holds a run with other settings, or something that is no run.
    """
    if overwrite:
        _remove_run(folder)
    recorded = folder / "environment.json"
    if not recorded.is_file():
        if not overwrite and folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise RunError(f"{folder} is not empty and holds no run: choose another --output_dir, or add --overwrite.")
        if recipe.num_threads is None:
            recipe = _with_threads(recipe, max(1, available_cores() // _processes_here(num_processes)))
        folder.mkdir(parents=True, exist_ok=True)
        recipe.save(folder / "recipe.yaml")
        write_json(recorded, {"source": source, "num_processes": num_processes, **environment()})
        return recipe

    before = read_json(recorded)
    try:
        saved = load_recipe(str(folder / "recipe.yaml"))
    except RecipeError as error:
        raise RunError(f"{error} Or start anew with --overwrite.") from error
    if recipe.num_threads is None:
        recipe = _with_threads(recipe, saved.num_threads)
    differences = recipe.differences(saved)
    started_from = before["source"]
    differences += [f"{k}: {v!r}, not {started_from.get(k)!r}" for k, v in source.items() if v != started_from.get(k)]
    if num_processes != before["num_processes"]:
        differences.append(f"number of processes: {num_processes}, not {before['num_processes']}")
    if differences:
        raise RunError(
            f"{folder} holds a run with other settings ({'; '.join(differences)}): repeat those, choose another "
            "--output_dir, or start anew with --overwrite."
        )
    return recipe


@contextmanager
def claim_fold(folder: Path, is_main_process: bool):
    """Hold a fold's folder while training writes to it; the system lets go when the process ends, however it ends.

    The main process holds it for all processes of the run.

    Raises:
        RunError: another process is training this fold.
    """
    if not is_main_process:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"Another process is training {folder}: wait for it, or choose another --output_dir.") from error
    try:
        yield
    finally:
        lock.release()


def environment() -> dict:
    """Versions and hardware that a reader needs to repeat the run. No names of people, machines or paths."""
    packages = ("torch", "transformers", "accelerate", "datasets", "numpy", "scipy", "nibabel", "scikit-learn")
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "cores": available_cores(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _processes_here(num_processes: int) -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))


def _with_threads(recipe: Recipe, num_threads: int) -> Recipe:
    return replace(recipe, num_threads=num_threads)


def _remove_run(folder: Path) -> None:
    """Remove the files of a run, and only those."""
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    for path in [*folder.glob("fold-*"), folder / "figures"]:
        shutil.rmtree(path, ignore_errors=True)

"""The folder of a run: its settings, and whether a program may start or continue a run in it."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from filelock import FileLock, Timeout

from evaluation.records import read_environment
from machine.cores import available_cores
from machine.version import project_version
from run_folder.files import write_json
from run_folder.layout import ModelFolder, RunFolder

from .recipe import Recipe, RecipeError, load_recipe


class RunError(ValueError):
    """The run folder belongs to another run or another process. The message says what to do."""


def open_run(run: RunFolder, recipe: Recipe, source: dict, num_processes: int, *, overwrite: bool = False) -> Recipe:
    """Start a run in a folder, or continue the one that is there.

    A new run saves its recipe and environment. A run that continues must have the same settings as before.

    Args:
        run: the folder, created if needed.
        recipe: the requested settings; `num_threads` may be None.
        source: identifies the cohort (`data_dir`, `labels`).
        num_processes: number of processes that share the batches.
        overwrite: remove the files of an earlier run first.

    Returns:
        The recipe with its number of threads: as recorded, or, in a new run, an equal share of the cores per process.

    Raises:
        RunError: the folder holds a run with other settings, or files that do not belong to a run.
    """
    entries = list(run.path.iterdir()) if run.path.is_dir() else []
    # a run that is killed in its first second leaves some of its own files and nothing else
    foreign = [path for path in entries if path not in run.files and not path.name.startswith(".")]
    if foreign and not run.environment.is_file() and not overwrite:
        raise RunError(f"{run} is not empty and holds no run: choose another --output_dir, or add --overwrite.")
    run.path.mkdir(parents=True, exist_ok=True)
    with FileLock(run.lock):
        if overwrite:
            _remove_run(run)
        if run.environment.is_file():
            return _same_run(run, recipe, source, num_processes)
        if recipe.num_threads is None:
            recipe = replace(recipe, num_threads=max(1, available_cores() // _processes_here(num_processes)))
        recipe.save(run.recipe)
        write_json(run.environment, {"source": source, "num_processes": num_processes, **environment()})
        return recipe


@contextmanager
def claim_fold(folder: ModelFolder, is_main_process: bool) -> Iterator[None]:
    """Lock a fold's folder while training writes to it. The system releases the lock when the process ends or dies.

    Only the main process takes the lock, for all processes of its run.

    Raises:
        RunError: another process is training this fold.
    """
    if not is_main_process:
        yield
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"Another process is training {folder}: wait for it, or choose another --output_dir.") from error
    try:
        yield
    finally:
        lock.release()


def environment() -> dict:
    """Return the versions and hardware that one needs to repeat the run, without names of people, machines or paths."""
    packages = ("torch", "transformers", "accelerate", "datasets", "numpy", "scipy", "nibabel", "scikit-learn")
    return {
        "gloresnet": project_version(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "cores": available_cores(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _processes_here(num_processes: int) -> int:
    """Number of processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))


def _same_run(run: RunFolder, recipe: Recipe, source: dict, num_processes: int) -> Recipe:
    """Return the recipe to continue this run with. Raises RunError if it was started with other settings."""
    before = read_environment(run)
    try:
        saved = load_recipe(str(run.recipe))
    except RecipeError as error:
        raise RunError(f"{error} Or start a new run with --overwrite.") from error
    if saved.num_threads is None:
        raise RunError(f"{run.recipe} is damaged (num_threads has no value): start a new run with --overwrite.")
    if recipe.num_threads is None:
        recipe = replace(recipe, num_threads=saved.num_threads)
    if recipe.split == saved.split == "site":
        recipe = replace(recipe, num_folds=saved.num_folds)  # as many as the cohort has sites
    differences = recipe.differences(saved)
    started_from = before.get("source", {})
    differences += [f"{k}: {v!r}, not {started_from.get(k)!r}" for k, v in source.items() if v != started_from.get(k)]
    if num_processes != before.get("num_processes"):
        differences.append(f"number of processes: {num_processes}, not {before.get('num_processes')}")
    if differences:
        raise RunError(
            f"{run} holds a run with other settings ({'; '.join(differences)}): use the recorded settings, choose "
            "another --output_dir, or start a new run with --overwrite."
        )
    return recipe


def _remove_run(run: RunFolder) -> None:
    """Remove the files of a run. Files of other programs stay."""
    for path in run.files:
        path.unlink(missing_ok=True)
    for folder in (*run.existing_folds(), run.refit, run.ensemble):
        shutil.rmtree(folder.path, ignore_errors=True)
    shutil.rmtree(run.figures, ignore_errors=True)

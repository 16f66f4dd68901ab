"""The folder of a run: what it was started with, and whether another start may go on in it."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from filelock import FileLock, Timeout

from machine.cores import available_cores
from machine.version import project_version
from run_folder.files import read_json, write_json
from run_folder.layout import ModelFolder, RunFolder

from .recipe import Recipe, RecipeError, load_recipe


class RunError(ValueError):
    """The run folder belongs to another run or to another process; the message says how to go on."""


def open_run(run: RunFolder, recipe: Recipe, source: dict, num_processes: int, *, overwrite: bool = False) -> Recipe:
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
    """Hold a fold's folder while training writes to it; the system lets go when the process ends, however it ends.

    The main process holds it for all processes of the run.

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
    """Versions and hardware that a reader needs to repeat the run. No names of people, machines or paths."""
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
    return int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))


def _same_run(run: RunFolder, recipe: Recipe, source: dict, num_processes: int) -> Recipe:
    """The recipe to go on with in a folder that holds a run, which must have been started with the same."""
    before = read_json(run.environment)
    try:
        saved = load_recipe(str(run.recipe))
    except RecipeError as error:
        raise RunError(f"{error} Or start anew with --overwrite.") from error
    if recipe.num_threads is None:
        recipe = replace(recipe, num_threads=saved.num_threads)
    differences = recipe.differences(saved)
    started_from = before["source"]
    differences += [f"{k}: {v!r}, not {started_from.get(k)!r}" for k, v in source.items() if v != started_from.get(k)]
    if num_processes != before["num_processes"]:
        differences.append(f"number of processes: {num_processes}, not {before['num_processes']}")
    if differences:
        raise RunError(
            f"{run} holds a run with other settings ({'; '.join(differences)}): repeat those, choose another "
            "--output_dir, or start anew with --overwrite."
        )
    return recipe


def _remove_run(run: RunFolder) -> None:
    """Remove the files of a run. Files of other programs stay."""
    for path in run.files:
        path.unlink(missing_ok=True)
    for folder in (*run.existing_folds(), run.refit, run.ensemble):
        shutil.rmtree(folder.path, ignore_errors=True)
    shutil.rmtree(run.figures, ignore_errors=True)

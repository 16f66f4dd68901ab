"""What a run records about itself, checked when it is read: damage is one sentence, and not an error much later."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from run_folder.files import InputError, read_json, read_yaml
from run_folder.layout import MOST_FOLDS, ModelFolder, RunFolder
from run_folder.tables import read_table

from .metrics import METRIC_NAMES

SELECTIONS = ("last", "inner", "paper")
NUMBERS = {  # of a recipe: the least and the most
    "image_size": (16, 512),
    "num_folds": (2, MOST_FOLDS),
    "num_threads": (1, 4096),
}
CHOICES = {
    "brain_mask": ("none", "required"),
    "framing": ("field_of_view", "head"),
    "bias_correction": ("none", "n4"),
    "local_stream": ("off", "on"),
    "split": ("family", "paper", "site"),
    "selection": SELECTIONS,
    "mixed_precision": ("no", "tf32", "bf16", "fp16"),
}
WORDS = (*CHOICES, "architecture", "init", "modalities")
CARD = (  # the settings that a model card states
    *("brain_mask", "split", "selection", "architecture", "init", "mixed_precision", "num_folds", "seed"),
    *("num_train_epochs", "per_device_train_batch_size", "learning_rate", "min_learning_rate", "weight_decay"),
    *("rotation_degrees", "flip_prob", "mixup_prob", "mixup_alpha", "num_threads"),
)


def read_environment(run: RunFolder) -> dict[str, Any]:
    """Read `environment.json`. Raises InputError if it is missing or damaged."""
    content, path = read_json(run.environment), run.environment
    source = content.get("source", {})
    _check(isinstance(source, dict), path, "source does not name the cohort")
    for name, value in source.items():
        _check(value is None or isinstance(value, str), path, f"{name} of the source is not text")
    for name, least in (("num_processes", 1), ("cores", 1)):
        _check(_is_count(content.get(name, least), least), path, f"{name} is {content.get(name)!r}")
    for name, kind in (("gloresnet", dict), ("packages", dict), ("gpus", list)):
        values = content.get(name) or kind()
        _check(isinstance(values, kind), path, f"{name} is damaged")
        texts = values.values() if isinstance(values, dict) else values
        _check(all(value is None or isinstance(value, str) for value in texts), path, f"{name} is damaged")
    return content


def read_recipe(run: RunFolder, required: Iterable[str] = ()) -> dict[str, Any]:
    """Read `recipe.yaml` without the code that trains. Raises InputError if it is missing or damaged."""
    content, path = read_yaml(run.recipe), run.recipe
    missing = [name for name in required if name not in content]
    _check(not missing, path, f"{', '.join(missing)} is missing")
    for name, value in content.items():
        _check(value is None or isinstance(value, str | int | float), path, f"{name} is not a single value")
        if isinstance(value, int | float):
            least, most = NUMBERS.get(name, (0, float("inf")))
            _check(least <= value <= most, path, f"{name} is {value}")
        optional = name in ("num_threads", "max_birth_age")
        _check(optional or value is not None, path, f"{name} has no value")
        _check((name in WORDS) == isinstance(value, str) or value is None, path, f"{name} is {value!r}")
        _check(name not in NUMBERS or value is None or _is_count(value), path, f"{name} is {value!r}")
        _check(value in CHOICES.get(name, (value,)), path, f"{name} is {value!r}")
    return content


def read_metrics(folder: ModelFolder, *, complete: bool = True) -> dict[str, Any]:
    """Read `metrics.json` of a fold.

    Args:
        folder: of the fold.
        complete: whether every screening metric must be there; otherwise only those that are there are checked.

    Raises:
        InputError: it is missing or damaged.
    """
    content, path = read_json(folder.metrics), folder.metrics
    if complete:
        check_figures(content, path)
        _check(_is_count(content.get("fold")), path, "fold is not a number")
        _check(_is_count(content.get("selected_epoch"), 1), path, "selected_epoch is not the number of an epoch")
    if content.get("selection") not in SELECTIONS:
        raise InputError(f"{path} does not say how the epoch was selected ({', '.join(SELECTIONS)}).")
    inner = content.get("inner")
    _check(inner is None or isinstance(inner, dict), path, "inner is damaged")
    for name, value in (inner or {}).items():
        _check(value is None or _is_number(value), path, f"{name} of inner is {value!r}")
    return content


def read_pooled(run: RunFolder) -> dict[str, Any]:
    """Read the pooled figures from `cv_metrics.json`. Raises InputError if it is missing or damaged."""
    pooled = read_json(run.cv_metrics).get("pooled")
    _check(isinstance(pooled, dict), run.cv_metrics, "it has no pooled figures")
    assert isinstance(pooled, dict)
    check_figures(pooled, run.cv_metrics)
    return pooled


def read_history(folder: ModelFolder, required: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read `history.csv`: one row per epoch, in order. Raises InputError if it is missing or damaged."""
    table = read_table(folder.history, required)
    for column in table.columns:
        _check(pd.api.types.is_numeric_dtype(table[column]), folder.history, f"column {column} must hold numbers")
        _check(not table[column].abs().gt(1e30).any(), folder.history, f"column {column} holds a number above 1e30")
    for column in {"epoch", *required} & {*table.columns}:
        _check(table[column].notna().all(), folder.history, f"column {column} lacks a number")
    if "epoch" in table:
        _check(table["epoch"].tolist() == [*range(1, len(table) + 1)], folder.history, "its epochs are not 1, 2, ...")
    return table


def check_figures(figures: dict[str, Any], path: Path) -> None:
    """Check the figures of `screening_metrics`. Raises InputError that names the first problem."""
    undefined = figures.get("undefined")
    _check(isinstance(undefined, dict), path, "undefined is damaged")
    for name in METRIC_NAMES:
        value = figures.get(name)
        _check(value is None or (_is_number(value) and -1 <= value <= 1), path, f"{name} is {value!r}")
        _check(value is not None or isinstance((undefined or {}).get(name), str), path, f"{name} is missing")
    counts = figures.get("confusion_matrix")
    right = isinstance(counts, dict) and counts.keys() == {"tn", "fp", "fn", "tp"}
    _check(right and all(map(_is_count, (counts or {}).values())), path, "confusion_matrix is damaged")
    _check(_is_count(figures.get("n"), 1), path, f"n is {figures.get('n')!r}")


def _check(right: object, path: Path, problem: str) -> None:
    if not right:
        raise InputError(f"{path} is damaged ({problem}): restore it, or start the run again with --overwrite.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and value >= least

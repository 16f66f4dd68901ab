"""One checkpoint per epoch, in files that cannot run code when they are read: safetensors and JSON.

A checkpoint under its final name is complete. The newest two are kept: if a file of the newest is damaged, training
continues from the one before. `manifest.json` has the size and the SHA-256 of every other file, so that a file that was
cut short, changed, or copied from another checkpoint is noticed.

All processes of a run write into the same folder before the main one renames it, so `run_folder.files`, which serves
one process, cannot do it. The weights are saved under the names of the network itself: a run may continue with or
without `torch.compile`, whose wrapper adds to the names. The schedule is not saved: it depends only on the number of
epochs.
"""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from run_folder.files import InputError, read_json, writing

from .random_state import random_state, set_random_state

MANIFEST, PROGRESS = "manifest.json", "progress.json"
WEIGHTS, OPTIMIZER, SELECTED = "model.safetensors", "optimizer.safetensors", "selected.safetensors"
PICKLED = "optimizer.bin"  # in checkpoints of version 0.1, which hold pickle files


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, the newest first."""
    complete = [path for path in folder.glob("epoch-*") if re.fullmatch(r"epoch-\d+", path.name)]
    return sorted(complete, key=_epoch, reverse=True)


def save_checkpoint(
    accelerator: Accelerator,
    folder: Path,
    fold: int | str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: list[dict],
    selected: dict[str, Tensor] | None,
) -> None:
    """Save the state after the last epoch of `history`.

    Of the earlier checkpoints, only that of the epoch before stays. The others are removed first, so that there are
    never more than two on the disk.

    Args:
        accelerator: has prepared the model and the optimizer.
        folder: the fold's checkpoints.
        fold: the fold's number, or `refit`.
        model, optimizer: in training.
        history: one row per epoch so far.
        selected: the weights selected so far; None if the last epoch counts.

    Raises:
        WriteError: the disk is full. The checkpoint of the epoch before is kept.
    """
    final = folder / f"epoch-{len(history):03d}"
    partial = folder / f".{final.name}.partial"
    if accelerator.is_main_process:
        with writing(final):
            for path in [*folder.glob("epoch-*"), *folder.glob(".epoch-*.partial")]:
                if re.fullmatch(r"\.?epoch-\d+(\.partial)?", path.name) and _epoch(path) != len(history) - 1:
                    _remove(path)
            partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        with writing(final):
            _write_json(partial / _random_name(accelerator.process_index), random_state(accelerator.device))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            with writing(final):
                _save(_network(accelerator, model).state_dict(), partial / WEIGHTS)
                _save(_optimizer_tensors(optimizer), partial / OPTIMIZER)
                if selected is not None:
                    _save(selected, partial / SELECTED)
                scaler = accelerator.scaler and accelerator.scaler.state_dict()
                _write_json(partial / PROGRESS, {"fold": fold, "history": history, "scaler": scaler})
                _write_json(partial / MANIFEST, {path.name: _fingerprint(path) for path in sorted(partial.iterdir())})
                partial.rename(final)
    finally:
        if accelerator.is_main_process:  # after an error: half a checkpoint would keep the disk full
            shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_checkpoint(
    accelerator: Accelerator, folder: Path, fold: int | str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[list[dict], dict[str, Tensor] | None]:
    """Restore the newest checkpoint that is whole. What is wrong with a newer one is printed.

    Args:
        accelerator, folder, fold, model, optimizer: see `save_checkpoint`.

    Returns:
        The history and the selected weights. Without any checkpoint, an empty history and None.

    Raises:
        InputError: there are checkpoints, and none of them can be used. The message names each damaged file.
    """
    problems = []
    for checkpoint in checkpoints(folder):
        try:
            history, selected = _restore(accelerator, checkpoint, fold, model, optimizer)
        except InputError as error:
            problems.append(str(error).rstrip("."))
            continue
        if problems:
            accelerator.print(f"{'; '.join(problems)}. Training continues after epoch {len(history)}.", file=sys.stderr)
        return history, selected
    if problems:
        raise InputError(
            f"{'; '.join(problems)}. No checkpoint can be used: delete {folder} to train this fold from the start."
        )
    return [], None


def _restore(
    accelerator: Accelerator, checkpoint: Path, fold: int | str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[list[dict], dict[str, Tensor] | None]:
    """Restore one checkpoint: read and check all of it first, then change the network, the optimizer and the rest."""
    randoms = [_random_name(process) for process in range(accelerator.num_processes)]
    recorded = _check_files(checkpoint, [WEIGHTS, OPTIMIZER, PROGRESS, *randoms])
    progress = read_json(checkpoint / PROGRESS)
    history = progress.get("history")
    if progress.get("fold") != fold or not isinstance(history, list) or len(history) != _epoch(checkpoint):
        number = len(history) if isinstance(history, list) else "no"
        raise InputError(
            f"{checkpoint} holds {number} epochs of fold {progress.get('fold')}: it was renamed, or copied here"
        )
    if [row.get("epoch") if isinstance(row, dict) else None for row in history] != [*range(1, len(history) + 1)]:
        raise InputError(f"{checkpoint / PROGRESS} is damaged: its history does not count the epochs from 1")
    network = _network(accelerator, model)
    expected = network.state_dict()
    weights = _read_weights(checkpoint / WEIGHTS, expected)
    selected = _read_weights(checkpoint / SELECTED, expected) if SELECTED in recorded else None
    state = _read_optimizer(checkpoint / OPTIMIZER, optimizer, may_be_empty=accelerator.scaler is not None)
    randoms_here = checkpoint / randoms[accelerator.process_index]
    set_random_state(read_json(randoms_here), accelerator.device, where=randoms_here)
    network.load_state_dict(weights)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(progress["scaler"])
    return history, selected


def _check_files(checkpoint: Path, required: Iterable[str]) -> dict[str, Any]:
    """Compare the files of a checkpoint with its manifest, and return the manifest."""
    if (checkpoint / PICKLED).exists() and not (checkpoint / MANIFEST).exists():
        raise InputError(
            f"{checkpoint} was written by an earlier version of this project, in pickle files, which can run code when "
            "they are read: finish this fold with that version, or train it from the start"
        )
    recorded = read_json(checkpoint / MANIFEST)
    for name in [*required, *({SELECTED} & recorded.keys())]:
        path, entry = checkpoint / name, recorded.get(name)
        if not path.is_file():
            raise InputError(f"{path} is missing")
        if not isinstance(entry, dict):
            raise InputError(f"{checkpoint / MANIFEST} is damaged: it does not list {name}")
        size = path.stat().st_size
        if size != entry.get("bytes"):
            raise InputError(f"{path} is damaged: it has {size} bytes, and {entry.get('bytes')} were saved")
        if _fingerprint(path) != entry:
            raise InputError(f"{path} is damaged, or a file of another checkpoint: its SHA-256 is not the saved one")
    return recorded


def _fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read finite tensors on the CPU."""
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())})") from error
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise InputError(f"{path} is damaged: {name} is not finite")
    return tensors


def _read_weights(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read weights with the names and shapes of `expected`."""
    weights = _read_tensors(path)
    shapes, expected_shapes = ({name: value.shape for name, value in each.items()} for each in (weights, expected))
    if wrong := sorted(name for name, _ in shapes.items() ^ expected_shapes.items()):
        raise InputError(f"{path} does not fit this network: {wrong[0]} is missing, unknown or of another shape")
    return weights


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer as `exp_avg.3`: the name of the tensor and the number of the parameter."""
    state = optimizer.state_dict()["state"]
    return {f"{name}.{number}": value for number, tensors in state.items() for name, value in tensors.items()}


def _read_optimizer(
    path: Path, optimizer: torch.optim.Optimizer, *, may_be_empty: bool
) -> dict[int, dict[str, Tensor]]:
    """Read the state of an optimizer: number of a parameter -> name -> tensor.

    It may be empty in float16, where the first steps are left out until the scale of the loss fits.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _read_tensors(path).items():
        name, _, number = key.rpartition(".")
        parameter = parameters[int(number)] if number.isdecimal() and int(number) < len(parameters) else None
        if parameter is None or value.shape not in (parameter.shape, ()):
            raise InputError(f"{path} does not fit this network: {key} is unknown or of another shape")
        if value.shape == parameter.shape:  # in the memory order of the parameter, so that sums round as they did
            value = torch.empty_like(parameter, dtype=value.dtype, device="cpu").copy_(value)
        state.setdefault(int(number), {})[name] = value
    complete = bool(state) or may_be_empty
    if not complete or any(tensors.keys() != {"step", "exp_avg", "exp_avg_sq"} for tensors in state.values()):
        raise InputError(f"{path} is damaged: it lacks a part of the optimizer's state")
    return state


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    # safetensors cannot save tensors in channels_last order
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def _network(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """The network without its wrappers."""
    return accelerator.unwrap_model(model, keep_torch_compile=False)


def _epoch(checkpoint: Path) -> int:
    return int(re.search(r"epoch-(\d+)", checkpoint.name)[1])  # type: ignore[index]  # callers match the name


def _random_name(process: int) -> str:
    return f"random-{process}.json"


def _remove(path: Path) -> None:
    """Remove a folder, or whatever took its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()

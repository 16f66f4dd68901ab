"""The joint weights of the newest rounds on the coordinator's disk. A round under its final name is complete."""

import re
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from run_folder.files import InputError, replacing
from run_folder.layout import REFIT
from training.build import new_model
from training.recipe import Recipe

from .average import check_state
from .messages import FederationError

State = dict[str, np.ndarray]
KEPT = 2  # a damaged file costs one round


def initial_state(recipe: Recipe, which: int | str) -> State:
    """The weights that the first round starts from: those that `train.py` would start this fold from."""
    number = recipe.num_folds if which == REFIT else int(which)
    set_seed(recipe.seed + 1000 * number)
    return numpy_state(new_model(recipe).state_dict())


def numpy_state(state: dict[str, torch.Tensor]) -> State:
    """A copy of a network's weights and buffers."""
    return {name: value.detach().cpu().contiguous().numpy().copy() for name, value in state.items()}


def torch_state(state: State) -> dict[str, torch.Tensor]:
    """The weights for `load_state_dict`."""
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def save_round(folder: Path, number: int, state: State) -> None:
    """Save the joint weights after a round, and remove those of all but the newest two."""
    with replacing(folder / f"round-{number:03d}.safetensors") as temporary:
        # in C order; np.ascontiguousarray would give BatchNorm's counters, which have no axis, one
        save_file({name: np.array(value, order="C") for name, value in state.items()}, temporary)
    for _, path in _complete(folder)[KEPT:]:
        path.unlink()


def newest_round(folder: Path, initial: State) -> tuple[int, State]:
    """The number of the newest round that is whole, and its weights; (0, `initial`) if there is none.

    Raises:
        InputError: there are rounds, and none of them can be read.
    """
    problems = []
    for number, path in _complete(folder):
        try:
            state = load_file(path)
            check_state(state, initial, path.name)
            return number, state
        except (SafetensorError, ValueError, FederationError) as error:
            problems.append(f"{path} is damaged ({' '.join(str(error).split()).rstrip('.')})")
    if problems:
        raise InputError(f"{'; '.join(problems)}. Restore it, or start a new federated run in another --output_dir.")
    return 0, initial


def _complete(folder: Path) -> list[tuple[int, Path]]:
    """The rounds on the disk, the newest first."""
    found = [(re.fullmatch(r"round-(\d+)\.safetensors", path.name), path) for path in folder.glob("round-*")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)

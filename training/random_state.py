"""The state of every random number generator that training may draw from, as plain numbers."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from run_folder.files import InputError


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of Python, NumPy and torch, and of the GPU that this process trains on, ready for JSON."""
    name, words, *rest = np.random.get_state()  # noqa: NPY002  # the global generator, which libraries draw from
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(words).tolist(), *rest],
        "torch": torch.get_rng_state().tolist(),
        "cuda": torch.cuda.get_rng_state(device).tolist() if device.type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device, *, where: Path) -> None:
    """Restore the states of `random_state`.

    Raises:
        InputError: these are no such states; the message names the file `where` they come from.
    """
    try:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
        np.random.set_state(state["numpy"])  # noqa: NPY002
        torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
        if device.type == "cuda" and state["cuda"] is not None:  # None: the run began on a CPU
            torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8), device)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"{where} is damaged: it does not hold random states ({error})") from error

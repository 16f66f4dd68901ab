"""One checkpoint per epoch. A checkpoint under its final name is complete.

All processes of a run write into the same folder before the main one renames it, so `run_folder.files`, which serves
one process, cannot do it.
"""

import json
import re
import shutil
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

SELECTED = "selected.safetensors"
HISTORY = "history.json"


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of the latest epoch in `folder`, or None."""
    complete = [path for path in folder.glob("epoch-*") if re.fullmatch(r"epoch-\d+", path.name)]
    return max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)


def save_checkpoint(
    accelerator: Accelerator, folder: Path, history: list[dict], selected: dict[str, Tensor] | None
) -> None:
    """Save the state after the last epoch of `history`, then remove earlier checkpoints.

    Args:
        accelerator: holds the prepared model and optimizer and the registered schedule.
        folder: the fold's checkpoints.
        history: one row per epoch so far.
        selected: the weights selected so far; None if the last epoch counts.
    """
    final = folder / f"epoch-{history[-1]['epoch']:03d}"
    partial = folder / f".{final.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (partial / HISTORY).write_text(json.dumps(history))
        if selected is not None:
            # safetensors cannot save tensors in channels_last order
            save_file({name: value.contiguous() for name, value in selected.items()}, partial / SELECTED)
        partial.rename(final)
        for older in folder.iterdir():
            if older != final and re.fullmatch(r"\.?epoch-\d+(\.partial)?", older.name):
                shutil.rmtree(older)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> tuple[list[dict], dict[str, Tensor] | None]:
    """Restore a checkpoint into the accelerator. Returns its history and selected weights (see `save_checkpoint`)."""
    accelerator.load_state(str(checkpoint))
    history = json.loads((checkpoint / HISTORY).read_text())
    selected = load_file(checkpoint / SELECTED) if (checkpoint / SELECTED).is_file() else None
    return history, selected

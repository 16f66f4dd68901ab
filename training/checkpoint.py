"""One checkpoint an epoch, written beside and renamed: whatever is there under its final name is complete."""

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
    """The checkpoint of the latest epoch in `folder`, or `None`."""
    complete = [path for path in folder.glob("epoch-*") if re.fullmatch(r"epoch-\d+", path.name)]
    return max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)


def save_checkpoint(
    accelerator: Accelerator, folder: Path, history: list[dict], selected: dict[str, Tensor] | None
) -> None:
    """Save the state after the last epoch of `history`, then remove the checkpoints before it.

    Args:
        accelerator: holds the prepared model, optimizer and whatever was registered for checkpointing.
        folder: where the checkpoints of this fold are.
        history: one row an epoch so far.
        selected: the weights chosen so far, where the rule is not simply the last epoch.
    """
    final = folder / f"epoch-{history[-1]['epoch']:03d}"
    beside = folder / f".{final.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(beside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (beside / HISTORY).write_text(json.dumps(history))
        if selected is not None:
            # safetensors takes no other order in memory than the plain one
            save_file({name: value.contiguous() for name, value in selected.items()}, beside / SELECTED)
        beside.rename(final)
        for older in folder.iterdir():
            if older != final and re.fullmatch(r"\.?epoch-\d+(\.partial)?", older.name):
                shutil.rmtree(older)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> tuple[list[dict], dict[str, Tensor] | None]:
    """Restore what `save_checkpoint` saved; returns the history so far and the weights selected so far."""
    accelerator.load_state(str(checkpoint))
    history = json.loads((checkpoint / HISTORY).read_text())
    selected = load_file(checkpoint / SELECTED) if (checkpoint / SELECTED).is_file() else None
    return history, selected

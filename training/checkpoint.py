"""One checkpoint per epoch. A checkpoint under its final name is complete.

All processes of a run write into the same folder before the main one renames it, so `run_folder.files`, which serves
one process, cannot do it. The weights are saved under the names of the network itself: a run may continue with or
without `torch.compile`, whose wrapper adds to the names.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from run_folder.files import writing

WEIGHTS = "model.safetensors"  # Accelerate's name of them
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

    Raises:
        WriteError: the disk is full. The checkpoint of the epoch before is kept.
    """
    final = folder / f"epoch-{history[-1]['epoch']:03d}"
    partial = folder / f".{final.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        with writing(final), _network_names(accelerator):
            accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            with writing(final):
                (partial / HISTORY).write_text(json.dumps(history))
                if selected is not None:
                    # safetensors cannot save tensors in channels_last order
                    save_file({name: value.contiguous() for name, value in selected.items()}, partial / SELECTED)
                partial.rename(final)
    finally:
        if accelerator.is_main_process:  # after an error: half a checkpoint would keep the disk full
            shutil.rmtree(partial, ignore_errors=True)
    if accelerator.is_main_process:
        for older in folder.iterdir():
            if older != final and re.fullmatch(r"\.?epoch-\d+(\.partial)?", older.name):
                shutil.rmtree(older)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> tuple[list[dict], dict[str, Tensor] | None]:
    """Restore a checkpoint into the accelerator. Returns its history and selected weights (see `save_checkpoint`)."""
    with _network_names(accelerator):
        accelerator.load_state(str(checkpoint))
    history = json.loads((checkpoint / HISTORY).read_text())
    selected = load_file(checkpoint / SELECTED) if (checkpoint / SELECTED).is_file() else None
    return history, selected and _without_wrappers(selected)


@contextmanager
def _network_names(accelerator: Accelerator) -> Iterator[None]:
    """Let `save_state` and `load_state` use the names of the network without its wrappers."""

    def network(model: nn.Module) -> nn.Module:
        return accelerator.unwrap_model(model, keep_torch_compile=False)

    def save(models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        weights[:] = [network(model).state_dict() for model in models]

    def load(models: list[nn.Module], folder: str) -> None:
        (model,) = models
        network(model).load_state_dict(_without_wrappers(load_file(Path(folder) / WEIGHTS)))
        models.clear()  # Accelerate then loads none

    hooks = (accelerator.register_save_state_pre_hook(save), accelerator.register_load_state_pre_hook(load))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _without_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the weights of an older checkpoint, saved with its wrappers, as the network does."""
    return {name.replace("_orig_mod.", "").removeprefix("module."): value for name, value in weights.items()}

"""The start of Accelerate: the recipe decides about training, not the launcher or the environment.

`accelerate launch`, its configuration file and the user set `ACCELERATE_*` variables. Accelerate 1.15 prefers some of
them to the arguments it is called with. Here they fall into three groups. Those that a setting of the recipe answers
lose to it. Those that would train in a way that no recipe records are refused. The rest does not change what is
trained: the device, logging, and `torch.compile`, which changes only rounding.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator, DataLoaderConfiguration, InitProcessGroupKwargs
from accelerate.utils import GradientAccumulationPlugin

from screening.pytorch import allow_tf32

from .recipe import Recipe, RecipeError

OVERRIDDEN = {  # variable -> the setting of the recipe that is used instead
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "gradient_accumulation_steps",
    "ACCELERATE_MIXED_PRECISION": "mixed_precision",
}
REFUSED = {  # variable -> what it asks for
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
    "ACCELERATE_FP8_BACKEND": "fp8 precision",
    "ACCELERATE_DOWNCAST_BF16": "downcasting to bf16 on a TPU",
}


def start_accelerator(recipe: Recipe, folder: Path, report_to: str) -> Accelerator:
    """Start Accelerate with the settings of the recipe. Experiment trackers write to `folder`.

    Raises:
        RecipeError: the launcher or the environment asks for something that no recipe records, or that is unknown.
    """
    for variable, what in REFUSED.items():
        value = os.environ.get(variable, "")
        if value.lower() not in ("", "0", "false", "no", "off", "n", "f"):
            raise RecipeError(
                f"{variable} is {value}, which asks for {what}, and training does not support it: leave it out of the "
                "call of accelerate launch, of its configuration file (accelerate config) and of the environment."
            )
    tf32 = recipe.mixed_precision == "tf32"
    try:
        accelerator = Accelerator(
            mixed_precision="no" if tf32 else recipe.mixed_precision,
            # a plugin, because ACCELERATE_GRADIENT_ACCUMULATION_STEPS replaces the plain number
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=recipe.gradient_accumulation_steps),
            log_with=None if report_to == "none" else report_to,
            project_dir=str(folder),
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=recipe.seed),
            # the other processes wait while the main one generates or standardises a large cohort
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
        )
    except ValueError as error:  # such as a backend of torch.compile that it does not know
        raise RecipeError(f"Accelerate does not start with the settings it was launched with: {error}") from error
    allow_tf32(tf32)  # PyTorch allows it for convolutions, Accelerate with torch.compile; the recipe decides
    return accelerator


def overridden_settings(recipe: Recipe) -> list[str]:
    """Return one sentence for each setting of the launcher or the environment that the recipe overrides."""
    sentences = []
    for variable, name in OVERRIDDEN.items():
        asked, used = os.environ.get(variable), str(getattr(recipe, name))
        # `accelerate launch` always sets the precision, to `no` unless it was asked for another
        if asked not in (None, "", used) and (variable, asked) != ("ACCELERATE_MIXED_PRECISION", "no"):
            sentences.append(f"{variable} is {asked}, but the recipe decides: {name} is {used} (--{name} changes it).")
    return sentences


@contextmanager
def compiling() -> Iterator[None]:
    """Around training with `accelerate launch --dynamo_backend`.

    Raises:
        RecipeError: torch cannot compile the network.
    """
    try:
        yield
    except Exception as error:  # torch has no public class for these errors
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().splitlines()[0]
        backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND")
        raise RecipeError(
            f"torch.compile failed with --dynamo_backend {backend} ({reason}): choose another backend, or leave it out."
        ) from error

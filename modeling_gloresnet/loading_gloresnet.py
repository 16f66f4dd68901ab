"""What must hold in a model folder before its answers mean anything, and a `from_pretrained` that refuses the rest.

transformers fills weights that a file lacks with random numbers and only logs it.
"""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

FLOATS = {"F64", "F32", "F16", "BF16"}  # as safetensors names them
WHOLE = ("num_batches_tracked", "relative_position_index")  # of BatchNorm and Swin, the only tensors of whole numbers
LOCAL = re.compile(r"(members\.\d+\.)?local\.")  # how the names of the local stream's tensors begin
PRESENCE = re.compile(r"(members\.\d+\.)?presence\.")
PROCESSOR = "preprocessor_config.json"
ADVICE = "copy the whole folder again, or export the model again."


class ScreeningPreTrainedModel(PreTrainedModel):
    """Loads weights only if every one of them fits the network."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *model_args,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs,
    ):
        """Load a model as `PreTrainedModel.from_pretrained` does, or refuse it.

        Args:
            pretrained_model_name_or_path, *model_args, **kwargs: see transformers. Weights are read from safetensors
                only, unless `use_safetensors=False`.
            output_loading_info: also return what was missing, unexpected and mismatched, for the caller to judge.
                Nothing of these is refused then.
            ignore_mismatched_sizes: accept weights of another shape, and initialise them.

        Raises:
            ValueError: weights are missing, unexpected, of another shape, not finite or not floating-point numbers, or
                the files of the folder contradict each other. The message names them.
        """
        kwargs.setdefault("use_safetensors", True)
        name, part = str(pretrained_model_name_or_path), kwargs.get("subfolder") or ""
        if Path(name).is_dir():
            _refuse(folder_problem(Path(name, part)), name)
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
        model, found = loaded
        revision = kwargs.get("revision")
        if not Path(name).exists() and (folder := downloaded_folder(name, part, kwargs.get("cache_dir"), revision)):
            _refuse(folder_problem(folder), name)
        model.config.validate()  # keywords of this call may have changed it
        if output_loading_info:
            return model, found
        _refuse(weights_problem(model, found | ({"mismatched_keys": ()} if ignore_mismatched_sizes else {})), name)
        return model


def downloaded_folder(name: str, part: str = "", cache_dir=None, revision: str | None = None) -> Path | None:
    """The folder in the Hub's cache that holds a downloaded model; None if there is none."""
    file = try_to_load_from_cache(name, f"{part}/config.json".lstrip("/"), cache_dir, revision) if name else None
    return Path(file).parent if isinstance(file, str) else None


def weight_kinds(folder: Path) -> dict[str, str]:
    """The number format of each tensor in the files of weights, as safetensors names it: `F32`, `I64`.

    Raises:
        ValueError: a file is damaged or cannot be read.
    """
    kinds: dict[str, str] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        if path.is_file():
            try:
                with safe_open(path, framework="pt") as file:
                    kinds |= {name: file.get_slice(name).get_dtype() for name in file.keys()}
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{path.name} cannot be read ({error}): {ADVICE}") from error
    return kinds


def folder_problem(folder: Path) -> str | None:
    """Say which files of a model folder contradict each other or are damaged, or return None.

    Missing files are left to transformers, which reports them.
    """
    try:
        kinds = weight_kinds(folder)
        return _contradiction(folder, kinds) or _whole_numbers(kinds)
    except ValueError as error:
        return str(error)


def _contradiction(folder: Path, kinds: dict[str, str]) -> str | None:
    settings, processor = (_read(folder / name) for name in ("config.json", PROCESSOR))
    size, processor_size = settings.get("image_size"), processor.get("image_size")
    if None not in (size, processor_size) and size != processor_size:
        return (
            f"{PROCESSOR} makes volumes with {processor_size} voxels per edge, but config.json says that the model "
            f"expects {size}: give both the image_size that the model was trained with."
        )
    if processor and (searches := bool(processor.get("local_stream"))) != bool(settings.get("local_stream")):
        return (
            f"config.json says that the model has {'no' if searches else 'a'} local stream, but {PROCESSOR} says "
            f"local_stream {str(searches).lower()}: give both the setting that the model was trained with."
        )
    channels, made = (part.get("modalities") or ["T2w"] for part in (settings, processor))
    if processor and channels != made:
        return (
            f"{PROCESSOR} prepares {_few(map(str, made))}, but config.json says that the model expects "
            f"{_few(map(str, channels))}: give both the modalities that the model was trained with."
        )
    for lacks, what, pattern in (
        (not settings.get("local_stream"), "no local stream", LOCAL),
        (channels == ["T2w"], "no modality besides T2w", PRESENCE),
    ):
        surplus = [name for name in kinds if lacks and pattern.match(name)]
        if surplus:  # transformers does not report them, because AutoModel leaves them out
            return (
                f"config.json says that the model has {what}, but of its tensors, "
                f"{len(surplus)} {'are' if len(surplus) > 1 else 'is'} unexpected ({_few(surplus)}): {ADVICE}"
            )
    for index in folder.glob("*.index.json"):
        parts = _read(index).get("weight_map")
        outside = [part for part in parts.values() if not _is_in(folder, part)] if isinstance(parts, dict) else [parts]
        if outside:
            return f"{index.name} names {outside[0]!r}, which is not a file of this folder: {ADVICE}"
    return None


def _whole_numbers(kinds: dict[str, str]) -> str | None:
    whole = {name: kind for name, kind in kinds.items() if kind not in FLOATS and not name.lower().endswith(WHOLE)}
    if whole:
        found = _few(f"{name} is {kind}" for name, kind in whole.items())
        return f"weights must be floating-point numbers, but {found}: {ADVICE}"
    return None


def weights_problem(model: nn.Module, found: dict[str, Any]) -> str | None:
    """Say which weights do not fit the network or cannot be weights, or return None.

    Args:
        model: as loaded.
        found: what `from_pretrained(..., output_loading_info=True)` returns with it.
    """
    shapes = [f"{name} {tuple(stored)} instead of {tuple(wanted)}" for name, stored, wanted in found["mismatched_keys"]]
    faults = [
        f"{len(names)} {'is' if len(names) == 1 else 'are'} {words} ({_few(names)})"
        for words, names in (
            ("missing", sorted(found["missing_keys"])),
            ("unexpected", sorted(found["unexpected_keys"])),
            ("of another shape", sorted(shapes)),
        )
        if names
    ]
    if faults:
        return f"the weights do not fit the network: of its tensors, {', '.join(faults)}; {ADVICE}"
    return _value_problem(model)


def _value_problem(model: nn.Module) -> str | None:
    """Say which weights are not finite, are negative variances, or are empty as after an incomplete copy."""
    faults: dict[str, list[str]] = {"values that are not finite": [], "negative variances": [], "only zeros": []}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
            continue
        low, high = (value.item() for value in tensor.aminmax())
        is_variance = name.endswith("running_var")
        if not (math.isfinite(low) and math.isfinite(high)):
            faults["values that are not finite"].append(name)
        elif is_variance and low < 0:
            faults["negative variances"].append(name)
        elif low == high == 0 and (is_variance or tensor.ndim == 5):  # biases and an untrained head may be zero
            faults["only zeros"].append(name)
    for words, names in faults.items():
        if names:
            return f"the weights cannot be right, with {words} in {_few(names)}: {ADVICE}"
    return None


def _refuse(problem: str | None, name: str) -> None:
    if problem:
        raise ValueError(f"The model {name} is refused: {problem}")


def _read(path: Path) -> dict:
    """The JSON object in a file, empty if there is no file. Raises ValueError if it holds something else."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read as JSON ({error}): {ADVICE}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must hold a JSON object, found {type(content).__name__}: {ADVICE}")
    return content


def _is_in(folder: Path, name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name and (folder / name).is_file()


def _few(names: Iterable[str]) -> str:
    """The first three names, and how many others there are. A file may hold names of any length."""
    names = [" ".join(name.split())[:100] for name in names]
    others = len(names) - 3
    return ", ".join(names[:3]) + (f" and {others} other{'s' * (others > 1)}" if others > 0 else "")


__all__ = ["ScreeningPreTrainedModel"]

"""The settings of a run, read from YAML files and command-line flags into one dataclass."""

import argparse
import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from architectures.networks import DEPTHS, Architecture, problem
from run_folder.files import InputError, read_yaml, write_text
from run_folder.layout import MOST_FOLDS

RECIPES = Path(__file__).parent.parent / "recipes"


class RecipeError(ValueError):
    """A setting is unknown, has the wrong type or is out of range. The message names it."""


def setting(help: str, least: float = -math.inf, most: float = math.inf) -> Any:
    """A field of the recipe: its help text and, for a number, the range from `least` to `most`, both included."""
    return field(metadata={"help": help, "least": least, "most": most})


@dataclass(frozen=True)
class Recipe:
    """The settings of a run. `recipes/paper.yaml` has a value for each; other recipes list only their changes."""

    image_size: int = setting("edge of the standardised volume in voxels", 16, 512)
    brain_mask: Literal["none", "required"] = setting("`required` multiplies each volume by its brain mask")
    framing: Literal["field_of_view", "head"] = setting(
        "map the whole field of view to the volume, as the paper does, or a frame of fixed size around the head"
    )
    bias_correction: Literal["none", "n4"] = setting("divide each scan by its bias field; needs SimpleITK")
    local_stream: Literal["off", "on"] = setting("`on` adds a stream that looks for small lesions at native resolution")
    modalities: str = setting("what the channels show, T2w first: T2w, or T2w,T1w,FA,MD, or some of these")
    max_birth_age: float | None = setting("use only infants born before this age in weeks", 20, 50)
    num_folds: int = setting("number of folds of the cross-validation; split site has one per site", 2, MOST_FOLDS)
    split: Literal["family", "paper", "site"] = setting(
        "keep families together in a fold, or, as the paper does, only subjects; site leaves out one site per fold"
    )
    selection: Literal["last", "inner", "paper"] = setting(
        "which epoch to use: the last, the best on inner scans, or the best on the held-out fold (optimistic)"
    )
    seed: int = setting("random seed of splits, initial weights, scan order and augmentation", 0, 2**31 - 1)
    architecture: Architecture = setting(
        "the network: resnet10 is GloResNet, compact a narrower one, the others baselines"
    )
    init: str = setting("initial encoder weights: medicalnet, random, or a MedicalNet .pth file")
    gradient_checkpointing: bool = setting("recompute activations in the backward pass to save memory")
    num_train_epochs: int = setting("epochs per fold", 1, 100_000)
    per_device_train_batch_size: int = setting("scans per step and process; BatchNorm and mixup need two", 2)
    gradient_accumulation_steps: int = setting("steps whose gradients are accumulated before an update", 1)
    learning_rate: float = setting("learning rate of AdamW at the start of the cosine schedule", 0)
    min_learning_rate: float = setting("learning rate at the end of the cosine schedule", 0)
    weight_decay: float = setting("weight decay of AdamW", 0)
    mixed_precision: Literal["no", "tf32", "bf16", "fp16"] = setting(
        "precision of the forward and backward passes; tf32 and fp16 need a CUDA GPU"
    )
    num_threads: int | None = setting("PyTorch threads per process", 1, 4096)
    rotation_degrees: float = setting("largest random rotation about each axis in degrees", 0, 180)
    flip_prob: float = setting("probability of a left-right flip", 0, 1)
    mixup_prob: float = setting("probability that mixup is applied to a mini-batch", 0, 1)
    mixup_alpha: float = setting("alpha of mixup's Beta(alpha, alpha) distribution", 1e-3, 1e3)
    modality_dropout: float = setting("probability that a scan's modality is left out in training; never T2w", 0, 1)

    def __post_init__(self) -> None:
        for field_ in dataclasses.fields(self):
            object.__setattr__(self, field_.name, _checked(field_, getattr(self, field_.name)))
        if self.min_learning_rate > self.learning_rate:
            raise RecipeError(
                f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}: lower it."
            )
        if self.modalities != "T2w":
            self._check_modalities()
        if self.local_stream == "on" and self.architecture not in (*DEPTHS, "compact"):
            raise RecipeError(f"local_stream on needs a ResNet, and the architecture is {self.architecture}: use off.")
        if message := problem(self.architecture, self.image_size, self.init, self.gradient_checkpointing):
            raise RecipeError(message)

    def _check_modalities(self) -> None:
        from preprocessing.modalities_gloresnet import check_modalities  # late: it imports NumPy and nibabel

        try:
            named = check_modalities([name.strip() for name in self.modalities.split(",")])
        except ValueError as error:
            raise RecipeError(str(error)) from error
        object.__setattr__(self, "modalities", ",".join(named))
        if len(named) > 1 and self.architecture not in (*DEPTHS, "compact"):
            raise RecipeError(
                f"modalities {self.modalities} need a ResNet, and the architecture is {self.architecture}: use T2w."
            )
        if len(named) > 1 and self.local_stream == "on":
            raise RecipeError(
                f"local_stream on takes T2w alone, and modalities is {self.modalities}: choose one of the two."
            )

    @property
    def channels(self) -> list[str]:
        """The modalities as a list."""
        return self.modalities.split(",")

    def save(self, path: Path) -> None:
        """Write every setting as YAML."""
        write_text(path, yaml.safe_dump(dataclasses.asdict(self), sort_keys=False))

    def differences(self, other: "Recipe") -> list[str]:
        """Return `name: own value, not other value` for each setting that differs."""
        return [
            f"{name}: {value!r}, not {getattr(other, name)!r}"
            for name, value in dataclasses.asdict(self).items()
            if value != getattr(other, name)
        ]


def load_recipe(name_or_path: str, **overrides: Any) -> Recipe:
    """Load a recipe: the paper's values, then those of the named recipe, then the overrides.

    Args:
        name_or_path: a recipe in `recipes/`, such as `demo` or `paper`, or the path of a YAML file.
        **overrides: settings by name.

    Raises:
        RecipeError: there is no such recipe, or a setting is unknown or has an impossible value.
    """
    settings: dict[str, Any] = {}
    for source in ("paper", name_or_path):
        settings.update(_read(source))
    return Recipe(**(settings | overrides))


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting. The parsed arguments contain only the flags that were given."""
    group = parser.add_argument_group("settings (each overrides the value in the recipe)")
    for field_ in dataclasses.fields(Recipe):
        kind, _ = _kind(field_.type)
        options = {"help": field_.metadata["help"].replace("%", "%%"), "default": argparse.SUPPRESS}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is Literal:
            options["choices"] = typing.get_args(kind)
        else:
            options["type"] = kind
            options["metavar"] = field_.name.split("_")[-1].upper()
        group.add_argument(f"--{field_.name}", **options)


def _read(name_or_path: str) -> dict:
    named = RECIPES / f"{name_or_path}.yaml"
    path = named if named.is_file() else Path(name_or_path)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise RecipeError(f"There is no recipe {name_or_path}: choose one of {known}, or give the path of a YAML file.")
    try:
        settings = read_yaml(path)
    except InputError as error:
        raise RecipeError(f"{error} See recipes/demo.yaml for an example.") from error
    names = [f.name for f in dataclasses.fields(Recipe)]
    if unknown := sorted(map(str, settings.keys() - set(names))):
        raise RecipeError(f"{path} has unknown settings {', '.join(unknown)}: the known ones are {', '.join(names)}.")
    return settings


def _kind(annotation: Any) -> tuple[type[Any], bool]:
    """Return the type of a field without None, and whether it may be None."""
    if isinstance(annotation, types.UnionType):
        return next(a for a in typing.get_args(annotation) if a is not type(None)), True
    return annotation, False


def _checked(field_: dataclasses.Field, value: Any) -> Any:
    """Return a setting's value as the field's type. Raises RecipeError if it is impossible."""
    kind, optional = _kind(field_.type)
    if value is None and optional:
        return None
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        for word, meaning in (("no", False), ("off", False), ("on", True)):  # YAML 1.1 reads the bare words so
            value = word if value is meaning and word in choices else value
        if value not in choices:
            raise RecipeError(f"{field_.name} is {value!r}: choose one of {', '.join(choices)}.")
        return value
    if kind is float and isinstance(value, str):
        try:  # YAML 1.1 reads 1e-3, without a point, as text
            value = float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise RecipeError(f"{field_.name} is {value!r}: it must be {'a' if kind is not int else 'an'} {kind.__name__}.")
    if kind in (int, float):
        least, most = field_.metadata["least"], field_.metadata["most"]
        if not (math.isfinite(value) and least <= value <= most):
            bounds = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
            raise RecipeError(f"{field_.name} is {value}: it must be {bounds}.")
    return value

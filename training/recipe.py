"""Everything about a run that is neither geometry nor preprocessing, in one dataclass read from YAML and flags."""

import argparse
import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from architectures.networks import Architecture, problem
from run_folder.files import InputError, read_yaml, write_text

RECIPES = Path(__file__).parent.parent / "recipes"


class RecipeError(ValueError):
    """A setting that does not exist, has the wrong type or lies outside its range; the message names it."""


def setting(help: str, least: float = -math.inf, most: float = math.inf):
    """A field of the recipe: what it means, and the closed range of its numbers."""
    return field(metadata={"help": help, "least": least, "most": most})


@dataclass(frozen=True)
class Recipe:
    """The settings of a run. `recipes/paper.yaml` holds the value of each; other recipes name what they change."""

    image_size: int = setting("edge of the standardised volume, voxels", 16, 512)
    brain_mask: Literal["none", "required"] = setting("`required` multiplies each volume with its brain mask")
    max_birth_age: float | None = setting("keep infants born before this age, weeks", 20, 50)
    num_folds: int = setting("folds of the cross-validation", 2, 100)
    split: Literal["family", "paper"] = setting("what stays on one side of a split: the family, or only the subject")
    selection: Literal["last", "inner", "paper"] = setting("which epoch's weights count; `paper` is optimistic")
    seed: int = setting("of the splits, the initial weights, the order of the scans and the augmentation", 0, 2**31 - 1)
    architecture: Architecture = setting("the network: resnet10 is GloResNet, compact a narrow one, others baselines")
    init: str = setting("initial encoder weights: medicalnet, random, or a MedicalNet .pth file")
    gradient_checkpointing: bool = setting("recompute activations in the backward pass to save memory")
    num_train_epochs: int = setting("epochs a fold", 1)
    per_device_train_batch_size: int = setting("scans a step and process; BatchNorm and mixup need two", 2)
    gradient_accumulation_steps: int = setting("steps whose gradients are summed before an update", 1)
    learning_rate: float = setting("of AdamW, at the start of the cosine", 0)
    min_learning_rate: float = setting("at its end", 0)
    weight_decay: float = setting("of AdamW", 0)
    mixed_precision: Literal["no", "bf16", "fp16"] = setting("precision of the training passes")
    num_threads: int | None = setting("PyTorch threads a process", 1, 4096)
    rotation_degrees: float = setting("largest random rotation about each axis, degrees", 0, 180)
    flip_prob: float = setting("probability of a left-right flip", 0, 1)
    mixup_prob: float = setting("probability that a mini-batch is mixed", 0, 1)
    mixup_alpha: float = setting("of mixup's Beta(alpha, alpha)", 1e-3, 1e3)

    def __post_init__(self):
        for field_ in dataclasses.fields(self):
            object.__setattr__(self, field_.name, _checked(field_, getattr(self, field_.name)))
        if self.min_learning_rate > self.learning_rate:
            raise RecipeError(
                f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}: lower it."
            )
        if message := problem(self.architecture, self.image_size, self.init, self.gradient_checkpointing):
            raise RecipeError(message)

    def save(self, path: Path) -> None:
        """Write every setting as YAML."""
        write_text(path, yaml.safe_dump(dataclasses.asdict(self), sort_keys=False))

    def differences(self, other: "Recipe") -> list[str]:
        """`name: mine, not theirs` for each setting in which the two differ."""
        return [
            f"{name}: {value!r}, not {getattr(other, name)!r}"
            for name, value in dataclasses.asdict(self).items()
            if value != getattr(other, name)
        ]


def load_recipe(name_or_path: str, **overrides) -> Recipe:
    """The paper's recipe, changed by the named one (`demo`, `paper` or a YAML file), changed by the overrides.

    Raises:
        RecipeError: no such recipe, or a setting that is unknown or impossible.
    """
    settings = {}
    for source in ("paper", name_or_path):
        settings.update(_read(source))
    return Recipe(**(settings | overrides))


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """One flag a setting; a flag that is not given leaves no trace in the parsed arguments."""
    group = parser.add_argument_group("settings of the recipe (each overrides the recipe's value)")
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
        raise RecipeError(f"{path} names unknown settings {', '.join(unknown)}: the known ones are {', '.join(names)}.")
    return settings


def _kind(annotation) -> tuple[type, bool]:
    """The type of a field, and whether it may be `None`."""
    if isinstance(annotation, types.UnionType):
        return next(a for a in typing.get_args(annotation) if a is not type(None)), True
    return annotation, False


def _checked(field_: dataclasses.Field, value):
    kind, optional = _kind(field_.type)
    if value is None and optional:
        return None
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        # YAML 1.1 reads a bare `no` as false
        value = "no" if value is False and "no" in choices else value
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

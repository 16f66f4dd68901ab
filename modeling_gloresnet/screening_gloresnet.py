"""What screening relies on, whatever runs the network: checks of its settings. Imports no torch."""

import math
from typing import Any

GLOBAL_ONLY = (
    "This model has a local stream, which looks for small lesions, but got pixel_values alone: the answer is that of "
    "the global stream. Pass everything that the image processor returns: model.predict_proba(**inputs)."
)


def check_inference(config: Any) -> None:
    """Check temperature and threshold. Raises ValueError."""
    check_temperature("temperature", config.temperature)
    if not 0 <= config.threshold <= 1:
        raise ValueError(f"threshold is a probability from 0 to 1, not {config.threshold}.")


def check_labels(config: Any) -> None:
    """Check that the labels of the network's outputs are distinct, complete, and the same in both directions.

    Raises:
        ValueError: they are not, or output 1 is not the probability of injury.
    """
    names = {int(index): name for index, name in (config.id2label or {}).items()}
    if sorted(names) != list(range(len(names))) or len(set(names.values())) < len(names):
        raise ValueError(f"id2label must give each output from 0 on a name of its own, not {names}.")
    indices = {name: int(index) for name, index in (config.label2id or {}).items()}
    if indices and indices != {name: index for index, name in names.items()}:
        raise ValueError(f"id2label {names} and label2id {indices} contradict each other: give both or neither.")
    if str(names.get(0)).lower() == "injury" or str(names.get(1)).lower() == "normal":
        raise ValueError(f"output 1 is the probability of injury, but id2label says {names}: correct the labels.")


def check_appearance(config: Any) -> None:
    """Check that `training_appearance` holds a mean and a standard deviation for each name. Raises ValueError."""
    for name, numbers in (config.training_appearance or {}).items():
        mean: Any
        sd: Any
        mean, sd = numbers if isinstance(numbers, (list, tuple)) and len(numbers) == 2 else (None, None)
        if not (is_finite(mean) and is_finite(sd) and sd >= 0):
            raise ValueError(
                f"training_appearance must hold a mean and a standard deviation of {name}, not {numbers}: without "
                "them no unusual scan is recognised."
            )


def check_temperature(what: str, value: float) -> None:
    """Refuse a temperature outside 0.001 to 1000, which would make every probability 0.5, 0 or 1. Raises ValueError."""
    if not (math.isfinite(value) and 1e-3 <= value <= 1e3):
        raise ValueError(f"{what} must be a positive number, from 0.001 to 1000, not {value}.")


def is_finite(value: Any) -> bool:
    """Whether a value is a number and neither infinite nor NaN."""
    return isinstance(value, (int, float)) and math.isfinite(value)

"""What all sections share: the model and scans to measure with, and the precision that the targets apply to."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .bounds import precisions
from .contestants import interleave

GB = 1e9


@dataclass
class Setting:
    """What the sections measure with.

    Attributes:
        folder: scratch space, removed at the end.
        model: model folder with seeded random weights.
        scans: paths of full-size scans.
        image_size: edge of the input cube, voxels.
        turns: rounds of the interleaved measurements.
        quick: skip the slow measurements.
        long: screen 10,000 scans.
    """

    folder: Path
    model: Path
    scans: list[str]
    image_size: int
    turns: int
    quick: bool
    long: bool

    def paths(self, number: int) -> list[str]:
        """A list of `number` scans; scans repeat if there are fewer."""
        return [self.scans[index % len(self.scans)] for index in range(number)]

    def ways(self, *names: str) -> dict[str, dict]:
        """Contestants for `interleave`: name -> settings."""
        common = {"folder": str(self.model), "image_size": self.image_size}
        return {name: {"way": name, **common} for name in names}


def best() -> str:
    """The precision that screening uses on this processor. The targets apply to it."""
    return precisions()[0]


def race(job: str, contestants: dict[str, dict], turns: Iterable, **options) -> dict:
    """`interleave`, without the contestants whose precision this processor would emulate."""
    left_out = {name for name in contestants if name.endswith("bfloat16") and best() != "bfloat16"}
    results = interleave(job, {name: c for name, c in contestants.items() if name not in left_out}, turns, **options)
    return results | {name: "not measured: this processor has no bfloat16 instructions" for name in sorted(left_out)}


@functools.cache
def bounds_of(path: str) -> dict:
    """The answer of the job `bound`, measured once per run."""
    return interleave("bound", {"bound": {"path": path}}, [None] * 2)["bound"].answer

"""Which injury each copy of each normal scan gets: every combination of kind, size and contrast equally often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from cohort.scans import Scan

KINDS = ("spot", "streak", "bright", "cyst", "ventricles")
FURTHEST = 8.0  # largest factor
SMALLEST_MM, LARGEST_MM = 0.5, 15.0
MOST_COPIES, MOST_LESIONS = 99, 50


class SettingError(ValueError):
    """A setting is out of range. The message says which, and what it may be."""


class Cell(NamedTuple):
    """What is painted into one copy. Fields that do not apply to the kind are None."""

    kind: str
    diameter_mm: float | None  # of the sphere of the same volume; None for ventricles
    contrast: float | None  # share of the local background, above 0; None for cysts and ventricles
    factor: float | None  # volume of the ventricles afterwards, relative to before


@dataclass(frozen=True)
class Settings:
    """Everything that determines a painted cohort, apart from the scans."""

    kinds: tuple[str, ...] = ("spot", "streak")
    diameters: tuple[float, ...] = (1.5, 2.0, 3.0, 4.0)  # mm
    contrasts: tuple[float, ...] = (0.1, 0.2, 0.4)
    factors: tuple[float, ...] = (1.5, 2.5, 4.0)
    copies: int = 4
    lesions: int = 1
    seed: int = 42

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.kinds) - set(KINDS)):
            raise SettingError(f"there is no kind of injury {unknown[0]!r}; choose among {', '.join(KINDS)}")
        for name, values, low, high in (
            ("diameter", self.diameters, SMALLEST_MM, LARGEST_MM),
            ("contrast", self.contrasts, 0.01, 1.0),
            ("factor", self.factors, 1.01, FURTHEST),
        ):
            for value in values:
                if not low <= value <= high:
                    raise SettingError(f"the {name} is {value:g}; choose one between {low:g} and {high:g}")
        for name, number, most in (("copies", self.copies, MOST_COPIES), ("lesions", self.lesions, MOST_LESIONS)):
            if not 1 <= number <= most:
                raise SettingError(f"the number of {name} is {number}; choose one between 1 and {most}")
        for name in ("kinds", "diameters", "contrasts", "factors"):
            if not getattr(self, name):
                raise SettingError(f"there are no {name}; give at least one")
        if self.seed < 0:
            raise SettingError(f"the seed is {self.seed}; it must be 0 or more")

    def cells(self) -> list[Cell]:
        """Every combination of a kind with what applies to it."""
        cells = []
        for kind in dict.fromkeys(self.kinds):
            if kind == "ventricles":
                cells += [Cell(kind, None, None, factor) for factor in self.factors]
            elif kind == "cyst":
                cells += [Cell(kind, diameter, None, None) for diameter in self.diameters]
            else:
                cells += [Cell(kind, d, c, None) for d, c in product(self.diameters, self.contrasts)]
        return cells

    def as_parameters(self) -> dict[str, Any]:
        """For the description of the cohort: lists and numbers."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class Copy(NamedTuple):
    """One session of the painted cohort; `cell` is None for the unpainted copy."""

    source: Scan
    session_id: str
    number: int  # 0 for the unpainted copy
    cell: Cell | None


def plan_copies(scans: Sequence[Scan], settings: Settings) -> list[list[Copy]]:
    """For each normal scan its unpainted copy and its painted ones.

    Combinations are dealt like cards: each is used once, in random order, before one is used again.

    Raises:
        SettingError: two copies would have the same name.
    """
    rng = np.random.default_rng([settings.seed, 1])
    cells = settings.cells()
    deck: list[Cell] = []
    plan = []
    for scan in scans:
        copies = [Copy(scan, f"{scan.session_id}p0", 0, None)]
        for number in range(1, settings.copies + 1):
            if not deck:
                deck = [cells[index] for index in rng.permutation(len(cells))]
            copies.append(Copy(scan, f"{scan.session_id}p{number}", number, deck.pop()))
        plan.append(copies)
    names = Counter((copy.source.participant_id, copy.session_id) for copies in plan for copy in copies)
    (participant, session), times = names.most_common(1)[0]
    if times > 1:
        raise SettingError(f"two copies of sub-{participant} would be named ses-{session}; rename a session")
    return plan

"""How many draws and permutations the intervals and tests of a report use. Imports no library."""

from __future__ import annotations

from dataclasses import dataclass

PERMUTATIONS = 1000


@dataclass(frozen=True)
class Resampling:
    """How bootstrap intervals are computed.

    Attributes:
        draws: number of bootstrap draws, at least 1.
        seed: of the random generator.
        level: confidence level of the percentile intervals.
    """

    draws: int = 2000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"At least one bootstrap draw is needed, got {self.draws}.")

    @property
    def quantiles(self) -> tuple[float, float]:
        """The two quantiles of the draws that bound an interval, such as 0.025 and 0.975."""
        return (1 - self.level) / 2, (1 + self.level) / 2


DEFAULT_RESAMPLING = Resampling()

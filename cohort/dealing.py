"""Folds for a site with too few scans for stratified ones."""

from collections.abc import Sequence

import numpy as np

from .scans import Scan


def too_few(scans: Sequence[Scan], num_folds: int) -> bool:
    """Whether there are fewer families of a class than folds."""
    return any(len({scan.family for scan in scans if scan.label == label}) < num_folds for label in (0, 1))


def deal(scans: Sequence[Scan], num_folds: int, seed: int) -> dict[str, int]:
    """participant -> fold. Shuffled families, those with an injured infant first, go to the folds in turn."""
    injured = {family: 0 for family in sorted({scan.family for scan in scans})}
    for scan in scans:
        injured[scan.family] = max(injured[scan.family], scan.label or 0)
    families = [list(injured)[i] for i in np.random.default_rng(seed).permutation(len(injured))]
    fold_of = {family: i % num_folds for i, family in enumerate(sorted(families, key=lambda each: -injured[each]))}
    return {scan.participant_id: fold_of[scan.family] for scan in scans}

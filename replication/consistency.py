"""Check whether published values of accuracy, sensitivity, F1 and so on are possible for the stated class counts.

A row of values is read in two ways. Both checks are exact, so "not reachable" is a proof:

- *one matrix*: the row describes one confusion matrix (of a test set, one fold, or pooled predictions). All
  (normal + 1)(injury + 1) matrices are tried.
- *mean over folds*: each value is a mean over k folds with given class counts. Whether k matrices exist whose means
  round to the row is an integer linear feasibility problem, solved with HiGHS (`scipy.optimize.milp`).

A printed value can be any number within half a unit of its last decimal place. `--rounding any` allows a whole unit,
which also covers truncation. An AUC is checked against the bounds set by the operating point:
sens * spec <= AUC <= 1 - (1 - sens)(1 - spec). A metric that is undefined for a matrix (0 / 0) counts as 0, as in
scikit-learn.

    python -m replication.consistency                 checks Table 2 of the paper
    python -m replication.consistency --normal 74 --injury 54 --folds 5 --accuracy 75.18% --sensitivity .76 --f1 .780
    python -m replication.consistency --table FILE    columns name, normal, injury, folds and any of the metrics

Exit status: 0 checked, whether reachable or not; 1 the input cannot be used; 2 wrong call.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m replication.consistency")

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PROGRAM = "python -m replication.consistency"
METRICS = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "mcc", "auc")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__.split("\n")[0])
    parser.add_argument("--normal", type=int, help="number of normal scans")
    parser.add_argument("--injury", type=int, help="number of injured scans")
    parser.add_argument("--folds", type=int, help="also read the row as means over this many stratified folds")
    parser.add_argument(
        "--table", type=Path, help="CSV or TSV with one row per model: name, normal, injury, folds, metrics"
    )
    rounding = "any also allows truncated and rounded-up values; with folds it can take minutes"
    parser.add_argument("--rounding", choices=("nearest", "any"), default="nearest", help=rounding)
    for metric in METRICS:
        parser.add_argument(f"--{metric}", help="as printed, e.g. 0.76 or 75.18%%")
    options = parser.parse_args(argv)
    reported = any(getattr(options, metric) is not None for metric in METRICS)
    if reported and not options.table and (options.normal is None or options.injury is None):
        parser.error("--normal and --injury are needed with the metrics")
    return options


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from evaluation.published import COHORT, COHORT_NOTE, TABLE_2_BEST_FOLD, TABLE_2_COLUMNS, TABLE_2_MEANS
from machine.programs import run_program
from replication.reachability import (
    OTHER_F1,
    SLACK,
    Reported,
    matching_fold_matrices,
    matching_matrices,
    matrices_of,
)
from run_folder.files import InputError
from run_folder.tables import read_table


@dataclass(frozen=True)
class Verdict:
    """The result for one reading of a row.

    Attributes:
        reading: "one matrix" or "mean over K folds".
        reachable: whether a matrix (or K matrices) gives all values.
        conflicts: sets of metrics whose values cannot all be true. First a smallest such set, then a smallest one among
            the other metrics, and so on. Empty if reachable.
        matrices: up to five (tn, fp, fn, tp) that give all values (one matrix), or one matrix per fold.
        nearest: if no single matrix gives the row, the matrix with the smallest maximum difference, and its metrics.
        other_f1: definitions of F1 (normal class, macro, weighted) with which the row would be reachable.
    """

    reading: str
    reachable: bool
    conflicts: tuple[tuple[str, ...], ...]
    matrices: tuple[tuple[int, int, int, int], ...]
    nearest: Mapping[str, float] | None
    other_f1: tuple[str, ...]


def _disjoint_conflicts(
    reported: Mapping[str, Reported], reachable: Callable[[Mapping[str, Reported]], bool]
) -> tuple[tuple[str, ...], ...]:
    left, conflicts = dict(reported), []
    while left and not reachable(left):
        sets = (names for size in range(1, len(left) + 1) for names in combinations(left, size))
        conflict = next(names for names in sets if not reachable({name: left[name] for name in names}))
        conflicts.append(conflict)
        left = {name: figure for name, figure in left.items() if name not in conflict}
    return tuple(conflicts)


def stratified_folds(normal: int, injury: int, folds: int) -> list[tuple[int, int]]:
    """Class counts (normal, injury) of k stratified folds.

    Each class is spread as evenly as possible; the first folds get one more normal scan, the last ones one more injured
    scan. 74 normal and 54 injured in five folds give 26, 26, 26, 25 and 25 scans, as in scikit-learn.

    Raises:
        InputError: this number of folds is not possible.
    """
    if folds < 2 or folds > normal + injury:
        raise InputError(f"{folds} folds of {normal + injury} scans are not possible: give 2 to {normal + injury}.")
    more_normal, more_injury = normal % folds, injury % folds
    first = [normal // folds + (k < more_normal) for k in range(folds)]
    second = [injury // folds + (folds - 1 - k < more_injury) for k in range(folds)]
    return list(zip(first, second, strict=True))


def check_row(
    reported: Mapping[str, str | float | Reported],
    normal: int,
    injury: int,
    folds: int | Sequence[tuple[int, int]] | None = None,
    rounding: str = "nearest",
) -> list[Verdict]:
    """Check one published row.

    Args:
        reported: metric -> value as printed. Give text, because it keeps trailing zeros ("0.450" is more precise than
            0.45). Metrics: accuracy, balanced_accuracy, sensitivity, specificity, ppv, npv, f1, mcc, auc.
        normal, injury: class counts.
        folds: also check means over this many stratified folds, or over folds with these (normal, injury) counts.
        rounding: "nearest" (half a unit of the last place) or "any" (a whole unit: rounded, truncated or rounded up).

    Returns:
        One `Verdict` for the single matrix and, with `folds`, one for the mean over folds.

    Raises:
        InputError: a metric, value or count cannot be used.

    Example:
        >>> check_row({"accuracy": "70%", "sensitivity": "0.75", "specificity": "0.67"}, 6, 4)[0].matrices
        ((4, 2, 1, 3),)
    """
    unknown = [name for name in reported if name not in METRICS]
    if unknown or not reported:
        raise InputError(f"Give values of {', '.join(METRICS)}; got {', '.join(unknown) or 'none'}.")
    if normal < 0 or injury < 0 or normal + injury == 0:
        raise InputError(f"Class counts must not be negative or both 0, got {normal} normal and {injury} injured.")
    if rounding not in ("nearest", "any"):
        raise InputError(f"rounding must be 'nearest' or 'any', not {rounding!r}.")
    figures = {name: f if isinstance(f, Reported) else Reported.parse(str(f)) for name, f in reported.items()}
    matrices, values = matrices_of(normal, injury)

    def single(some: Mapping[str, Reported]) -> bool:
        return len(matching_matrices(values, some, rounding)) > 0

    hits = matching_matrices(values, figures, rounding)
    nearest = None
    if not len(hits):
        exact = {name: figure for name, figure in figures.items() if name != "auc"}
        if exact:
            gap = np.max([np.abs(values[name] - f.value) for name, f in exact.items()], axis=0)
            best = int(np.argmin(gap))
            cells = dict(zip(("tn", "fp", "fn", "tp"), matrices[best].tolist(), strict=True))
            nearest = {**cells, **{name: float(values[name][best]) for name in exact}}
    shown = tuple(tuple(int(cell) for cell in matrices[hit]) for hit in hits[:5])
    verdicts = [_verdict("one matrix", len(hits) > 0, single, figures, shown, nearest)]
    if folds is not None:
        each = stratified_folds(normal, injury, folds) if isinstance(folds, int) else [tuple(f) for f in folds]
        totals = [sum(counts) for counts in zip(*each, strict=True)]
        if totals != [normal, injury]:
            raise InputError(f"The class counts of the folds add up to {totals}, not to {[normal, injury]}.")
        found = matching_fold_matrices(each, figures, rounding)

        def averaged(some: Mapping[str, Reported]) -> bool:
            return matching_fold_matrices(each, some, rounding) is not None

        reading = f"mean over {len(each)} folds"
        verdicts.append(_verdict(reading, found is not None, averaged, figures, tuple(found or ()), None))
    return verdicts


def _verdict(
    reading: str,
    reachable: bool,
    test: Callable[[Mapping[str, Reported]], bool],
    figures: Mapping[str, Reported],
    matrices: tuple[tuple[int, int, int, int], ...],
    nearest: Mapping[str, float] | None,
) -> Verdict:
    if reachable:
        return Verdict(reading, True, (), matrices, None, ())
    others = ()
    if "f1" in figures:
        rest = {name: figure for name, figure in figures.items() if name != "f1"}
        others = tuple(name for name in OTHER_F1 if test({**rest, name: figures["f1"]}))
    return Verdict(reading, False, _disjoint_conflicts(figures, test), (), nearest, others)


def sizes_reaching(figure: str, largest: int = 128, rounding: str = "nearest") -> list[int]:
    """Numbers of scans n <= largest for which some k / n prints as this value (an accuracy, a sensitivity, ...)."""
    reported = Reported.parse(figure)
    reach = reported.half_unit * (2 if rounding == "any" else 1) + SLACK
    return [n for n in range(1, largest + 1) if abs(round(reported.value * n) / n - reported.value) <= reach]


def describe(name: str, counts: str, verdicts: Sequence[Verdict]) -> str:
    """The verdicts on one row, as lines of text."""
    lines = [f"{name} ({counts})"]
    for verdict in verdicts:
        if verdict.reachable:
            first = ", ".join(f"tn {tn} fp {fp} fn {fn} tp {tp}" for tn, fp, fn, tp in verdict.matrices[:1])
            lines.append(
                f"  {verdict.reading}: reachable, e.g. {first}" + (" ..." if len(verdict.matrices) > 1 else "")
            )
            continue
        conflicts = "; ".join(" + ".join(conflict) for conflict in verdict.conflicts)
        lines.append(f"  {verdict.reading}: NOT reachable; impossible: {conflicts}")
        if verdict.nearest:
            cells = {"tn", "fp", "fn", "tp"}
            matrix = " ".join(f"{cell} {verdict.nearest[cell]}" for cell in ("tn", "fp", "fn", "tp"))
            figures = ", ".join(f"{k} {v:.4f}" for k, v in verdict.nearest.items() if k not in cells)
            lines.append(f"    nearest matrix: {matrix}: {figures}")
        if verdict.other_f1:
            lines.append(f"    reachable if F1 is {' or '.join(n.removeprefix('f1_') for n in verdict.other_f1)} F1")
    return "\n".join(lines)


def print_table(path: Path, folds: int | None, rounding: str) -> None:
    """Check every row of a table file; `folds` applies to rows that give none."""
    for row in read_table(path, ("name", "normal", "injury"), as_text=True).to_dict("records"):
        figures = {metric: row[metric] for metric in METRICS if row.get(metric, "").strip()}
        row_folds = int(row["folds"]) if row.get("folds", "").strip() else folds
        normal, injury = int(row["normal"]), int(row["injury"])
        verdicts = check_row(figures, normal, injury, row_folds, rounding)
        print(describe(row["name"], f"{normal} normal, {injury} injured", verdicts), flush=True)


def print_table_2(rounding: str) -> None:
    """Check every row of the paper's Table 2, with 74 normal and 54 injured scans."""
    normal, injury, folds = COHORT["normal"], COHORT["injury"], COHORT["folds"]
    print(f"Table 2 of arXiv 2606.02498: {COHORT_NOTE}.\n")
    for name, row in TABLE_2_MEANS.items():
        verdicts = check_row(dict(zip(TABLE_2_COLUMNS, row, strict=True)), normal, injury, folds, rounding)
        print(describe(name, f"{normal} normal, {injury} injured", verdicts), flush=True)
    for name, row in TABLE_2_BEST_FOLD.items():
        for fold_normal, fold_injury in sorted(set(stratified_folds(normal, injury, folds))):
            verdicts = check_row(
                dict(zip(TABLE_2_COLUMNS, row, strict=True)), fold_normal, fold_injury, rounding=rounding
            )
            print(describe(name, f"a fold of {fold_normal} normal, {fold_injury} injured", verdicts))
        sizes = ", ".join(map(str, sizes_reaching(row[0], 64, rounding)))
        print(f"  an accuracy of {row[0]} needs {sizes} scans (searched to 64)")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module docstring."""
    options = parse_arguments(argv)
    reported = {metric: getattr(options, metric) for metric in METRICS if getattr(options, metric) is not None}

    def check() -> None:
        if options.table:
            print_table(options.table, options.folds, options.rounding)
        elif reported:
            verdicts = check_row(reported, options.normal, options.injury, options.folds, options.rounding)
            print(describe("the row", f"{options.normal} normal, {options.injury} injured", verdicts))
        else:
            print_table_2(options.rounding)

    return run_program(PROGRAM, check, failed=(ValueError, OSError), interrupted="interrupted")


if __name__ == "__main__":
    sys.exit(main())

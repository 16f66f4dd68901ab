"""Test whether several runs together are better than chance. Runs on permuted labels must not be.

    python -m evaluation.chance runs/null-seed-*        prints observed means, null intervals and verdicts

Two kinds of results are averaged over the runs: unbiased ones (the epoch was not chosen on the scored scans) and the
optimistic accuracy of the best epoch on the scored scans. Both are compared with one null distribution: the unbiased
predictions stay fixed while labels are permuted over families.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m evaluation.chance")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from machine.programs import FAILED, end_if_missing

from .resampling import PERMUTATIONS

PROGRAM = "python -m evaluation.chance"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    parser.add_argument("--permutations", type=int, default=PERMUTATIONS, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the permutations, default %(default)s")
    options = parser.parse_args(argv)
    if options.permutations < 20 or options.seed < 0:
        parser.error("--permutations must be at least 20 and --seed at least 0.")
    return options


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    end_if_missing(PROGRAM, parse_arguments().runs, FAILED)

import numpy as np
import pandas as pd

from machine.programs import run_program
from run_folder.files import InputError

from .findings import NULL_STATISTICS, null_statistics
from .optimism import audit_optimism
from .study import KEYS, Study, read_run
from .uncertainty import fixed_prediction_null, permutation_p_value

BEST_EPOCH = "best_epoch_mean_accuracy"


def chance_over_runs(
    studies: Sequence[Study], permutations: int = PERMUTATIONS, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """AUC and accuracy averaged over runs, compared with their permutation null.

    Runs on the same scans share each permutation, because their errors are correlated. Runs on different cohorts are
    permuted independently.

    Returns:
        One row per statistic: ``statistic, observed, null_mean, low, high`` (interval of the null at ``level``),
        ``p_value`` (one-sided, `permutation_p_value`) and ``inside``: whether ``observed`` is within the interval. The
        statistics are `NULL_STATISTICS` and ``best_epoch_mean_accuracy``, which uses the null of ``mean_accuracy``.

    Raises:
        InputError: no run is given, a run has no histories, or a statistic is undefined in a run.
    """
    if not studies:
        raise InputError("There is no run to compare with chance; give at least one run folder.")
    cohorts: dict[frozenset[tuple[str, str]], int] = {}
    observed: dict[str, list[float]] = {name: [] for name in (*NULL_STATISTICS, BEST_EPOCH)}
    nulls: dict[str, list[np.ndarray]] = {name: [] for name in NULL_STATISTICS}
    for study in studies:
        # the same order of scans in every run, so that one seed gives the same permutations
        table = study.table.sort_values(KEYS, kind="stable")
        own_seed = seed + cohorts.setdefault(frozenset(map(tuple, table[KEYS].to_numpy())), len(cohorts))
        columns = (table["label"], table["p_injury"], table["family"], table["fold"])
        null = fixed_prediction_null(*columns, permutations=permutations, seed=own_seed)
        values = null_statistics(table)
        for name in NULL_STATISTICS:
            if not np.isfinite(values[name]):
                statistic = name.replace("_", " ")
                raise InputError(f"{study.name}: {statistic} is undefined because its scans are all of one class.")
            observed[name].append(values[name])
            nulls[name].append(null[name])
        audit = audit_optimism(study.histories, study.fold_metrics).summary.set_index("metric")
        observed[BEST_EPOCH].append(float(audit.loc["accuracy", "best"]))
    rows = []
    for name, of_runs in observed.items():
        null = np.mean(nulls["mean_accuracy" if name == BEST_EPOCH else name], axis=0)
        low, high = np.nanquantile(null, [(1 - level) / 2, (1 + level) / 2])
        mean = float(np.mean(of_runs))
        p_value = permutation_p_value(mean, null)
        rows.append((name, mean, float(np.nanmean(null)), float(low), float(high), p_value, bool(low <= mean <= high)))
    header = ["statistic", "observed", "null_mean", "low", "high", "p_value", "inside"]
    return pd.DataFrame(rows, columns=header)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see the module docstring."""
    options = parse_arguments(argv)

    def job() -> None:
        studies = [read_run(run) for run in options.runs]
        table = chance_over_runs(studies, options.permutations, options.seed)
        print(f"Means over {len(studies)} run(s); null: {options.permutations} permutations of labels over families.")
        answers = table.assign(inside=table["inside"].map({True: "yes", False: "NO"}))
        print(answers.to_string(index=False, float_format="%.3f"))

    return run_program(PROGRAM, job, failed=(InputError, OSError), interrupted="interrupted")


if __name__ == "__main__":
    sys.exit(main())

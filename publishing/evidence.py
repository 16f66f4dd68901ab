"""The figures of a finished cross-validation that go on a model card. None of them describes a single infant."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pandas as pd

from evaluation.calibration import Calibration, calibration
from evaluation.metrics import best_fold, cross_validation_metrics
from evaluation.records import read_history
from evaluation.study import Study, read_run
from evaluation.subgroups import SUBGROUPS, Part, evaluate_parts
from evaluation.table_one import table_one
from evaluation.uncertainty import Interval, bootstrap_metrics
from run_folder.layout import RunFolder

FEWEST = 5  # smaller counts of people in a real cohort are not published


@dataclass(frozen=True)
class Evidence:
    """The figures of all folds of a run.

    Attributes:
        synthetic: whether the cohort is a phantom cohort.
        selection: how each fold's epoch was chosen: last, inner or paper.
        folds: the `screening_metrics` of each fold, with `fold`.
        intervals: fold (or "pooled") -> metric -> `Interval`, from a bootstrap over families.
        counts: fold (or "pooled") -> (scans, scans with injury).
        mean_sd, pooled: as in `cv_metrics.json`.
        unbiased_auc: fold -> AUC of weights that were not chosen on the scored scans, or None if undefined.
        best, best_reason: the fold with the highest unbiased AUC, and the reason in words.
        calibration: of the pooled out-of-fold probabilities; None if the cohort has only one class.
        subgroups: parts of the cohort, without the small ones if the cohort is real.
        table_one: (variable, normal, injury) as printed, with small counts hidden if the cohort is real.
        flow: number of scans found, excluded (by reason), and used.
        core_hours, hours: training time of all folds; None if a history lacks it.
        hardware: CPU cores and GPUs.
    """

    synthetic: bool
    selection: str
    folds: list[dict]
    intervals: dict[int | str, dict[str, Interval]]
    counts: dict[int | str, tuple[int, int]]
    mean_sd: dict
    pooled: dict
    unbiased_auc: dict[int, float | None]
    best: int
    best_reason: str
    calibration: Calibration | None
    subgroups: list[Part]
    table_one: list[tuple[str, str, str]]
    flow: dict[str, int]
    core_hours: float | None
    hours: float | None
    hardware: str


def gather_evidence(run_folder: str | os.PathLike[str]) -> Evidence:
    """Read a run whose folds are all done, and compute the figures for its model cards.

    Raises:
        InputError: the run is incomplete or damaged; the message names what is missing.
    """
    run = RunFolder(run_folder)
    study = read_run(run.path)
    table, synthetic = study.table, study.phantom is not None
    parts = {int(fold): rows for fold, rows in table.groupby("fold")} | {"pooled": table}
    cross_validation = cross_validation_metrics(table)
    unbiased, best, reason = _best(study, cross_validation["folds"])
    args = (table["label"], table["p_injury"], table["family"])
    both = table["label"].nunique() == 2
    subgroups = evaluate_parts(table, SUBGROUPS)[1:]  # the first is the whole cohort
    hours, core_hours, hardware = _cost(run, study)
    return Evidence(
        synthetic=synthetic,
        selection=study.selection,
        folds=cross_validation["folds"],
        intervals={
            name: bootstrap_metrics(rows["label"], rows["p_injury"], rows["family"]) for name, rows in parts.items()
        },
        counts={name: (len(rows), int(rows["label"].sum())) for name, rows in parts.items()},
        mean_sd=cross_validation["mean_sd"],
        pooled=cross_validation["pooled"],
        unbiased_auc=unbiased,
        best=best,
        best_reason=reason,
        calibration=calibration(*args) if both else None,
        subgroups=subgroups if synthetic else [p for p in subgroups if FEWEST <= p.n_injury <= p.n - FEWEST],
        table_one=_table_one(table, hide_small=not synthetic),
        flow=study.flow,
        core_hours=core_hours,
        hours=hours,
        hardware=hardware,
    )


def _best(study: Study, folds: list[dict]) -> tuple[dict[int, float | None], int, str]:
    """The unbiased AUC of each fold, the fold with the highest, and the reason in words.

    With `--selection paper` the epoch was chosen on the scored scans, so the AUC of the last epoch is used instead.
    """
    if study.selection != "paper":
        return {fold["fold"]: fold["auc"] for fold in folds}, *best_fold(folds)
    at_last_epoch = []
    for fold in folds:
        last = study.histories[fold["fold"]].iloc[-1]
        values = {name: last.get(f"val_{name}") for name in ("auc", "accuracy")}
        at_last_epoch.append({"fold": fold["fold"]} | {k: None if pd.isna(v) else float(v) for k, v in values.items()})
    best, reason = best_fold(at_last_epoch)
    return {fold["fold"]: fold["auc"] for fold in at_last_epoch}, best, f"at the last epoch, {reason}"


def _table_one(scans: pd.DataFrame, hide_small: bool) -> list[tuple[str, str, str]]:
    """Table 1 without significance tests.

    Hidden on request: a count of 1 to 4, a count that leaves 1 to 4 of its group, and a mean over fewer than 5 scans.
    """
    rows = []
    for row in table_one(scans).to_dict("records"):
        cells = []
        for group in ("normal", "injury"):
            text, known = row[group], row[f"n_{group}"]
            if hide_small and "%" in text:
                count = int(text.split()[0])
                if 0 < count < FEWEST or 0 < known - count < FEWEST:
                    text = f"not shown (a count below {FEWEST})"
            elif hide_small and known < FEWEST:
                text = f"not shown (fewer than {FEWEST} scans)"
            cells.append(text)
        rows.append((row["variable"], *cells))
    return rows


def _cost(run: RunFolder, study: Study) -> tuple[float | None, float | None, str]:
    """Hours and core-hours of the epochs of all folds and of the refit if there is one, and the hardware."""
    histories = list(study.histories.values())
    if run.refit.history.is_file():
        histories.append(read_history(run.refit))
    cores, gpus = study.environment.get("cores"), study.environment.get("gpus") or []
    hardware = f"{cores} CPU cores" + (f" and {', '.join(gpus)}" if gpus else "")
    if not all("seconds" in history for history in histories):
        return None, None, hardware
    hours = sum(float(history["seconds"].sum()) for history in histories) / 3600
    threads = (study.recipe.get("num_threads") or 1) * study.environment.get("num_processes", 1)
    return hours, hours * threads, hardware

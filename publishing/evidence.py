"""What a finished cross-validation says of its models, in figures none of which is about one infant."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from evaluation.calibration import Calibration, calibration
from evaluation.metrics import best_fold, cross_validation_metrics
from evaluation.study import Study, read_run
from evaluation.subgroups import SUBGROUPS, Part, evaluate_parts
from evaluation.table_one import table_one
from evaluation.uncertainty import Interval, bootstrap_metrics
from run_folder.tables import read_table

FEWEST = 5  # a count of people below this is not printed of a real cohort


@dataclass(frozen=True)
class Evidence:
    """The figures of all folds of a run.

    Attributes:
        synthetic: whether the cohort is a phantom one.
        selection: how each fold's epoch was chosen: last, inner or paper.
        folds: one `screening_metrics` a fold, with `fold`.
        intervals: fold (or "pooled") -> metric -> `Interval`, by family bootstrap.
        counts: fold (or "pooled") -> (scans, injured).
        mean_sd, pooled: as in `cv_metrics.json`.
        honest_auc: fold -> AUC of weights that were not chosen on the scans it is measured on, or None.
        best, best_reason: the fold to publish, by that AUC, and why.
        calibration: of the pooled out-of-fold probabilities; None of a single class.
        subgroups: parts of the cohort, the small ones of a real cohort left out.
        table_one: (variable, normal, injury) as printed, small counts of a real cohort hidden.
        flow: scans found, excluded by reason, and used.
        core_hours, hours: of the folds' epochs; None where the history does not say.
        hardware: cores and graphics cards.
    """

    synthetic: bool
    selection: str
    folds: list[dict]
    intervals: dict[int | str, dict[str, Interval]]
    counts: dict[int | str, tuple[int, int]]
    mean_sd: dict
    pooled: dict
    honest_auc: dict[int, float | None]
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
    """Read a run all of whose folds are done, and compute what its models' cards say of it.

    Raises:
        InputError: the run is partial or broken; the message names what is missing.
    """
    run = Path(run_folder)
    study = read_run(run)
    table, synthetic = study.table, study.phantom is not None
    parts = {int(fold): rows for fold, rows in table.groupby("fold")} | {"pooled": table}
    cross_validation = cross_validation_metrics(table)
    honest, best, reason = _best(study, cross_validation["folds"])
    args = (table["label"], table["p_injury"], table["family"])
    both = table["label"].nunique() == 2
    subgroups = evaluate_parts(table, SUBGROUPS)[1:]  # the first is the whole
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
        honest_auc=honest,
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
    """AUC of each fold that its weights' choice had no part in, the fold with the highest, and why.

    Under `--selection paper` the epoch was chosen on the scored scans, so the AUC that counts is the last epoch's.
    """
    if study.selection != "paper":
        return {fold["fold"]: fold["auc"] for fold in folds}, *best_fold(folds)
    honest = []
    for fold in folds:
        last = study.histories[fold["fold"]].iloc[-1]
        values = {name: last.get(f"val_{name}") for name in ("auc", "accuracy")}
        honest.append({"fold": fold["fold"]} | {k: None if pd.isna(v) else float(v) for k, v in values.items()})
    best, reason = best_fold(honest)
    return {fold["fold"]: fold["auc"] for fold in honest}, best, f"at the last epoch, {reason}"


def _table_one(scans: pd.DataFrame, hide_small: bool) -> list[tuple[str, str, str]]:
    """Table 1 without tests. Hidden: counts, or what they leave of the group, from 1 to 4; means of fewer than 5."""
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


def _cost(run: Path, study: Study) -> tuple[float | None, float | None, str]:
    """Hours and core-hours that the epochs of all folds (and of a refit) took, and what they ran on."""
    histories = list(study.histories.values())
    if (refit := run / "refit" / "history.csv").is_file():
        histories.append(read_table(refit))
    cores, gpus = study.environment.get("cores"), study.environment.get("gpus") or []
    hardware = f"{cores} CPU cores" + (f" and {', '.join(gpus)}" if gpus else "")
    if not all("seconds" in history for history in histories):
        return None, None, hardware
    hours = sum(float(history["seconds"].sum()) for history in histories) / 3600
    threads = (study.recipe.get("num_threads") or 1) * study.environment.get("num_processes", 1)
    return hours, hours * threads, hardware

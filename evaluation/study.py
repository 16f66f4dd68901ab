"""A study: predictions of a run, or of a model on other scans, joined with everything known about the scans."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohort.modalities import channel_counts
from cohort.painted import is_painted
from cohort.phantom import phantom_description
from cohort.scans import CohortError, Scan, flow, read_cohort
from run_folder.files import InputError, read_json
from run_folder.layout import RunFolder
from run_folder.predictions import read_predictions, scan_name
from run_folder.provenance import caution, read_provenance

from .records import read_environment, read_history, read_metrics, read_recipe
from .thresholds import threshold_text

KEYS = ["participant_id", "session_id"]
COVARIATES = ["image", "segmentation", "sex", "birth_age", "birth_weight", "singleton", "scan_age", "site"]
DOUBTED = "used with warnings"  # entry of the flow of an external study: the used scans that predict.py doubts
HISTORY_COLUMNS = ("epoch", "val_accuracy")


@dataclass(frozen=True)
class Study:
    """Out-of-sample predictions, ready for evaluation.

    Attributes:
        name: of the run folder or of the predictions file.
        table: one row per scored scan: the columns of ``predictions.csv`` and `COVARIATES` ("" or NaN if unknown).
        cohort: name of the cohort's folder.
        phantom: preset of the phantom cohort, "unknown" if only the models say that it is one; None for real scans.
        flow: number of scans found, excluded (by reason) and used.
        exclusions: ``participant_id, session_id, status, reason`` of the excluded scans.
        selection: how epochs were chosen: "last", "inner", "paper" (optimistic), or "unknown" (external only).
        thresholds: name -> (n,) threshold of each scan, fixed without its fold.
        threshold_notes: name -> explanation of the threshold, with its values.
        splits, recipe, environment: as recorded by training; empty for an external study.
        histories: fold -> ``history.csv``.
        fold_metrics: fold -> ``metrics.json``.
        external: whether the scans are from outside the run that trained the model.
        painted: whether a program painted the injuries into normal scans.
        caution: the sentence that belongs to every answer of a model from elsewhere, or of a federation, that was
            trained on phantoms or painted injuries; else "".
        subsets: for a run with several modalities, its answers to every subset of them; see `read_subsets`.
    """

    name: str
    table: pd.DataFrame
    cohort: str
    phantom: str | None
    flow: dict[str, int]
    exclusions: pd.DataFrame
    selection: str
    thresholds: dict[str, np.ndarray]
    threshold_notes: dict[str, str]
    splits: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    histories: dict[int, pd.DataFrame] = field(default_factory=dict)
    fold_metrics: dict[int, dict[str, Any]] = field(default_factory=dict)
    external: bool = False
    painted: bool = False
    caution: str = ""
    subsets: pd.DataFrame | None = None

    @property
    def left_out(self) -> dict[int, str]:
        """Fold -> the site that it leaves out (`--split site`); empty for other splits."""
        return _left_out(self.splits)

    @property
    def folds(self) -> list[int]:
        """The fold numbers, in order."""
        return sorted(int(fold) for fold in self.table["fold"].unique())


def read_run(run_folder: str | os.PathLike[str]) -> Study:
    """Read the folder of a finished run and check that its files agree.

    Raises:
        InputError: a file is missing or damaged, or two files contradict each other; the message names them.
    """
    run = RunFolder(run_folder)
    predictions = read_predictions(run.path)
    splits = read_json(run.splits)
    scans = _read_scans(run.cohort)
    table = _join(predictions, scans, run)
    _check_splits(table, splits, run)
    environment = read_environment(run)
    folds = {int(k): run.fold(k) for k in sorted(predictions["fold"].unique())}
    fold_metrics = {k: read_metrics(fold, complete=False) for k, fold in folds.items()}
    selections = sorted({metrics["selection"] for metrics in fold_metrics.values()})
    if len(selections) > 1:
        raise InputError(f"{run}: the folds chose their epochs by different rules ({', '.join(selections)}).")
    thresholds, notes = _inner_thresholds(table, fold_metrics)
    source = environment.get("source", {}).get("data_dir") or ""
    folders = [source, *_folders_above(table)]
    models = [read_provenance(fold.config) for fold in folds.values()]
    # of a federation, any site may have had the phantoms
    alone, joint = ([model for model in models if ("federation" in model) == federated] for federated in (False, True))
    return Study(
        name=run.name,
        table=table,
        cohort=Path(source).name or "cohort",
        phantom=phantom_preset(folders) or ("unknown" if any(model.get("synthetic") for model in alone) else None),
        painted=painted_cohort(folders) or any(model.get("painted") for model in alone),
        flow=flow(scans),
        exclusions=_exclusions(scans),
        selection=selections[0],
        thresholds=thresholds,
        threshold_notes=notes,
        splits=splits,
        recipe=read_recipe(run),
        environment=environment,
        histories={k: read_history(fold, HISTORY_COLUMNS) for k, fold in folds.items()},
        fold_metrics=fold_metrics,
        caution=next(filter(None, map(caution, joint)), ""),
    )


def _read_scans(path: Path) -> list[Scan]:
    if not path.is_file():
        raise InputError(f"{path} is missing; train.py writes it when a run starts.")
    try:
        return read_cohort(path)
    except CohortError as error:
        raise InputError(str(error)) from error


def scan_table(scans: list[Scan]) -> pd.DataFrame:
    """Identifiers, labels and covariates of the scans, one row per scan; `has_T1w` and so on if there are channels."""
    columns = [*KEYS, "family", "label", "radiology_score", *COVARIATES]
    table = pd.DataFrame([[getattr(scan, column) for column in columns] for scan in scans], columns=columns)
    table[["image", "segmentation"]] = table[["image", "segmentation"]].fillna("")
    for modality in channel_counts(scan.channels for scan in scans):
        has = [any(channel.modality == modality for channel in scan.channels) for scan in scans]
        table[f"has_{modality}"] = np.where(has, "yes", "no")
    return table.astype({"birth_age": float, "birth_weight": float, "scan_age": float})


def _join(predictions: pd.DataFrame, scans: list[Scan], run: RunFolder) -> pd.DataFrame:
    used = scan_table([scan for scan in scans if scan.status == "used"])
    known = [*COVARIATES, *(column for column in used.columns if column.startswith("has_"))]
    table = predictions.merge(used[[*KEYS, "label", *known]], on=KEYS, how="left", suffixes=("", "_cohort"))
    unknown = table["label_cohort"].isna()
    if unknown.any():
        name = scan_name(table[unknown].iloc[0])
        raise InputError(f"{run}: {name} was predicted but {run.cohort.name} does not list it as used.")
    other = table["label_cohort"] != table["label"]
    if other.any():
        raise InputError(
            f"{run}: {scan_name(table[other].iloc[0])} has another label in {run.cohort.name} than in its predictions."
        )
    predicted = set(map(tuple, predictions[KEYS].to_numpy()))
    left = [row for row in used.to_dict("records") if (row["participant_id"], row["session_id"]) not in predicted]
    if left:
        raise InputError(
            f"{run}: {len(left)} scan(s) of {run.cohort.name} were never predicted, e.g. {scan_name(left[0])}."
        )
    return table.drop(columns="label_cohort")


def _check_splits(table: pd.DataFrame, splits: dict[str, Any], run: RunFolder) -> None:
    participants = splits.get("participants")
    if not isinstance(participants, dict):
        raise InputError(f"{run.splits} does not list the participants' folds; the run folder is damaged.")
    for row in table.to_dict("records"):
        entry = participants.get(row["participant_id"])
        fold = entry.get("fold") if isinstance(entry, dict) else None
        if fold != row["fold"]:
            place = "in no fold" if fold is None else f"in fold {fold}"
            raise InputError(
                f"{run}: sub-{row['participant_id']} was predicted in fold {row['fold']}, "
                f"but {run.splits.name} has it {place}."
            )
        left_out = _left_out(splits).get(fold, "no site")
        if splits.get("rule") == "site" and left_out != row["site"]:
            raise InputError(
                f"{run}: {scan_name(row)} is of the site {row['site'] or '(none)'} in {run.cohort.name}, but was "
                f"predicted in fold {fold}, which leaves out {left_out} in {run.splits.name}."
            )


def _left_out(splits: dict[str, Any]) -> dict[int, str]:
    sites = splits.get("sites") if splits.get("rule") == "site" else None
    return dict(enumerate(map(str, sites))) if isinstance(sites, list) else {}


def _inner_thresholds(
    table: pd.DataFrame, fold_metrics: dict[int, dict[str, Any]]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    thresholds = {"0.5": np.full(len(table), 0.5)}
    notes = {"0.5": "fixed in advance"}
    titles = {
        "threshold_youden": ("Youden", "highest sensitivity + specificity on the inner scans"),
        "threshold_sensitivity_90": (
            "Sensitivity 0.90",
            "highest threshold with sensitivity of at least 0.90 on the inner scans",
        ),
    }
    for key, (title, meaning) in titles.items():
        values: dict[int, Any] = {fold: (metrics.get("inner") or {}).get(key) for fold, metrics in fold_metrics.items()}
        if all(isinstance(value, int | float) for value in values.values()):
            thresholds[title] = table["fold"].map(values).to_numpy(float)
            notes[title] = f"{meaning}; by fold " + ", ".join(threshold_text(values[fold]) for fold in sorted(values))
    return thresholds, notes


def _exclusions(scans: list[Scan]) -> pd.DataFrame:
    columns = [*KEYS, "status", "reason"]
    rows = [[getattr(scan, column) for column in columns] for scan in scans if scan.status != "used"]
    return pd.DataFrame(rows, columns=columns)


def _folders_above(table: pd.DataFrame) -> list[str]:
    """Folders above the first image that may be the cohort: it is three or four levels above sub-X/ses-Y/anat/IMAGE."""
    images = [path for path in table["image"] if path]
    return [str(folder) for folder in Path(images[0]).parents[1:5]] if images else []


def painted_cohort(folders: list[str]) -> bool:
    """Whether one of the folders is a painted cohort."""
    return any(is_painted(folder) for folder in filter(None, folders))


def phantom_preset(folders: list[str]) -> str | None:
    """Preset of the phantom cohort, if one of the folders is one; else None."""
    for folder in filter(None, folders):
        description = phantom_description(folder)
        if description is not None:
            return str(description.get("preset", "unknown"))
    return None

"""The values of a run in a table: means over folds, pooled values with intervals, and agreement with the paper."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from cohort.cache import standardised_volumes
from cohort.folds import fold_scans, read_splits
from cohort.scans import Scan, read_cohort
from evaluation.metrics import cross_validation_metrics
from evaluation.published import number
from evaluation.records import read_history, read_recipe
from evaluation.uncertainty import DEFAULT_RESAMPLING, Resampling, bootstrap_metrics
from preprocessing import GloResNetImageProcessor
from run_folder.files import InputError, write_text
from run_folder.layout import RunFolder
from run_folder.predictions import read_predictions
from run_folder.tables import csv_text, read_table
from screening.loading import load_model

CHANCE_LOSS = math.log(2)  # of a network that always predicts 0.5; the class weights average to 1
CONVERGED = (
    "Epochs to converge: the first epoch from which the training loss stays within a tenth of its total decrease above "
    f"its last value. The decrease starts at ln 2 = {CHANCE_LOSS:.3f}, the loss of a network that has learnt nothing. "
    "A run that ends above 0.9 ln 2 did not converge. The paper does not state its rule."
)


@dataclass(frozen=True)
class Value:
    """One value of a table.

    Attributes:
        mean, sd: over folds.
        pooled, low, high: over all out-of-fold predictions, with the 95 % interval over families.
        words: a text shown instead of the numbers, or after them.
    """

    mean: float | None = None
    sd: float | None = None
    pooled: float | None = None
    low: float | None = None
    high: float | None = None
    words: str = ""

    def agrees(self, printed: str) -> str:
        """`yes` if the paper's value is inside our interval, `no` if it is outside, `-` if it cannot be compared."""
        value = number(printed)
        if self.words and self.words == printed:
            return "yes"
        if value is None or self.low is None or self.high is None or self.low == self.high:
            return "-"  # a bootstrap interval has zero width at a bound (0 or 1), and then says nothing
        return "yes" if self.low <= value <= self.high else "no"


def screening_values(
    predictions: pd.DataFrame, tta: bool, resampling: Resampling = DEFAULT_RESAMPLING
) -> dict[str, Value]:
    """Every metric of a run's out-of-fold predictions at threshold 0.5, by name.

    `peak_NAME` is the highest value of any fold, `best_NAME` the value of the fold with the highest AUC.
    """
    table = predictions if tta else predictions.assign(p_injury=predictions["p_injury_no_tta"])
    metrics = cross_validation_metrics(table)
    intervals = bootstrap_metrics(table["label"], table["p_injury"], table["family"], resampling=resampling)
    values = {}
    for name, over in metrics["mean_sd"].items():
        found = intervals[name]
        some = 0 < over["n_defined"] < over["n_folds"]
        words = f"{over['n_defined']} of {over['n_folds']} folds" if some else ""
        values[name] = Value(over["mean"], over["sd"], found.estimate, found.low, found.high, words)
        folds = [fold[name] for fold in metrics["folds"] if fold[name] is not None]
        values[f"peak_{name}"] = Value(mean=max(folds, default=None))
        values[f"best_{name}"] = Value(
            mean=next(f for f in metrics["folds"] if f["fold"] == metrics["best_fold"])[name]
        )
    return values


def train_accuracy(run: RunFolder) -> Value:
    """Accuracy of each fold's model on its training scans, without augmentation and without the mirrored view.

    The predictions are saved in `train_predictions.csv` of the run and reused. Those of networks with a local stream
    are of the global stream alone, and the value says so.

    Raises:
        InputError: scans of the run can no longer be read.
    """
    if not run.train_predictions.is_file():
        write_text(run.train_predictions, csv_text(_predict_training_scans(run)))
    table = read_table(run.train_predictions, ("fold", "label", "p_injury_no_tta"))
    right = (table["p_injury_no_tta"] >= 0.5) == (table["label"] == 1)
    folds = right.groupby(table["fold"]).mean()
    words = "of the global stream alone" if read_recipe(run).get("local_stream") == "on" else ""
    return Value(float(folds.mean()), float(folds.std(ddof=1)), words=words)


def _predict_training_scans(run: RunFolder) -> pd.DataFrame:
    splits = read_splits(run.splits)
    rows = []
    for fold in sorted(read_predictions(run.path)["fold"].unique()):
        model, processor = load_model(str(run.fold(int(fold)).model))
        scans, volumes = run_volumes(run, processor)
        train, _ = fold_scans(splits, scans, int(fold))
        for scan, probability in zip(train, probabilities(model, volumes, scans, train), strict=True):
            rows.append((fold, scan.participant_id, scan.session_id, scan.label, probability))
    return pd.DataFrame(rows, columns=["fold", "participant_id", "session_id", "label", "p_injury_no_tta"])


def run_volumes(run: RunFolder, processor: GloResNetImageProcessor) -> tuple[list[Scan], Dataset]:
    """The scans that a run used, and a dataset of their standardised volumes with one row per scan.

    Raises:
        InputError: a scan can no longer be read.
    """
    used = [scan for scan in read_cohort(run.cohort) if scan.status == "used"]
    volumes, scans = standardised_volumes(used, processor)
    if lost := [scan.reason for scan in scans if scan.status != "used"]:
        raise InputError(f"{len(lost)} scans of {run} can no longer be read ({lost[0]}): restore the cohort.")
    return scans, volumes.with_format("torch", columns=["pixel_values"])


@torch.inference_mode()
def probabilities(
    model: torch.nn.Module, volumes: Dataset, scans: list[Scan], wanted: list[Scan], batch_size: int = 8
) -> np.ndarray:
    """Probability of injury of the wanted scans, (n,) float64, without the mirrored view."""
    row = {scan: number for number, scan in enumerate(scans)}
    found = []
    for first in range(0, len(wanted), batch_size):
        batch = torch.stack([volumes[row[scan]]["pixel_values"] for scan in wanted[first : first + batch_size]])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This model has a local stream", UserWarning)  # the value says so
            found.append(model.predict_proba(batch.to(model.device), test_time_augmentation=False)[:, 1].cpu())
    return torch.cat(found).double().numpy()


def epochs_to_converge(run: RunFolder) -> Value:
    """Epochs to converge, mean and SD over folds, by the rule in `CONVERGED`. Words say if folds did not converge."""
    epochs = []
    for fold in run.existing_folds():
        epochs.append(convergence(read_history(fold, ("epoch", "train_loss"))["train_loss"].to_numpy(float)))
    reached = [epoch for epoch in epochs if epoch is not None]
    if not reached:
        return Value(words="did not converge")
    sd = float(np.std(reached, ddof=1)) if len(reached) > 1 else None
    words = "" if len(reached) == len(epochs) else f"{len(epochs) - len(reached)} of {len(epochs)} folds did not"
    return Value(float(np.mean(reached)), sd, words=words)


def convergence(losses: np.ndarray) -> int | None:
    """The epoch (from 1) at which the training loss of a fold converged; None if it did not."""
    last = float(losses[-1])
    if last > 0.9 * CHANCE_LOSS:
        return None
    above = np.flatnonzero(losses > last + 0.1 * (CHANCE_LOSS - last))
    return int(above[-1]) + 2 if len(above) else 1

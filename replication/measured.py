"""What a table prints of a run: means over folds, pooled values with their intervals, and whether the paper agrees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cohort.cache import standardised_volumes
from cohort.folds import fold_scans, read_splits
from cohort.scans import Scan, read_cohort
from evaluation.metrics import cross_validation_metrics
from evaluation.published import number
from evaluation.uncertainty import DEFAULT_RESAMPLING, Resampling, bootstrap_metrics
from run_folder.files import InputError, write_text
from run_folder.predictions import read_predictions
from run_folder.tables import read_table
from screening.loading import load_model

CHANCE_LOSS = math.log(2)  # of a network that answers one half: the class weights average to 1
CONVERGED = (
    f"Epochs to converge: the first epoch from which the training loss stays within a tenth of its whole descent (from "
    f"ln 2 = {CHANCE_LOSS:.3f}, the loss of a network that knows nothing) above its last value; a run that ends above "
    "0.9 ln 2 did not converge. The paper does not state its rule."
)


@dataclass(frozen=True)
class Value:
    """One figure.

    Attributes:
        mean, sd: over folds.
        pooled, low, high: over all out-of-fold predictions, with the 95 % interval over families.
        words: instead of numbers.
    """

    mean: float | None = None
    sd: float | None = None
    pooled: float | None = None
    low: float | None = None
    high: float | None = None
    words: str = ""

    def agrees(self, printed: str) -> str:
        """`yes` if the paper's figure lies inside our interval, `no` if outside, `-` if there is nothing to compare."""
        value = number(printed)
        if self.words and self.words == printed:
            return "yes"
        if value is None or self.low is None or self.high is None or self.low == self.high:
            return "-"  # an interval of no width is the bootstrap's at a bound, and knows nothing
        return "yes" if self.low <= value <= self.high else "no"


def screening_values(
    predictions: pd.DataFrame, tta: bool, resampling: Resampling = DEFAULT_RESAMPLING
) -> dict[str, Value]:
    """Every metric of a run's out-of-fold predictions at threshold 0.5.

    Besides, `peak_*`, the highest of any fold, and `best_*`, those of the fold with the highest AUC.
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


def train_accuracy(run: Path) -> Value:
    """Accuracy of each fold's model on the scans it was trained on, as they are: no augmentation, no mirrored view.

    Kept in `train_predictions.csv` of the run.

    Raises:
        InputError: the cohort is not what it was.
    """
    path = run / "train_predictions.csv"
    if not path.is_file():
        write_text(path, _predict_training_scans(run).to_csv(index=False))
    table = read_table(path, ("fold", "label", "p_injury_no_tta"))
    right = (table["p_injury_no_tta"] >= 0.5) == (table["label"] == 1)
    folds = right.groupby(table["fold"]).mean()
    return Value(float(folds.mean()), float(folds.std(ddof=1)))


def _predict_training_scans(run: Path) -> pd.DataFrame:
    splits = read_splits(run / "splits.json")
    rows = []
    for fold in sorted(read_predictions(run)["fold"].unique()):
        model, processor = load_model(str(run / f"fold-{fold}" / "model"))
        scans, volumes = run_volumes(run, processor)
        train, _ = fold_scans(splits, scans, int(fold))
        for scan, probability in zip(train, probabilities(model, volumes, scans, train), strict=True):
            rows.append((fold, scan.participant_id, scan.session_id, scan.label, probability))
    return pd.DataFrame(rows, columns=["fold", "participant_id", "session_id", "label", "p_injury_no_tta"])


def run_volumes(run: Path, processor) -> tuple[list[Scan], object]:
    """The scans that a run used, and their standardised volumes as a dataset with a row each.

    Raises:
        InputError: scans have gone since.
    """
    used = [scan for scan in read_cohort(run / "cohort.csv") if scan.status == "used"]
    volumes, scans = standardised_volumes(used, processor)
    if lost := [scan.reason for scan in scans if scan.status != "used"]:
        raise InputError(f"{len(lost)} scans of {run} cannot be read any more ({lost[0]}): put the cohort back.")
    return scans, volumes.with_format("torch", columns=["pixel_values"])


@torch.inference_mode()
def probabilities(model, volumes, scans: list[Scan], wanted: list[Scan], batch_size: int = 8) -> np.ndarray:
    """Probability of injury of some scans, (n,), from the plain view alone."""
    row = {scan: number for number, scan in enumerate(scans)}
    found = []
    for first in range(0, len(wanted), batch_size):
        batch = torch.stack([volumes[row[scan]]["pixel_values"] for scan in wanted[first : first + batch_size]])
        found.append(model.predict_proba(batch.to(model.device), test_time_augmentation=False)[:, 1].cpu())
    return torch.cat(found).double().numpy()


def epochs_to_converge(run: Path) -> Value:
    """Mean and SD over the folds' histories, by the rule in `CONVERGED`; words if a fold did not."""
    epochs = []
    for path in sorted(run.glob("fold-[0-9]*/history.csv")):
        epochs.append(convergence(read_table(path, ("epoch", "train_loss"))["train_loss"].to_numpy(float)))
    reached = [epoch for epoch in epochs if epoch is not None]
    if not reached:
        return Value(words="did not converge")
    sd = float(np.std(reached, ddof=1)) if len(reached) > 1 else None
    words = "" if len(reached) == len(epochs) else f"{len(epochs) - len(reached)} of {len(epochs)} folds did not"
    return Value(float(np.mean(reached)), sd, words=words)


def convergence(losses: np.ndarray) -> int | None:
    """The epoch, from 1, at which a fold's training loss had converged; None if it never did."""
    last = float(losses[-1])
    if last > 0.9 * CHANCE_LOSS:
        return None
    above = np.flatnonzero(losses > last + 0.1 * (CHANCE_LOSS - last))
    return int(above[-1]) + 2 if len(above) else 1

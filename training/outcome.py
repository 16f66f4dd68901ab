"""What a fold comes to: its predictions as a table, an epoch's figures, and the line that is printed."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import nn

from cohort.scans import Scan
from evaluation.metrics import screening_metrics
from run_folder.files import read_json
from run_folder.layout import ModelFolder

from .loop import NonFiniteLossError, mean_log_loss
from .recipe import Recipe


def epoch_metrics(labels: list[int], probabilities: list[float]) -> dict:
    """What the optimism audit needs of the scored fold after an epoch; only `--selection paper` chooses by it.

    Empty where no scan is scored.
    """
    if not labels:
        return {}
    metrics = screening_metrics(labels, probabilities)
    names = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1", "mcc", "auc")
    return {"val_loss": mean_log_loss(labels, probabilities)} | {f"val_{name}": metrics[name] for name in names}


def prediction_table(
    rows: Mapping[Scan, int], scored: list[Scan], views: dict[int, np.ndarray], fold: int
) -> pd.DataFrame:
    """`predictions.csv`: a row a scored scan, its probability averaged over the views and of the plain one."""
    return pd.DataFrame(
        [
            {
                "participant_id": scan.participant_id,
                "session_id": scan.session_id,
                "family": scan.family,
                "fold": fold,
                "label": scan.label,
                "radiology_score": scan.radiology_score,
                "p_injury": views[rows[scan]].mean(),
                "p_injury_no_tta": views[rows[scan]][0],
            }
            for scan in scored
        ]
    )


def check_weights(network: nn.Module, recipe: Recipe) -> None:
    """Refuse to keep weights that are no longer numbers, which a network that scores no scan would not notice.

    Raises:
        NonFiniteLossError: naming the first such tensor.
    """
    for name, value in network.state_dict().items():
        if not torch.isfinite(value).all():
            raise NonFiniteLossError(
                f"Training diverged: {name} is no longer made of numbers; start anew with a --learning_rate below "
                f"{recipe.learning_rate:g}, in another --output_dir or with --overwrite."
            )


def summary(metrics: dict) -> str:
    """The figures of one line; what is undefined is called so."""
    names = {"n": "n", "auc": "AUC", "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity"}
    values = {label: metrics[name] for name, label in names.items()}
    return ", ".join(
        f"{label} {'undefined' if v is None else v if isinstance(v, int) else f'{v:.3f}'}"
        for label, v in values.items()
    )


def fold_summary(folder: ModelFolder) -> str:
    """The line that is printed for a finished fold."""
    metrics = read_json(folder.metrics)
    optimistic = " (optimistic: the epoch was chosen on these scans)" if metrics["selection"] == "paper" else ""
    return f"fold {metrics['fold']}: {summary(metrics)}{optimistic}; model in {folder.model}"

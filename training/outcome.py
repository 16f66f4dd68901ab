"""The results of a fold: figures per epoch, the table of predictions, and the line that is printed."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import nn

from cohort.scans import Scan
from evaluation.metrics import screening_metrics
from evaluation.records import read_metrics
from run_folder.layout import ModelFolder

from .local.answers import Answer, fused
from .loop import NonFiniteLossError, mean_log_loss
from .modalities import subset_name
from .recipe import Recipe


def epoch_metrics(labels: list[int], probabilities: list[float]) -> dict:
    """Return the figures of the held-out fold after an epoch; empty if no scan is held out.

    The report uses them to measure the optimism of choosing an epoch on the scored fold. Only `--selection paper`
    chooses the epoch by them.
    """
    if not labels:
        return {}
    metrics = screening_metrics(labels, probabilities)
    names = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1", "mcc", "auc")
    return {"val_loss": mean_log_loss(labels, probabilities)} | {f"val_{name}": metrics[name] for name in names}


def prediction_table(
    rows: Mapping[Scan, int],
    scored: list[Scan],
    views: dict[int, np.ndarray],
    fold: int,
    answers: Mapping[Scan, Answer] | None = None,
) -> pd.DataFrame:
    """Return the content of `predictions.csv`: one row per held-out scan.

    `p_injury` is averaged over the test-time views, `p_injury_no_tta` is that of the plain view. With a local stream,
    each view is fused with its `answers`, and `p_global`, `p_local` and `p_shares` are the voices alone.
    """
    records = []
    for scan in scored:
        own = p = views[rows[scan]]
        if answers is not None:
            p = fused(own, answers[scan])
        record = {
            "participant_id": scan.participant_id,
            "session_id": scan.session_id,
            "family": scan.family,
            "fold": fold,
            "label": scan.label,
            "radiology_score": scan.radiology_score,
            "p_injury": p.mean(),
            "p_injury_no_tta": p[0],
        }
        if answers is not None:
            record |= {"p_global": own.mean(), **answers[scan]._asdict()}
        records.append(record)
    return pd.DataFrame(records)


def subset_table(
    rows: Mapping[Scan, int],
    scored: list[Scan],
    shown: Mapping[tuple[str, ...], dict[int, np.ndarray]],
    fold: int,
) -> pd.DataFrame:
    """Return the content of `modality_subsets.csv`: a row per held-out scan and subset of the modalities, all last.

    `modalities` are those that the network was shown, as far as the scan has them; `present` are those of the scan.
    `p_injury` is averaged over the test-time views.
    """
    whole = list(shown)[-1]
    held = {scan: {"T2w", *(channel.modality for channel in scan.channels)} for scan in scored}
    return pd.DataFrame(
        [
            {
                "participant_id": scan.participant_id,
                "session_id": scan.session_id,
                "family": scan.family,
                "fold": fold,
                "label": scan.label,
                "modalities": subset_name(subset),
                "present": subset_name([modality for modality in whole if modality in held[scan]]),
                "p_injury": views[rows[scan]].mean(),
            }
            for subset, views in shown.items()
            for scan in scored
        ]
    )


def check_weights(network: nn.Module, recipe: Recipe) -> None:
    """Check that all weights are finite. The refit needs this, because it predicts no scan that would show it.

    Raises:
        NonFiniteLossError: a weight is NaN or infinite; the message names the first such tensor.
    """
    for name, value in network.state_dict().items():
        if not torch.isfinite(value).all():
            raise NonFiniteLossError(
                f"Training diverged: {name} is not finite; start a new run with a --learning_rate below "
                f"{recipe.learning_rate:g}, in another --output_dir or with --overwrite."
            )


def summary(metrics: dict) -> str:
    """Format the main figures in one line; an undefined figure is called undefined."""
    names = {"n": "n", "auc": "AUC", "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity"}
    values = {label: metrics[name] for name, label in names.items()}
    return ", ".join(
        f"{label} {'undefined' if v is None else v if isinstance(v, int) else f'{v:.3f}'}"
        for label, v in values.items()
    )


def fold_summary(folder: ModelFolder) -> str:
    """Return the line that is printed for a finished fold."""
    metrics = read_metrics(folder)
    optimistic = " (optimistic: the epoch was chosen on these scans)" if metrics["selection"] == "paper" else ""
    return f"fold {metrics['fold']}: {summary(metrics)}{optimistic}; model in {folder.model}"

"""Each stream of a run with a local stream, alone and fused, on the same scans: all of them, and by radiology score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .subgroups import SENSITIVITY_ANALYSES
from .uncertainty import (
    DEFAULT_RESAMPLING,
    Interval,
    PairedDifference,
    Resampling,
    bootstrap_weights,
    paired_auc_difference,
    percentile_interval,
    weighted_auc,
)

STREAMS = {"p_global": "Global stream alone", "p_local": "Local stream alone", "p_shares": "Intensity shares alone"}
PARTS = ("Score 3 against 1-2", "Score 5 against 1-2")


@dataclass(frozen=True)
class StreamPart:
    """The fusion and its streams on one part of the cohort.

    Attributes:
        name: of the part.
        n, n_injury: numbers of scans.
        fusion: AUC of ``p_injury``.
        streams: title -> AUC of the stream, and AUC of the fusion minus AUC of the stream, paired.
    """

    name: str
    n: int
    n_injury: int
    fusion: Interval
    streams: dict[str, tuple[Interval, PairedDifference]]


def evaluate_streams(table: pd.DataFrame, resampling: Resampling = DEFAULT_RESAMPLING) -> tuple[list[StreamPart], int]:
    """Compare the fusion with each stream.

    Args:
        table: predictions with ``label, family, radiology_score, p_injury``; of a run with a local stream also
            ``p_global, p_local, p_shares``, which are empty for a scan on which the local stream is silent.
        resampling: of the bootstrap over families.

    Returns:
        One entry for all scans and one for each of `PARTS` that has both classes, without the scans on which a stream
        is silent; and the number of those scans. No entry for a run without a local stream.
    """
    if any(column not in table for column in STREAMS):
        return [], 0
    heard = np.isfinite(table[list(STREAMS)].to_numpy(float)).all(axis=1)
    known = table[heard].reset_index(drop=True)
    parts = []
    for name in ("All scans", *PARTS):
        part = known if name == "All scans" else known[SENSITIVITY_ANALYSES[name][1](known)]
        if part["label"].nunique() < 2 or part["family"].nunique() < 2:
            continue
        label, family = part["label"].to_numpy(), part["family"].to_numpy()
        weights = bootstrap_weights(family, resampling)

        def auc(scores: pd.Series, label: np.ndarray = label, weights: np.ndarray = weights) -> Interval:
            values = weighted_auc(label, scores, weights)
            return percentile_interval(float(values[0]), values[1:], resampling)

        streams = {
            title: (auc(part[column]), paired_auc_difference(label, part["p_injury"], part[column], family, resampling))
            for column, title in STREAMS.items()
        }
        parts.append(StreamPart(name, len(part), int(label.sum()), auc(part["p_injury"]), streams))
    return parts, int((~heard).sum())

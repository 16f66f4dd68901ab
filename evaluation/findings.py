"""All numbers of the report on one study, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from .calibration import Calibration, calibration
from .controls import Control, evaluate_controls
from .metrics import confusion_counts, cross_validation_metrics
from .modalities import ModalityPart, evaluate_subsets
from .optimism import OptimismAudit, audit_optimism
from .streams import StreamPart, evaluate_streams
from .study import Study
from .subgroups import SENSITIVITY_ANALYSES, SUBGROUPS, Part, evaluate_parts, evaluate_sites
from .uncertainty import (
    DEFAULT_RESAMPLING,
    PERMUTATIONS,
    Interval,
    PairedDifference,
    Resampling,
    bootstrap_metrics,
    fixed_prediction_null,
    paired_auc_difference,
    permutation_p_value,
)

NULL_STATISTICS = ("pooled_auc", "mean_auc", "pooled_accuracy", "mean_accuracy")


@dataclass(frozen=True)
class NetworkNull:
    """The network compared with chance. Every dictionary has the keys `NULL_STATISTICS`.

    Attributes:
        observed: the values of the network.
        fixed: (permutations,) null with fixed predictions and permuted labels.
        fixed_p: p-values under that null, where defined.
        refitted: (runs,) values of runs trained on permuted labels; empty without such runs.
        refitted_p: p-values under that null, where defined.
    """

    observed: dict[str, float]
    fixed: dict[str, np.ndarray]
    fixed_p: dict[str, float]
    refitted: dict[str, np.ndarray] = field(default_factory=dict)
    refitted_p: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """The numbers of one report, from `evaluate_study`."""

    study: Study
    cross_validation: dict[str, Any]
    at_threshold: dict[str, dict[str, Interval]]
    confusion: dict[str, dict[str, int]]
    calibration: Calibration
    augmentation: PairedDifference | None
    controls: list[Control]
    null: NetworkNull | None
    audit: OptimismAudit | None
    streams: list[StreamPart]
    silent: int  # scans on which the local stream is silent
    modalities: list[ModalityPart]
    sensitivity: list[Part]
    subgroups: list[Part]
    sites: list[Part]
    resampling: Resampling
    permutations: int

    @property
    def both_classes(self) -> bool:
        """Whether the scans include both normal and injured ones."""
        return self.study.table["label"].nunique() == 2


def evaluate_study(
    study: Study,
    *,
    features: Mapping[str, np.ndarray] | None = None,
    null_runs: Sequence[pd.DataFrame] = (),
    resampling: Resampling = DEFAULT_RESAMPLING,
    permutations: int = PERMUTATIONS,
) -> Findings:
    """Compute all numbers of a report.

    Args:
        study: from `read_run` or `read_external`.
        features: extra controls: name -> (n, d), aligned with ``study.table``.
        null_runs: predictions of networks trained on permuted labels, for a null with retraining.
        resampling: of the bootstrap; its seed also seeds the permutations.
        permutations: number of permutations per null; 0 for no nulls.
    """
    table = study.table
    label, p, family = (table[column].to_numpy() for column in ("label", "p_injury", "family"))
    at_threshold, confusion = {}, {}
    for name, threshold in study.thresholds.items():
        args = (label, p, family, threshold, table["fold"].to_numpy() if len(study.folds) > 1 else None)
        at_threshold[name] = bootstrap_metrics(*args, resampling=resampling)
        confusion[name] = _pooled_confusion(label, p, threshold)
    both = len(set(label.tolist())) == 2
    several = len(study.folds) > 1
    augmentation = None
    if both and not np.allclose(p, table["p_injury_no_tta"]):
        augmentation = paired_auc_difference(label, p, table["p_injury_no_tta"], family, resampling)
    controls = []
    if several and both:
        controls = evaluate_controls(table, features, permutations, resampling)
    streams, silent = evaluate_streams(table, resampling)
    return Findings(
        study=study,
        cross_validation=cross_validation_metrics(table),
        at_threshold=at_threshold,
        confusion=confusion,
        calibration=calibration(label, p, family, resampling),
        augmentation=augmentation,
        controls=controls,
        null=network_null(table, null_runs, permutations, resampling.seed) if both and permutations else None,
        audit=audit_optimism(study.histories, study.fold_metrics) if study.histories else None,
        streams=streams,
        silent=silent,
        modalities=evaluate_subsets(table, study.subsets, resampling),
        sensitivity=evaluate_parts(table, SENSITIVITY_ANALYSES, resampling=resampling),
        subgroups=evaluate_parts(table, SUBGROUPS, resampling=resampling),
        sites=evaluate_sites(table, resampling=resampling),
        resampling=resampling,
        permutations=permutations,
    )


def _pooled_confusion(label: np.ndarray, p: np.ndarray, threshold: np.ndarray) -> dict[str, int]:
    """One confusion matrix over scans whose thresholds may differ by fold."""
    return confusion_counts(label, (p >= threshold).astype(float), 0.5)


def null_statistics(table: pd.DataFrame) -> dict[str, float]:
    """AUC, and accuracy at threshold 0.5, pooled and as means over folds: `NULL_STATISTICS`, NaN if undefined."""
    result = cross_validation_metrics(table)
    values = {
        "pooled_auc": result["pooled"]["auc"],
        "mean_auc": result["mean_sd"]["auc"]["mean"],
        "pooled_accuracy": result["pooled"]["accuracy"],
        "mean_accuracy": result["mean_sd"]["accuracy"]["mean"],
    }
    return {name: np.nan if value is None else float(value) for name, value in values.items()}


def network_null(
    table: pd.DataFrame, null_runs: Sequence[pd.DataFrame] = (), permutations: int = PERMUTATIONS, seed: int = 0
) -> NetworkNull:
    """Compare the network with chance, using the two nulls of `NetworkNull`.

    Each of ``null_runs`` (same recipe, permuted labels) gives one value of the refitted null. Only that null shows the
    bias of cross-validation itself; see `fixed_prediction_null`.
    """
    observed = null_statistics(table)
    args = (table["label"], table["p_injury"], table["family"], table["fold"])
    fixed = fixed_prediction_null(*args, permutations=permutations, seed=seed)
    refitted = {}
    if len(null_runs):
        each = [null_statistics(run) for run in null_runs]
        refitted = {name: np.array([values[name] for values in each]) for name in NULL_STATISTICS}
    known = [name for name in NULL_STATISTICS if np.isfinite(observed[name])]
    return NetworkNull(
        observed=observed,
        fixed=fixed,
        fixed_p={name: permutation_p_value(observed[name], fixed[name]) for name in known},
        refitted=refitted,
        refitted_p={name: permutation_p_value(observed[name], refitted[name]) for name in known if name in refitted},
    )


def summary_for_json(findings: Findings) -> dict[str, Any]:
    """The findings beyond `cross_validation_metrics`, as plain values for ``cv_metrics.json``; undefined is None."""
    null, audit, resampling = findings.null, findings.audit, findings.resampling
    content = {
        "bootstrap": {
            "draws": resampling.draws,
            "unit": "family",
            "interval": f"percentile, {100 * resampling.level:g} %",
            "seed": resampling.seed,
        },
        "thresholds": {
            name: {
                "note": findings.study.threshold_notes[name],
                "confusion_matrix": findings.confusion[name],
                "metrics": _intervals(metrics),
            }
            for name, metrics in findings.at_threshold.items()
        },
        "calibration": {
            **_intervals({k: getattr(findings.calibration, k) for k in ("brier", "intercept", "slope")}),
            "brier_reference": findings.calibration.brier_reference,
            "undefined": findings.calibration.undefined,
        },
        "augmentation_auc_difference": findings.augmentation and _difference(findings.augmentation),
        "controls": [
            {
                "name": control.name,
                "features": control.features,
                "metrics": _intervals(control.metrics),
                "network_minus_control": control.difference and _difference(control.difference),
                "null": null_spread(control.null) if control.null is not None else None,
                "p_value": control.p_value,
            }
            for control in findings.controls
        ],
        "null": null
        and {
            name: {
                "observed": null.observed[name],
                "fixed_predictions": {**null_spread(null.fixed[name]), "p_value": null.fixed_p.get(name)},
                "retrained": {**null_spread(null.refitted[name]), "p_value": null.refitted_p.get(name)}
                if name in null.refitted
                else None,
            }
            for name in NULL_STATISTICS
        },
        "optimism": audit
        and {
            row["metric"]: {key: row[key] for key in ("honest", "best", "difference", "n_folds")}
            for row in audit.summary.to_dict("records")
        },
        "streams": [
            {
                "part": part.name,
                "n": part.n,
                "n_injury": part.n_injury,
                "fusion_auc": _intervals({"auc": part.fusion})["auc"],
                "alone": {
                    title: {**_intervals({"auc": auc}), "fusion_minus_stream": _difference(difference)}
                    for title, (auc, difference) in part.streams.items()
                },
            }
            for part in findings.streams
        ],
        "modalities": [
            {
                "part": part.name,
                "n": part.n,
                "n_injury": part.n_injury,
                "shown": {
                    name: {**_intervals({"auc": auc}), "all_minus_shown": pair and _difference(pair)}
                    for name, (auc, pair) in part.subsets.items()
                },
            }
            for part in findings.modalities
        ],
        "sensitivity_analyses": [_part(part) for part in findings.sensitivity],
        "subgroups": [_part(part) for part in findings.subgroups],
        "sites": [_part(part) for part in findings.sites],
    }
    return plain(content)


def _intervals(metrics: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: {"estimate": i.estimate, "low": i.low, "high": i.high} for name, i in metrics.items()}


def _difference(pair: PairedDifference) -> dict[str, Any]:
    return {**asdict(pair), "difference": _intervals({"d": pair.difference})["d"]}


def null_spread(values: np.ndarray) -> dict[str, Any]:
    """Number of defined values of a null, their mean and their 95th percentile (None if there are none)."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return {"n": 0, "mean": None, "percentile_95": None}
    return {"n": len(defined), "mean": float(defined.mean()), "percentile_95": float(np.quantile(defined, 0.95))}


def _part(part: Part) -> dict[str, Any]:
    return {**asdict(part), "metrics": _intervals(part.metrics)}


def plain(content: Any) -> Any:
    """The same structure with Python scalars instead of NumPy ones and None instead of NaN."""
    if isinstance(content, Mapping):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, float) and not np.isfinite(content):
        return None
    return content

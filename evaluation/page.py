"""The HTML page of a report, with its figures inside, and the files of the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from run_folder.predictions import scan_name

from . import wording
from .cases import phantom_truth, thumbnails, wrong_by_score, wrong_calls
from .comparison import Comparison
from .controls import Control
from .drawing import Drawing, save_drawing
from .figures import (
    TITLES,
    comparison_figure,
    counted,
    decision_figure,
    folds_figure,
    forest_figure,
    null_figure,
    optimism_figure,
    p_text,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
)
from .findings import NULL_STATISTICS, Findings, NetworkNull, null_spread
from .metrics import METRIC_NAMES
from .modalities import modality_set
from .published import TABLE_2_BEST_FOLD, TABLE_2_COLUMNS, TABLE_2_MEANS
from .study import Study
from .subgroups import Part
from .table_one import fold_counts, score_counts, table_one
from .uncertainty import Interval, Resampling

NULL_TITLES = {
    "pooled_auc": "AUC, pooled",
    "mean_auc": "AUC, mean over folds",
    "pooled_accuracy": "Accuracy at 0.5, pooled",
    "mean_accuracy": "Accuracy at 0.5, mean over folds",
}
CONTENTS = [
    ("scans", "Scans and infants"),
    ("performance", "Performance"),
    ("sites", "Sites"),
    ("streams", "Global and local stream"),
    ("modalities", "Without a modality"),
    ("calibration", "Calibration and decisions"),
    ("controls", "Controls on the same folds"),
    ("chance", "Against chance"),
    ("optimism", "Optimism audit"),
    ("parts", "Sensitivity analyses and subgroups"),
    ("errors", "Missed cases and false alarms"),
    ("paper", "Results printed in the paper"),
    ("limits", "Limits"),
    ("methods", "Methods"),
]


def render_study(
    findings: Findings, folder: Path, numbers_file: str, *, with_scans: bool = True, controls_missing: str = ""
) -> str:
    """The page of one study. Its figures are also saved in ``folder`` (SVG, PDF, PNG, CSV).

    Args:
        findings: the numbers of the page.
        folder: for the figures.
        numbers_file: name of the JSON file with all metrics, which the page mentions.
        with_scans: name the misclassified scans and show slices of them.
        controls_missing: a sentence on controls that were not computed.
    """
    study, table = findings.study, findings.study.table
    figures = _save(study_drawings(findings), folder)
    missed, alarms = wrong_calls(table)
    truth = phantom_truth(table) if with_scans or study.phantom else {}
    null, audit = findings.null, findings.audit
    show_paper = not study.external and findings.both_classes
    sections = {
        "sites": findings.sites,
        "streams": findings.streams,
        "modalities": findings.modalities,
        "controls": findings.controls,
        "chance": null,
        "optimism": audit,
        "paper": show_paper,
    }
    heading = f"{'External validation' if study.external else 'Evaluation'}: {study.name}"
    if study.phantom:
        heading += " (phantom cohort)"
    if study.painted:
        heading += " (painted injuries)"
    context = {
        "title": f"{heading} - GloResNet",
        "heading": heading,
        "subtitle": _subtitle(study),
        "banners": wording.banners(findings),
        "summary": wording.summary(findings),
        "contents": [(id_, name) for id_, name in CONTENTS if sections.get(id_, True)],
        "study": study,
        "findings": findings,
        "labels": {0: "normal", 1: "injured"},
        "titles": TITLES,
        "flow": _flow_rows(study.flow),
        "exclusion_reasons": len(study.exclusions) > 0 and not study.external,
        "table_one": table_one(table).to_dict("records"),
        "scores": score_counts(table).to_dict("records"),
        "fold_counts": fold_counts(table).to_dict("records"),
        "left_out": study.left_out,
        "sites_sentence": wording.sites(findings),
        "selected_epochs": {fold: metrics.get("selected_epoch", "") for fold, metrics in study.fold_metrics.items()},
        "split_sentence": wording.split(findings) if not study.external else "",
        "selection_sentence": wording.selection(findings),
        "confusion": findings.confusion,
        "at_threshold": findings.at_threshold,
        "at_half": findings.at_threshold["0.5"],
        "metric_order": [m for m in (*METRIC_NAMES, "within_fold_auc") if m in findings.at_threshold["0.5"]],
        "ranked": ("auc", "average_precision", "within_fold_auc"),
        "mean_sd": findings.cross_validation["mean_sd"],
        "interval_notes": wording.interval_notes(findings),
        "cross_validation": findings.cross_validation,
        "fold_metrics_shown": ("accuracy", "sensitivity", "specificity", "f1", "mcc", "auc"),
        "calibration": findings.calibration,
        "temperature_sentence": wording.temperature(findings),
        "controls": findings.controls,
        "controls_missing": controls_missing,
        "null": null,
        "null_titles": {
            name: NULL_TITLES[name] for name in NULL_STATISTICS if not study.external or "mean" not in name
        },
        "null_rows": {name: null_spread(values) for name, values in null.fixed.items()} if null else {},
        "refitted_rows": {name: null_spread(values) for name, values in null.refitted.items()} if null else {},
        "null_runs": len(next(iter(null.refitted.values()))) if null and null.refitted else 0,
        "audit": audit,
        "audit_rows": audit.summary.to_dict("records") if audit else [],
        "wrong": wrong_by_score(table).to_dict("records"),
        "cases": [
            ("Missed cases: injured, called normal", _case_rows(missed, truth, with_scans)),
            ("False alarms: normal, called injured", _case_rows(alarms, truth, with_scans)),
        ],
        "truth": bool(truth),
        "with_scans": with_scans,
        "paper": {**TABLE_2_MEANS, **TABLE_2_BEST_FOLD} if show_paper else None,
        "paper_columns": TABLE_2_COLUMNS,
        "paper_sentence": wording.paper_sentence(findings),
        "limits": wording.limits(findings),
        "methods": wording.methods(findings),
        "references": wording.REFERENCES,
        "settings": wording.settings(findings),
        "numbers_file": numbers_file,
        "figures": figures,
    }
    return environment().get_template("report.html.jinja").render(context)


def render_comparison(comparison: Comparison, studies: Sequence[Study], folder: Path, resampling: Resampling) -> str:
    """The page that compares several runs. Its figure is also saved in ``folder``."""
    drawings = [comparison_figure(comparison)] if comparison.table["label"].nunique() == 2 else []
    phantoms = sorted({study.phantom for study in studies if study.phantom})
    metrics = ["auc", "within_fold_auc", "accuracy", "sensitivity", "specificity"]
    context = {
        "comparison": comparison,
        "studies": dict(zip(comparison.names, studies, strict=True)),
        "phantoms": phantoms,
        "painted": wording.PAINTED if any(study.painted for study in studies) else "",
        "cautions": sorted({study.caution for study in studies if study.caution}),
        "titles": TITLES,
        "metrics": metrics,
        "over_runs": {
            metric: _mean_sd([comparison.metrics[n][metric].estimate for n in comparison.names]) for metric in metrics
        },
        "draws": resampling.draws,
        "figures": _save(drawings, folder),
        "families": comparison.table["family"].nunique(),
        "injured": int(comparison.table["label"].sum()),
        "modality_sets": _modality_sets(dict(zip(comparison.names, studies, strict=True))),
    }
    return environment().get_template("comparison.html.jinja").render(context)


def _modality_sets(studies: dict[str, Study]) -> dict[str, str]:
    """The modalities of each network by name of the run; empty if all have T2w alone."""
    sets = {name: modality_set(study) for name, study in studies.items()}
    return sets if set(sets.values()) - {"T2w"} else {}


def study_drawings(findings: Findings) -> list[Drawing]:
    """All figures that the study has data for, in the order of the page."""
    study, metrics = findings.study, findings.at_threshold["0.5"]
    table, drawings = study.table, []
    if findings.both_classes:
        drawings.append(roc_figure(table, metrics["auc"], study.thresholds, findings.resampling))
        average = metrics["average_precision"]
        drawings.append(precision_recall_figure(table, average, findings.resampling))
    if not study.external:
        drawings.append(folds_figure(findings.cross_validation["folds"], metrics))
    if any(part.metrics and part.metrics["auc"].estimate is not None for part in findings.sites):
        rows = [("All sites", metrics["auc"]), *_aucs(findings.sites)]
        caption = "AUC of each site. Shaded: interval of all sites."
        drawings.append(forest_figure("sites", caption, counted(table["label"]), rows, metrics["auc"]))
    if findings.both_classes:
        drawings += [reliability_figure(table), decision_figure(table, findings.resampling)]
    if findings.controls:
        rows = [("Network", metrics["auc"]), *((c.name, c.metrics["auc"]) for c in findings.controls)]
        caption = "Pooled AUC of the network and of the controls on the same folds. Shaded: interval of the network."
        drawings.append(forest_figure("controls", caption, counted(table["label"]), rows, metrics["auc"]))
    if findings.null:
        drawings.append(null_figure(*_nulls(findings.null, findings.controls)))
    if findings.audit:
        drawings.append(optimism_figure(findings.audit))
    parts = [*findings.sensitivity, *findings.subgroups[1:]]
    rows = _aucs(parts)
    if len(rows) > 1:
        caption = "AUC in parts of the cohort. Shaded: interval of all scans."
        drawings.append(forest_figure("parts", caption, counted(table["label"]), rows, rows[0][1]))
    return drawings


def _aucs(parts: Sequence[Part]) -> list[tuple[str, Interval]]:
    """Name and AUC of each part that has one."""
    defined = [part for part in parts if part.metrics and part.metrics["auc"].estimate is not None]
    return [(f"{part.name} (n = {part.n})", part.metrics["auc"]) for part in defined]


def _nulls(
    null: NetworkNull, controls: Sequence[Control]
) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, float]]:
    """Null AUCs, observed AUC and p-value of the network and of each control, by title."""
    nulls = {"Network, predictions fixed": null.fixed["pooled_auc"]}
    observed = {"Network, predictions fixed": null.observed["pooled_auc"]}
    p_values = {"Network, predictions fixed": null.fixed_p["pooled_auc"]}
    if null.refitted:
        nulls["Network, retrained"] = null.refitted["pooled_auc"]
        observed["Network, retrained"] = null.observed["pooled_auc"]
        p_values["Network, retrained"] = null.refitted_p["pooled_auc"]
    for control in controls:
        auc = control.metrics["auc"].estimate
        if control.null is not None and control.p_value is not None and auc is not None:
            title = f"{control.name}, refitted"
            nulls[title], observed[title], p_values[title] = control.null, auc, control.p_value
    return nulls, observed, p_values


def _save(drawings: Sequence[Drawing], folder: Path) -> dict[str, dict[str, Any]]:
    """Save the files of each figure; return name -> number, caption and address for the page."""
    figures = {}
    for number, drawing in enumerate(drawings, start=1):
        address = save_drawing(drawing, folder)
        figures[drawing.name] = {"number": number, "caption": drawing.caption, "address": address}
    return figures


def _subtitle(study: Study) -> str:
    scans = f"{len(study.table)} scans, {int(study.table['label'].sum())} injured"
    if study.external:
        return f"Finished model on the scans labelled in {study.cohort}: {scans}."
    if study.left_out:
        return f"Leave-one-site-out over {len(study.folds)} sites of GloResNet on the cohort {study.cohort}: {scans}."
    return f"{len(study.folds)}-fold cross-validation of GloResNet on the cohort {study.cohort}: {scans}."


def _flow_rows(flow: dict[str, int]) -> list[tuple[str, int]]:
    titles = {"found": "Found", "labelled": "With a label", "used": "Used"}
    titles |= {"used normal": "Used: normal", "used injury": "Used: injured"}
    titles |= {name: name.replace("used with", "Used: with") for name in flow if name.startswith("used with ")}
    return [(titles.get(name, f"Excluded: {name}"), count) for name, count in flow.items()]


def _case_rows(cases: pd.DataFrame, truth: dict, with_scans: bool) -> list[dict[str, Any]]:
    pictures = thumbnails(cases) if with_scans else [None] * len(cases)
    rows = []
    for row, picture in zip(cases.to_dict("records"), pictures, strict=True):
        injuries = truth.get((row["participant_id"], row["session_id"]), "")
        rows.append({**row, "name": scan_name(row), "picture": picture, "truth": injuries})
    return rows


def _mean_sd(values: list[float | None]) -> str:
    """Mean and SD over runs; "–" if one is undefined."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "–"
    return f"{np.mean(known):.2f} ± {np.std(known, ddof=1):.3f}"


def environment(*folders: Path) -> jinja2.Environment:
    """The templates of this room and of further folders, with the filters that format numbers."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, *folders]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": fixed, "signed": signed, "p": p_value, "interval": interval_text}
    return environment


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with a fixed number of decimals; a dash if it is undefined."""
    if value is None or isinstance(value, float) and not np.isfinite(value):
        return "–"
    return f"{value:z.{digits}f}".replace("-", "−")  # z: no "-0.00"


def interval_text(interval: Interval, digits: int = 3) -> str:
    """An interval as text, with a true minus sign."""
    return f"{interval:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """As `fixed`, with a sign."""
    text = fixed(value, digits)
    return f"+{text}" if text[0].isdigit() and value else text


def p_value(value: float | None) -> str:
    """A p-value; a dash if it is undefined."""
    return "–" if value is None else p_text(value)

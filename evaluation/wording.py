"""The sentences of a report: what was done, what it means, and what it does not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from statsmodels.stats.proportion import proportion_confint

from .figures import TITLES
from .findings import Findings
from .uncertainty import Interval

REFERENCES = [
    ("Metrics Reloaded", "10.1038/s41592-023-02151-z"),
    ("CLAIM 2024", "10.1148/ryai.240300"),
    ("TRIPOD+AI", "10.1136/bmj-2023-078378"),
    ("Varoquaux 2018, error bars of cross-validation", "10.1016/j.neuroimage.2017.06.061"),
    ("Varma & Simon 2006, selection bias", "10.1186/1471-2105-7-91"),
    ("Rosenblatt 2024, leakage", "10.1038/s41467-024-46150-w"),
    ("Winkler 2015, exchangeability blocks", "10.1016/j.neuroimage.2015.05.092"),
    ("Phipson & Smyth 2010, permutation p-values", "10.2202/1544-6115.1585"),
    ("Van Calster 2019, calibration", "10.1186/s12916-019-1466-7"),
    ("Vickers 2006, decision curves", "10.1177/0272989X06295361"),
    ("Austin 2009, standardised differences", "10.1080/03610910902859574"),
]


def banners(findings: Findings) -> list[str]:
    """What nobody may overlook."""
    study, lines = findings.study, []
    if study.phantom:
        lines.append(
            f"Phantom cohort (preset {study.phantom}): the images were computed from formulae and no infant was "
            "scanned. "
            "These figures test the software; they are not clinical evidence."
        )
    if study.selection == "paper" and not study.external:
        lines.append(
            "Optimistic: the epoch of each fold was chosen for its accuracy on the scored scans (--selection paper). "
            "Every figure here is flattered by that choice; the optimism audit says by how much."
        )
    if study.splits.get("torn_sibling_pairs"):
        lines.append(
            f"{study.splits['torn_sibling_pairs']} of {study.splits.get('sibling_pairs', '?')} sibling pairs stand in "
            "different folds (--split paper): a network may know one twin's brain from the other's."
        )
    if not findings.both_classes:
        lines.append("All scans are of one class: nothing can be said about telling the classes apart.")
    return lines


def summary(findings: Findings) -> str:
    """The findings in a few sentences."""
    metrics, counts = findings.at_threshold["0.5"], findings.confusion["0.5"]
    injured, normal = counts["tp"] + counts["fn"], counts["tn"] + counts["fp"]
    kind = "out-of-fold " if not findings.study.external else ""
    sentences = [
        f"At a probability of 0.5 the {kind}predictions found {counts['tp']} of {injured} injured scans"
        f"{_bracket('sensitivity', metrics['sensitivity'])} and called {counts['fp']} of {normal} normal ones injured"
        f"{_bracket('specificity', metrics['specificity'])}; ROC AUC {metrics['auc'].with_level()}."
    ]
    best = _best_control(findings)
    if best:
        sentences.append(best)
    if findings.audit is not None:
        row = findings.audit.summary.set_index("metric").loc["accuracy"]
        sentences.append(
            "Choosing each fold's epoch on the scored scans would have raised mean accuracy from "
            f"{row['honest']:.3f} to "
            f"{row['best']:.3f}."
        )
    return " ".join(sentences)


def _best_control(findings: Findings) -> str:
    ranked = [c for c in findings.controls if c.features and c.metrics["auc"].estimate is not None and c.difference]
    if not ranked:
        return ""
    best = max(ranked, key=lambda control: control.metrics["auc"].estimate)
    difference = best.difference.difference
    verdict = ""
    if difference.low is not None and difference.high is not None:
        verdict = (
            ", clearly below the network"
            if difference.low > 0
            else ", clearly above the network"
            if difference.high < 0
            else ", and the interval of the difference includes 0"
        )
    return (
        f"The best control ({best.name}) reaches AUC {best.metrics['auc'].estimate:.3f}{verdict} "
        f"(difference {difference.with_level()})."
    )


def _bracket(name: str, interval: Interval) -> str:
    return "" if interval.estimate is None else f" ({name} {interval.estimate:.2f})"


def selection(findings: Findings) -> str:
    """How epochs and thresholds were chosen."""
    study = findings.study
    if study.external:
        frozen = "The model came finished; nothing was fitted to these scans."
        if len(study.thresholds) == 1:
            frozen += " Thresholds frozen with the model, where it has any, come with --model FOLDER."
        return frozen
    rule = {
        "last": "The weights are those of the last epoch of a schedule fixed beforehand: nothing was chosen on "
        "the data.",
        "inner": "Epoch, temperature and thresholds were chosen on inner scans, a family-grouped part of each training "
        "fold that neither trained the network nor is scored here.",
        "paper": "The epoch was chosen for its accuracy on the scored fold itself: optimistic.",
    }[study.selection]
    if "Youden" not in study.thresholds:
        rule += " Thresholds chosen inside the training folds (Youden, sensitivity 0.90) come with --selection inner."
    return rule


def split(findings: Findings) -> str:
    """How the folds were dealt."""
    splits = findings.study.splits
    rule = "whole families in one fold" if splits.get("rule") == "family" else "infants, not families, kept together"
    pairs = splits.get("sibling_pairs")
    torn = f"; {splits.get('torn_sibling_pairs', 0)} of {pairs} sibling pairs torn" if pairs is not None else ""
    return f"Stratified by label, {rule}, seed {splits.get('seed', 'unknown')}{torn}."


def interval_notes(findings: Findings) -> list[str]:
    """How to read the intervals."""
    notes = [
        "Intervals resample families, so that siblings and repeated scans count as one piece of evidence. They "
        "hold the "
        "trained models fixed and do not show how much another training set would change them."
    ]
    notes += _at_a_bound(findings)
    if not findings.study.external:
        notes.append(
            "Pooled AUC ranks scans of different folds, scored by different networks, against each other; the AUC "
            "within folds compares only scans of the same fold."
        )
    return notes


def _at_a_bound(findings: Findings) -> list[str]:
    """What a proportion of exactly 0 or 1 at threshold 0.5 is compatible with, where resampling only repeats it."""
    table, metrics = findings.study.table, findings.at_threshold["0.5"]
    called = table["p_injury"] >= 0.5
    denominators = {
        "sensitivity": table["label"] == 1,
        "specificity": table["label"] == 0,
        "ppv": called,
        "npv": ~called,
        "accuracy": called.notna(),
    }
    bounds = []
    for name, scans in denominators.items():
        value = metrics[name].estimate
        if value in (0.0, 1.0):
            families = int(table.loc[scans, "family"].nunique())
            low, high = proportion_confint(round(value * families), families, method="beta")
            reach = f"at least {low:.2f}" if value else f"at most {high:.2f}"
            bounds.append(f"{TITLES[name]} {value:.0f} on {families} families: {reach}")
    if not any(interval.estimate in (0.0, 1.0) for interval in metrics.values()):
        return []
    if not bounds:
        return ["A value of exactly 0 or 1 is the same in every draw, so its bootstrap interval has no width."]
    return [
        "A value of exactly 0 or 1 is the same in every draw, so its bootstrap interval has no width. Exact 95 % "
        "limits "
        f"that count families once (Clopper-Pearson): {'; '.join(bounds)}."
    ]


def temperature(findings: Findings) -> str:
    """Whether the probabilities were calibrated."""
    inner = [metrics.get("inner") for metrics in findings.study.fold_metrics.values()]
    if inner and all(inner):
        values = ", ".join(f"{i['temperature']:.2f}" for i in inner)
        return f"Temperatures fitted on the inner scans and applied to these probabilities, by fold: {values}."
    if findings.study.external:
        return "The probabilities carry the temperature stored in the model; nothing was recalibrated on these scans."
    return (
        "No temperature was fitted (it is with --selection inner). A network trained with class weights answers as if "
        "half of the scans were injured."
    )


def limits(findings: Findings) -> list[str]:
    """What these figures cannot carry."""
    study, lines = findings.study, []
    n = len(study.table)
    if study.phantom:
        lines.append("Synthetic images: nothing here says how the method does on infants.")
    if study.external:
        lines.append("One external cohort, evaluated once; other sites, scanners and reading habits may differ.")
    else:
        lines.append(
            "No external validation: all scans come from one cohort, and figures on another site's scans are "
            "usually lower."
        )
    lines.append(
        f"{n} scans, {int(study.table['label'].sum())} injured: the intervals are wide because the cohort is small."
    )
    if not study.external:
        lines.append(
            "The folds' training sets overlap, so the SD over folds is no standard error, and the best fold is "
            "the best "
            "of several tries."
        )
    lines.append("The label is one radiological score a scan; disagreement between readers is not modelled.")
    lines.append("Not a medical device; not for clinical decisions.")
    return lines


def methods(findings: Findings) -> str:
    """What was computed, for a supplement."""
    study, resampling = findings.study, findings.resampling
    parts = [
        "A scan is called injured when its probability is at least the threshold. Metrics come from one "
        "confusion matrix "
        "and one ranking; undefined values (0/0) are left undefined.",
        f"Intervals: percentile bootstrap over families, {resampling.draws} draws, seed {resampling.seed}.",
        "Calibration intercept and slope: logistic regression of the label on the logit of the probability, covariance "
        "clustered on families. Brier score: mean squared difference of probability and label.",
    ]
    if findings.controls:
        parts.append(
            "Controls: median imputation with missingness flags, standardisation, class-weighted logistic regression "
            "(C = 1; with 32 or more features C is chosen on inner family-grouped folds), fitted on each training fold."
        )
    if findings.permutations:
        parts.append(
            f"Nulls: {findings.permutations} permutations; families of equal size exchange their labels, and "
            "labels are "
            "shuffled within families; p = (1 + hits) / (1 + n), one-sided."
        )
    if study.histories:
        parts.append("Optimism audit: from the record of the scored fold after every epoch.")
    return " ".join(parts)


def paper_sentence(findings: Findings) -> str:
    """How the paper's figures relate to these."""
    other = (
        "This run is of phantoms, so the comparison says nothing about the method."
        if findings.study.phantom
        else "They are of another cohort unless yours is the same 128 infants of the dHCP."
    )
    return (
        "For orientation only, as printed in arXiv 2606.02498, Table 2. "
        f"{other} The printed rows cannot come from 74 normal and 54 injured scans, neither as one confusion "
        "matrix nor as "
        "means over five stratified folds (python -m replication.consistency shows why)."
    )


def settings(findings: Findings) -> list[tuple[str, Any]]:
    """Recipe and environment, as rows."""
    study = findings.study
    environment = study.environment
    rows: list[tuple[str, Any]] = [(name, _setting(value)) for name, value in study.recipe.items()]
    packages = environment.get("packages", {})
    if packages:
        rows.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    rows += [(name, environment[name]) for name in ("python", "platform", "num_processes") if environment.get(name)]
    if environment.get("gpus"):
        rows.append(("gpus", ", ".join(environment["gpus"])))
    return rows


def _setting(value: Any) -> str:
    """A setting as printed; of a path only the file's name, which is all that a reader elsewhere can use."""
    return "none" if value is None else Path(str(value)).name if os.sep in str(value) else str(value)

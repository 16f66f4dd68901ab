"""The sentences of a report: what was done, what the results mean, and their limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from statsmodels.stats.proportion import proportion_confint

from .figures import TITLES
from .findings import Findings
from .study import DOUBTED
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


PAINTED = (
    "Painted cohort: a program painted the injuries into normal scans. These results show which painted injuries are "
    "found; they are not clinical evidence."
)


def banners(findings: Findings) -> list[str]:
    """Warnings at the top of the page."""
    study, lines = findings.study, []
    if study.phantom:
        lines.append(
            f"Phantom cohort (preset {study.phantom}): a program generated the images, no infant was scanned. These "
            "results test the software; they are not clinical evidence."
        )
    if study.painted:
        lines.append(PAINTED)
    if study.caution:
        lines.append(study.caution)
    if doubted := study.flow.get(DOUBTED):
        lines.append(
            f"Scans with warnings: {doubted} of {len(study.table)}. A file may be wrong, or a scan looks unlike the "
            "training scans (column warnings of the predictions). Do not rely on these probabilities; all results here "
            "include them."
        )
    if study.selection == "paper" and not study.external:
        lines.append(
            "Optimistic: the epoch of each fold was chosen for its accuracy on the scored scans (--selection paper). "
            "This choice inflates all results here; the optimism audit shows by how much."
        )
    if study.splits.get("torn_sibling_pairs"):
        lines.append(
            f"{study.splits['torn_sibling_pairs']} of {study.splits.get('sibling_pairs', '?')} sibling pairs are split "
            "across folds (--split paper): a network may have been trained on the sibling of a scored infant."
        )
    one_class = [fold["fold"] for fold in findings.cross_validation["folds"] if fold["auc"] is None]
    if study.left_out and one_class and findings.both_classes:
        sites = ", ".join(study.left_out[fold] for fold in one_class)
        lines.append(
            f"All scans of {sites} are of one class: the AUC and all figures that need both classes are undefined "
            "there, and means over folds leave these sites out."
        )
    if not findings.both_classes:
        lines.append("All scans are of one class, so the report cannot show whether the model separates the classes.")
    return lines


def summary(findings: Findings) -> str:
    """The main results in a few sentences."""
    metrics, counts = findings.at_threshold["0.5"], findings.confusion["0.5"]
    injured, normal = counts["tp"] + counts["fn"], counts["tn"] + counts["fp"]
    kind = "out-of-fold " if not findings.study.external else ""
    sentences = [
        f"At a threshold of 0.5, the {kind}predictions found {counts['tp']} of {injured} injured scans"
        f"{_bracket('sensitivity', metrics['sensitivity'])} and called {counts['fp']} of {normal} normal scans injured"
        f"{_bracket('specificity', metrics['specificity'])}. ROC AUC: {metrics['auc'].with_level()}."
    ]
    best = _best_control(findings)
    if best:
        sentences.append(best)
    if findings.audit is not None:
        row = findings.audit.summary.set_index("metric").loc["accuracy"]
        sentences.append(
            "Choosing the epoch of each fold on the scored scans raises the mean accuracy from "
            f"{row['honest']:.3f} to {row['best']:.3f}."
        )
    return " ".join(sentences)


def _best_control(findings: Findings) -> str:
    ranked = [
        (auc, control.name, control.difference.difference)
        for control in findings.controls
        if control.features and control.difference and (auc := control.metrics["auc"].estimate) is not None
    ]
    if not ranked:
        return ""
    auc, name, difference = max(ranked, key=lambda control: control[0])
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
        f"The best control ({name}) reaches an AUC of {auc:.3f}{verdict}; "
        f"network minus control: {difference.with_level().replace('-', '−')}."
    )


def _bracket(name: str, interval: Interval) -> str:
    return "" if interval.estimate is None else f" ({name} {interval.estimate:.2f})"


def selection(findings: Findings) -> str:
    """How epochs and thresholds were chosen."""
    study = findings.study
    if study.external:
        sentence = "The model was trained beforehand; nothing was fitted to these scans."
        if len(study.thresholds) == 1:
            sentence += " Use --model FOLDER to add the thresholds stored with the model, if it has any."
        return sentence
    streams = _has_local_stream(findings)
    rule = {
        "last": "The weights are those of the last epoch of a fixed schedule. Nothing was chosen on the data.",
        "inner": "Epoch, temperature and thresholds were chosen on inner scans: whole families of each training part "
        f"that were used neither to train the {'global stream' if streams else 'network'} nor for the scores.",
        "paper": "The epoch was chosen for its accuracy on the scored fold, so the results are optimistic.",
    }[study.selection]
    if study.selection == "inner" and streams:
        rule += (
            " The local stream is trained on them too. Patch networks that have not seen an inner scan score it, but "
            "the calibration of these scores and the regression on intensity shares are fitted on the inner scans and "
            "their labels as well, so the thresholds may fit the inner scans too well. The scored fold is used for "
            "none of this."
        )
    if "Youden" not in study.thresholds:
        rule += " With --selection inner, thresholds are also chosen (Youden, sensitivity 0.90)."
    return rule


def _has_local_stream(findings: Findings) -> bool:
    return findings.study.recipe.get("local_stream") == "on"


def split(findings: Findings) -> str:
    """How scans were assigned to folds."""
    splits = findings.study.splits
    if findings.study.left_out:
        return (
            "Leave-one-site-out: each fold holds out every scan of one site, and its network is trained on the other "
            "sites only."
        )
    together = "families" if splits.get("rule") == "family" else "all scans of an infant, but not families,"
    pairs, split_pairs = splits.get("sibling_pairs"), splits.get("torn_sibling_pairs", 0)
    siblings = f" {split_pairs} of {pairs} sibling pairs are split across folds." if pairs is not None else ""
    return f"Stratified by label, {together} kept in one fold, seed {splits.get('seed', 'unknown')}.{siblings}"


def sites(findings: Findings) -> str:
    """What the figures of each site mean."""
    if findings.study.left_out:
        return "Each site was read by a network that has seen no scan of it. Intervals resample the site's families."
    if findings.study.external:
        return "Intervals resample the families of each site."
    return (
        "Scans of the same site were in the training parts, so these figures do not show what to expect at a new site "
        "(--split site does). Intervals resample the families of each site."
    )


def interval_notes(findings: Findings) -> list[str]:
    """How to read the intervals."""
    notes = [
        "The intervals resample families, because siblings and repeated scans are not independent. The trained models "
        "stay fixed, so the intervals do not include the variation between training sets."
    ]
    notes += _at_a_bound(findings)
    if not findings.study.external:
        notes.append(
            "The pooled AUC compares probabilities of different networks; the AUC within folds compares only scans of "
            "the same fold."
        )
    return notes


def _at_a_bound(findings: Findings) -> list[str]:
    """Exact limits for proportions of 0 or 1 at threshold 0.5, for which the bootstrap interval has zero width."""
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
        return ["A value of exactly 0 or 1 is the same in every draw, so its bootstrap interval has zero width."]
    return [
        "A value of exactly 0 or 1 is the same in every draw, so its bootstrap interval has zero width. Exact 95 % "
        f"limits (Clopper-Pearson), each family counted once: {'; '.join(bounds)}."
    ]


def temperature(findings: Findings) -> str:
    """Whether the probabilities were calibrated."""
    inner = [metrics.get("inner") for metrics in findings.study.fold_metrics.values()]
    if inner and all(inner):
        values = ", ".join(f"{i['temperature']:.2f}" for i in inner if i)
        which = "the probabilities of the global stream" if _has_local_stream(findings) else "these probabilities"
        return f"Temperatures fitted on the inner scans and applied to {which}, by fold: {values}."
    if findings.study.external:
        return "The probabilities include the temperature stored in the model; nothing was recalibrated on these scans."
    return (
        "No temperature was fitted (--selection inner does that). A network trained with class weights gives "
        "probabilities as if half of the scans were injured."
    )


def limits(findings: Findings) -> list[str]:
    """The limits of the results."""
    study, lines = findings.study, []
    n = len(study.table)
    if study.phantom:
        lines.append("The images are synthetic: the results say nothing about the method on infants.")
    if study.painted:
        lines.append("The injuries are painted: the results say nothing about how well real injuries are found.")
    if study.left_out:
        lines.append(
            f"Leave-one-site-out over {len(study.left_out)} sites: each is new to the network that reads it, but all "
            "are from one collection. A site with its own protocol and readers may give lower figures."
        )
    elif study.external:
        lines.append("One external cohort, evaluated once. Other sites, scanners and readers may differ.")
    else:
        lines.append(
            "No external validation: all scans are from one cohort. Results on scans of another site are usually lower."
        )
    lines.append(f"Small cohort ({n} scans, {int(study.table['label'].sum())} injured), so the intervals are wide.")
    if not study.external:
        lines.append(
            "The training sets of the folds overlap, so the SD over folds is not a standard error. The best fold is "
            "the best of several tries."
        )
    lines.append("The label comes from one radiology score per scan; disagreement between readers is not modelled.")
    lines.append("For research use only. Not a medical device; not for clinical decisions.")
    return lines


def methods(findings: Findings) -> str:
    """What was computed, as for a supplement of a paper."""
    study, resampling = findings.study, findings.resampling
    parts = [
        "A scan is called injured if its probability is at least the threshold. Metrics are computed from the "
        "confusion matrix and the ranking of the probabilities; 0/0 is reported as undefined.",
        f"Intervals: percentile bootstrap over families, {resampling.draws} draws, seed {resampling.seed}.",
        "Calibration intercept and slope: logistic regression of the label on the logit of the probability, with a "
        "covariance clustered on families. Brier score: mean squared difference between probability and label.",
    ]
    if findings.controls:
        parts.append(
            "Controls: median imputation with missingness flags, standardisation, and class-weighted logistic "
            "regression (C = 1; with 32 or more features, C is chosen on inner folds of families), fitted on the "
            "training part of each fold."
        )
    if findings.permutations:
        parts.append(
            f"Nulls: {findings.permutations} permutations. Families of equal size exchange their labels, and labels "
            "are shuffled within families. One-sided p = (1 + k) / (1 + n), where k of n null values reach the "
            "observed value."
        )
    if study.histories:
        parts.append("Optimism audit: from the metrics of the scored fold recorded after every epoch.")
    return " ".join(parts)


def paper_sentence(findings: Findings) -> str:
    """How the results of the paper relate to these."""
    other = (
        "This run used phantoms, so the comparison says nothing about the method."
        if findings.study.phantom
        else "The injuries of this run are painted, so the comparison says nothing about the method."
        if findings.study.painted
        else "They are from another cohort, unless this one has the same 128 infants of the dHCP."
    )
    return (
        "For orientation only: values as printed in arXiv 2606.02498, Table 2. "
        f"{other} The printed rows are not possible for 74 normal and 54 injured scans, neither as one confusion "
        "matrix nor as means over five stratified folds (see python -m replication.consistency)."
    )


def settings(findings: Findings) -> list[tuple[str, Any]]:
    """Settings and environment of the run, as rows of a table."""
    study = findings.study
    environment = study.environment
    rows: list[tuple[str, Any]] = [(name, _setting(value)) for name, value in study.recipe.items()]
    if version := environment.get("gloresnet"):
        rows.append(
            ("gloresnet", f"{version['version'] or 'unknown version'}, commit {version['commit'] or 'unknown'}")
        )
    packages = environment.get("packages", {})
    if packages:
        rows.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    rows += [(name, environment[name]) for name in ("python", "platform", "num_processes") if environment.get(name)]
    if environment.get("gpus"):
        rows.append(("gpus", ", ".join(environment["gpus"])))
    return rows


def _setting(value: Any) -> str:
    """A setting as printed. A path is cut to its file name, because the folders mean nothing on another machine."""
    return "none" if value is None else Path(str(value)).name if os.sep in str(value) else str(value)

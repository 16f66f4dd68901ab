"""The figures of a report. Each shows units and, where they apply, the number of scans and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .calibration import DECISION_THRESHOLDS, decision_curve, reliability_table, smooth_calibration
from .comparison import Comparison
from .curves import precision_recall_band, precision_recall_points, roc_band, roc_points
from .drawing import BLACK, BLUE, GREY, STYLES, VERMILLION, Drawing, new_figure, styled
from .metrics import METRIC_NAMES
from .optimism import OptimismAudit
from .uncertainty import Interval, Resampling, weighted_screening_metrics

TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "mcc": "MCC",
    "auc": "ROC AUC",
    "average_precision": "Average precision",
    "within_fold_auc": "ROC AUC within folds",
}


def counted(label: Sequence[int]) -> str:
    """The number of scans as a title: "n = 128 scans (54 injured)"."""
    return f"n = {len(label)} scans ({int(np.sum(label))} injured)"


@styled
def roc_figure(
    table: pd.DataFrame, auc: Interval, thresholds: Mapping[str, np.ndarray], resampling: Resampling
) -> Drawing:
    """Pooled ROC curve with its band, the curve of each fold, and the operating point of each threshold."""
    figure, (axes,) = new_figure()
    label, p = table["label"].to_numpy(), table["p_injury"].to_numpy()
    folds = sorted(table["fold"].unique())
    rows: list[pd.DataFrame] = []
    if len(folds) > 1:
        for fold in folds:
            part = table[table["fold"] == fold]
            if part["label"].nunique() == 2:
                points = roc_points(part["label"], part["p_injury"])
                first = "single folds" if not rows else None
                axes.plot(*points.iloc[:, :2].to_numpy().T, color=GREY, linewidth=0.7, alpha=0.6, label=first)
                rows.append(points.assign(curve=f"fold {fold}"))
    band = roc_band(label, p, table["family"], resampling)
    axes.fill_between(band["false_positive_rate"], band["low"], band["high"], color=BLUE, alpha=0.18, linewidth=0)
    points = roc_points(label, p)
    name = f"{'pooled, ' if len(folds) > 1 else ''}AUC {auc:.2f}"
    axes.plot(points["false_positive_rate"], points["sensitivity"], color=BLUE, linewidth=2, label=name)
    for style, (title, threshold) in zip(cycle(STYLES[1:]), thresholds.items(), strict=False):
        at = weighted_screening_metrics(label, p, np.ones((1, len(label))), threshold)
        place = (1 - at["specificity"][0], at["sensitivity"][0])
        look = {"marker": style["marker"], "color": style["color"], "markersize": 7, "markeredgecolor": "white"}
        axes.plot(*place, linestyle="", label=f"threshold {title}", zorder=5, **look)
    _unit_square(axes, "False-positive rate (1 - specificity)", "Sensitivity")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.legend(loc="lower right")
    axes.set_title(counted(label))
    kinds = [points.assign(curve="pooled"), band.assign(curve="band"), *rows]
    caption = "ROC curve, out-of-sample probabilities. Shaded: pointwise 95 % interval over families."
    if rows:
        caption += " Grey: single folds."
    return Drawing("roc", caption, figure, pd.concat(kinds, ignore_index=True))


@styled
def precision_recall_figure(table: pd.DataFrame, average_precision: Interval, resampling: Resampling) -> Drawing:
    """Pooled precision-recall curve with its band, and the precision of an uninformative test."""
    figure, (axes,) = new_figure()
    label, p = table["label"].to_numpy(), table["p_injury"].to_numpy()
    band = precision_recall_band(label, p, table["family"], resampling)
    points = precision_recall_points(label, p)
    axes.fill_between(band["recall"], band["low"], band["high"], color=BLUE, alpha=0.18, linewidth=0)
    name = f"average precision {average_precision:.2f}"
    axes.plot(points["recall"], points["precision"], color=BLUE, linewidth=2, label=name, drawstyle="steps-pre")
    share = label.mean()
    axes.axhline(share, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), label=f"share of injured, {share:.2f}")
    _unit_square(axes, "Recall (sensitivity)", "Precision (PPV)")
    axes.legend(loc="lower left")
    axes.set_title(counted(label))
    data = pd.concat([points.assign(curve="pooled"), band.assign(curve="band")], ignore_index=True)
    caption = (
        "Precision-recall curve of the out-of-sample probabilities. Shaded: pointwise 95 % interval over families."
    )
    return Drawing("precision_recall", caption, figure, data)


@styled
def reliability_figure(table: pd.DataFrame) -> Drawing:
    """Observed share of injured scans by predicted probability: groups of equal size, a smooth curve, all scans."""
    figure, (axes,) = new_figure()
    label, p = table["label"].to_numpy(), table["p_injury"].to_numpy()
    groups = reliability_table(label, p)
    smooth = smooth_calibration(label, p)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), label="perfect calibration")
    axes.plot(smooth["probability"], smooth["observed"], color=VERMILLION, linestyle="--", label="smoothed (lowess)")
    error = groups[["observed_low", "observed_high"]].to_numpy().T
    centre = groups["observed"].to_numpy()
    name = f"groups of {groups['n'].min()} to {groups['n'].max()} scans, 95 % CI"
    axes.errorbar(
        groups["mean_probability"], centre, np.abs(error - centre), fmt="o", color=BLUE, capsize=3, label=name
    )
    for value, up in ((1, True), (0, False)):
        where = p[label == value]
        base = 1.0 if up else 0.0
        axes.plot(where, np.full(len(where), base), "|", color=BLACK, markersize=7, alpha=0.5, clip_on=False)
    _unit_square(axes, "Predicted probability of injury", "Observed share of injured")
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.97))  # class weights push points below the diagonal
    axes.set_title(counted(label))
    data = pd.concat([groups.assign(kind="group"), smooth.assign(kind="smooth")], ignore_index=True)
    caption = (
        "Reliability of the probabilities. Ticks: single scans, injured at the top, normal at the bottom. The Wilson "
        "intervals of the groups assume independent scans."
    )
    return Drawing("reliability", caption, figure, data)


@styled
def decision_figure(table: pd.DataFrame, resampling: Resampling) -> Drawing:
    """Net benefit of acting on the model at thresholds from 0.1 to 0.6, of acting on all scans, and on none."""
    figure, (axes,) = new_figure(4.6, 4.0)
    label = table["label"].to_numpy()
    curve = decision_curve(label, table["p_injury"], table["family"], DECISION_THRESHOLDS, resampling)
    x = curve["threshold"]
    axes.fill_between(x, curve["model_low"], curve["model_high"], color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(x, curve["model"], color=BLUE, linewidth=2, label="model, 95 % CI")
    axes.plot(x, curve["treat_all"], color=VERMILLION, linestyle="--", label="act on all")
    axes.plot(x, curve["treat_none"], color=BLACK, linestyle=":", label="act on none")
    lowest = min(-0.05, float(curve["model_low"].min()))
    axes.set_ylim(max(lowest, -0.3), max(float(curve["model_high"].max()), 0.05) * 1.1)
    axes.set_xlim(x.min(), x.max())
    axes.set_xlabel("Threshold probability of injury for acting")
    axes.set_ylabel("Net benefit (true positives per scan)")
    axes.legend(loc="best")
    axes.set_title(counted(label))
    caption = "Decision curve: true positives minus false positives weighted by the odds of the threshold, per scan."
    return Drawing("decision_curve", caption, figure, curve)


@styled
def folds_figure(folds: Sequence[Mapping[str, Any]], pooled: Mapping[str, Interval]) -> Drawing:
    """Each metric in each fold, its mean and SD over folds, and the pooled value with its interval."""
    figure, (axes,) = new_figure(6.4, 4.0)
    rows = []
    for place, metric in enumerate(METRIC_NAMES):
        values = [(fold["fold"], fold[metric]) for fold in folds if fold[metric] is not None]
        rows += [(metric, f"fold {fold}", value) for fold, value in values]
        numbers = [value for _, value in values]
        shift = np.linspace(-0.12, 0.12, len(numbers)) if len(numbers) > 1 else np.zeros(len(numbers))
        shown = ("single folds", "mean ± SD of folds", "pooled, 95 % CI") if place == 0 else (None, None, None)
        axes.plot(place - 0.12 + shift * 0.6, numbers, "o", color=GREY, markersize=3.5, label=shown[0])
        if len(numbers) > 1:
            mean, sd = np.mean(numbers), np.std(numbers, ddof=1)
            rows += [(metric, "mean", mean), (metric, "sd", sd)]
            axes.errorbar(place + 0.1, mean, sd, fmt="s", color=VERMILLION, markersize=5, capsize=3, label=shown[1])
        interval = pooled[metric]
        if interval.estimate is not None:
            rows += [
                (metric, "pooled", interval.estimate),
                (metric, "low", interval.low),
                (metric, "high", interval.high),
            ]
            value, reach = interval.estimate, None
            if interval.low is not None and interval.high is not None:  # the interval may not contain the estimate
                reach = np.clip([[value - interval.low], [interval.high - value]], 0, None)
            axes.errorbar(place + 0.3, value, reach, fmt="D", color=BLUE, markersize=5, capsize=3, label=shown[2])
    names = [TITLES[metric] for metric in METRIC_NAMES]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_ylim(min(-0.02, *(value for _, kind, value in rows if kind != "sd" and value is not None)) - 0.03, 1.03)
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylabel("Value")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=3)
    sizes = [fold["n"] for fold in folds]
    caption = f"Metrics by fold at threshold 0.5. {len(folds)} folds of {min(sizes)} to {max(sizes)} scans."
    return Drawing("folds", caption, figure, pd.DataFrame(rows, columns=["metric", "kind", "value"]))


@styled
def forest_figure(
    name: str,
    caption: str,
    title: str,
    rows: Sequence[tuple[str, Interval]],
    reference: Interval | None = None,
) -> Drawing:
    """AUCs with intervals, one per line. The interval of ``reference`` (all scans, or the network) is shaded."""
    figure, (axes,) = new_figure(6.6, 1.1 + 0.3 * len(rows))
    data = []
    for place, (row, interval) in enumerate(rows):
        data.append((row, interval.estimate, interval.low, interval.high))
        if interval.estimate is None:
            axes.text(0.02, place, "undefined", va="center", fontsize=8, color=GREY)
            continue
        if interval.low is not None and interval.high is not None:
            axes.plot([interval.low, interval.high], [place, place], color=BLUE, linewidth=1.6, solid_capstyle="butt")
        marker, color = ("D", BLACK) if place == 0 else ("o", BLUE)
        axes.plot(interval.estimate, place, marker=marker, color=color, markersize=6, clip_on=False, zorder=5)
        axes.text(1.03, place, f"{interval:.2f}", va="center", fontsize=8, transform=axes.get_yaxis_transform())
    if reference is not None and reference.low is not None and reference.high is not None:
        axes.axvspan(reference.low, reference.high, color=GREY, alpha=0.15, linewidth=0)
    axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_yticks(range(len(rows)), [row for row, _ in rows])
    axes.set_title(title)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("ROC AUC, 95 % CI over families")
    return Drawing(name, caption, figure, pd.DataFrame(data, columns=["name", "auc", "low", "high"]))


@styled
def null_figure(
    nulls: Mapping[str, np.ndarray], observed: Mapping[str, float], p_values: Mapping[str, float]
) -> Drawing:
    """Histograms of null AUCs, one per line, each with the observed value."""
    figure, _ = new_figure(5.4, 0.7 + 1.0 * len(nulls))
    figure.clear()
    panels = figure.subplots(len(nulls), 1, sharex=True, squeeze=False)[:, 0]
    bins = np.linspace(0, 1, 61)
    for axes, (title, null) in zip(panels, nulls.items(), strict=True):
        defined = null[np.isfinite(null)]
        axes.hist(defined, bins=bins, color="#b9d3e6", edgecolor=BLUE, linewidth=0.4)
        axes.axvline(float(np.mean(defined)), color=BLUE, linestyle=":", linewidth=1.4)
        axes.axvline(observed[title], color=VERMILLION, linewidth=2)
        axes.axvline(0.5, color=GREY, linestyle=(0, (2, 2)), linewidth=0.8)
        text = f"{title}: observed {observed[title]:.3f}, null mean {np.mean(defined):.3f}, {p_said(p_values[title])}"
        axes.set_title(text, fontsize=8, fontweight="normal")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.tick_params(labelsize=8)
    panels[-1].set_xlim(0, 1)
    panels[-1].set_xlabel("Pooled ROC AUC with labels permuted over families")
    data = pd.concat([pd.DataFrame({"model": title, "auc": null}) for title, null in nulls.items()], ignore_index=True)
    caption = (
        f"Permutation nulls ({max(len(null) for null in nulls.values())} permutations). Red: observed; dotted: mean of "
        "the null; dashed: 0.5. A null that is refitted in cross-validation is not centred at 0.5."
    )
    return Drawing("null", caption, figure, data)


@styled
def optimism_figure(audit: OptimismAudit) -> Drawing:
    """Accuracy and AUC of each fold at the unbiased epoch and at the best epoch on the scored fold."""
    figure, panels = new_figure(6.6, 3.6, columns=2)
    unbiased = "epoch chosen on inner scans" if audit.rule == "inner" else "last epoch"
    for axes, metric in zip(panels, ("accuracy", "auc"), strict=True):
        both = audit.folds[[f"honest_{metric}", f"best_{metric}"]].to_numpy(float)
        for row in both:
            axes.plot([0, 1], row, color=GREY, linewidth=0.9, marker="o", markersize=3.5)
        mean = np.nanmean(both, axis=0) if np.isfinite(both).any() else np.array([np.nan, np.nan])
        axes.plot([0, 1], mean, color=VERMILLION, linewidth=2.2, marker="D", markersize=6)
        look: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": VERMILLION, "weight": "bold"}
        for x, value, shift, side in zip((0, 1), mean, (-8, 8), ("right", "left"), strict=True):
            axes.annotate(f"{value:.3f}", (x, value), (shift, 0), ha=side, **look)
        if axes.get_ylim()[1] > 1:
            axes.set_ylim(top=1.02)
        axes.set_title(f"{int(np.isfinite(both).all(axis=1).sum())} folds")
        axes.set_xticks([0, 1], [f"unbiased:\n{unbiased}", "paper's rule:\nbest on scored fold"])
        axes.set_xlim(-0.45, 1.45)
        axes.set_ylabel(TITLES[metric])
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    caption = f"Optimism audit of {len(audit.folds)} folds. Grey: single folds; red: their mean."
    return Drawing("optimism", caption, figure, audit.folds)


@styled
def comparison_figure(comparison: Comparison) -> Drawing:
    """ROC curves of all runs in one plot."""
    figure, (axes,) = new_figure(5.0, 4.6)
    label = comparison.table["label"].to_numpy()
    rows = []
    for style, name in zip(cycle(STYLES), comparison.names, strict=False):
        points = roc_points(label, comparison.probabilities[name])
        line = {"color": style["color"], "linestyle": style["linestyle"]}
        title = f"{name}: {comparison.metrics[name]['auc']:.2f}"
        axes.plot(points["false_positive_rate"], points["sensitivity"], **line, label=title)
        rows.append(points.assign(run=name))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    _unit_square(axes, "False-positive rate (1 - specificity)", "Sensitivity")
    axes.legend(loc="lower right", title="AUC (95 % CI)", title_fontsize=8)
    axes.set_title(counted(label))
    caption = "Pooled ROC curves on the scans that all runs predicted."
    return Drawing("comparison_roc", caption, figure, pd.concat(rows, ignore_index=True))


def p_text(p: float) -> str:
    """A p-value with three decimals, never 0: "0.012" or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_said(p: float) -> str:
    """A p-value for running text: "p = 0.012" or "p < 0.001"."""
    text = p_text(p)
    return f"p {text}" if text[0] == "<" else f"p = {text}"


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y, aspect="equal")

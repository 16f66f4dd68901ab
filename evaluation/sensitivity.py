"""Measure what size and contrast of painted injuries a model finds, on a painted cohort. Never clinical evidence.

    python predict.py data/painted --model FOLDER --output predictions.csv
    python -m evaluation.sensitivity data/painted predictions.csv --output sensitivity

The unpainted copies set the threshold: the lowest at which the stated share of them is called normal. The intervals
come from a bootstrap of families that sets the threshold again in each draw. Writes `sensitivity.md`, `sensitivity.csv`
and `figures/sensitivity.*`. Exit status: 0 written, 1 the files cannot be used, 2 wrong call.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m evaluation.sensitivity")

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from machine.programs import FAILED, end_if_missing

PROGRAM = "python -m evaluation.sensitivity"
SPECIFICITY = 0.9


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("painted", type=Path, help="a painted cohort")
    parser.add_argument("predictions", type=Path, help="predictions.csv of predict.py for all its scans, or of a run")
    parser.add_argument("--places", type=Path, help="table of places that the model names, see read_painted")
    parser.add_argument("--specificity", type=float, default=SPECIFICITY, help=f"default {SPECIFICITY:g}")
    parser.add_argument("--output", type=Path, default=Path("sensitivity"), help="folder, default sensitivity")
    options = parser.parse_args(argv)
    if not options.painted.is_dir():
        parser.error(f"{options.painted} is not a folder: give a painted cohort")
    if not 0 < options.specificity < 1:
        parser.error(f"--specificity is {options.specificity:g}: choose one between 0 and 1")
    return options


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    given = parse_arguments()
    end_if_missing(PROGRAM, [given.predictions, given.places], FAILED)

from dataclasses import replace
from itertools import cycle

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from cohort.painted import KINDS
from machine.programs import run_program
from run_folder.files import InputError, write_text
from run_folder.tables import csv_text

from .drawing import GREY, STYLES, Drawing, new_figure, save_drawing, styled
from .painted import read_painted
from .uncertainty import DEFAULT_RESAMPLING, Resampling, bootstrap_weights, percentile_interval

FEWEST_NORMAL = 20  # with fewer unpainted scans, the threshold hangs on one or two of them
NOTE = (
    "A program painted the injuries into normal scans. These figures show which painted injuries are found; they are "
    "never clinical evidence: real injuries look different, and injured infants differ in other ways."
)


def sensitivity_curve(
    table: pd.DataFrame, specificity: float = SPECIFICITY, resampling: Resampling = DEFAULT_RESAMPLING
) -> pd.DataFrame:
    """The share of painted scans that are called, by kind, size and contrast, at a stated specificity.

    Args:
        table: of `read_painted`.
        specificity: share of the unpainted scans that must be called normal, in (0, 1).
        resampling: bootstrap of families; the threshold is set again in each draw.

    Returns:
        One row per kind and size, and per kind, size and contrast: `kind`, `size` (mm, or times the volume), `contrast`
        (NaN: all), `scans`, `families`, `threshold` (called if p_injury is above), `specificity` reached, `sensitivity`
        with `low` and `high` (Wilson's over families for 0 and 1), and `named` (share whose most probable place names
        an injury, NaN if unknown).

    Raises:
        InputError: there is no unpainted or no painted scan, or the specificity is out of range.
    """
    if not 0 < specificity < 1:
        raise InputError(f"The specificity is {specificity:g}: choose one between 0 and 1.")
    painted = table["kind"].to_numpy() != "none"
    if painted.all() or not painted.any():
        raise InputError("Sensitivity needs painted scans and unpainted ones; one of the two is missing.")
    p = table["p_injury"].to_numpy(dtype=float)
    weights = bootstrap_weights(table["family"], resampling)
    thresholds = _thresholds(p[~painted], weights[:, ~painted], specificity)
    reached = float((p[~painted] <= thresholds[0]).mean())
    rows = []
    for kind, size, contrast, chosen in _groups(table):
        called = p[None, chosen] > thresholds[:, None]
        total = weights[:, chosen].sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = np.where(total > 0, (weights[:, chosen] * called).sum(axis=1) / total, np.nan)
        draws[np.isnan(thresholds)] = np.nan
        interval = percentile_interval(float(draws[0]), draws[1:], resampling)
        families = int(table.loc[chosen, "family"].nunique())
        if interval.estimate in (0.0, 1.0):  # a bootstrap of equal answers would have no width
            wilson = binomtest(round(interval.estimate) * families, families).proportion_ci(resampling.level, "wilson")
            bounds = (interval.low, interval.high)
            low = min(wilson.low, *(bound for bound in bounds if bound is not None))
            high = max(wilson.high, *(bound for bound in bounds if bound is not None))
            interval = replace(interval, low=low, high=high)
        rows.append(
            {
                "kind": kind,
                "size": size,
                "contrast": contrast,
                "scans": int(chosen.sum()),
                "families": families,
                "threshold": float(thresholds[0]),
                "specificity": reached,
                "sensitivity": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "named": table.loc[chosen, "named"].mean() if "named" in table.columns else np.nan,
            }
        )
    return pd.DataFrame(rows).astype({"sensitivity": float, "low": float, "high": float})


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, float, float, np.ndarray]]:
    """(kind, size, contrast or NaN for all, which rows), sizes and contrasts ascending."""
    size = table["diameter_mm"].fillna(table["volume_factor"].round(1))
    for kind in KINDS:
        of_kind = table["kind"] == kind
        for value in sorted(size[of_kind].unique()):
            chosen = of_kind & (size == value)
            yield kind, float(value), np.nan, chosen.to_numpy()
            contrasts = sorted(table.loc[chosen, "contrast"].dropna().unique())
            if kind != "cyst" and len(contrasts) > 1:  # the contrast of cysts is that of the CSF
                for contrast in contrasts:
                    yield kind, float(value), float(contrast), (chosen & (table["contrast"] == contrast)).to_numpy()


def _thresholds(p: np.ndarray, weights: np.ndarray, specificity: float) -> np.ndarray:
    """For each row of weights the lowest probability at or below which the stated share of the scans lies (draws,)."""
    order = np.argsort(p, kind="stable")
    below = np.cumsum(weights[:, order], axis=1)
    total = below[:, -1:]
    enough = below >= specificity * total - 1e-9
    return np.where(total[:, 0] > 0, p[order][enough.argmax(axis=1)], np.nan)


@styled
def sensitivity_figure(curve: pd.DataFrame, specificity: float = SPECIFICITY) -> Drawing:
    """One panel per kind: sensitivity by size, one line per contrast, with 95 % intervals over families."""
    kinds = list(dict.fromkeys(curve["kind"]))
    figure, panels = new_figure(1.2 + 2.9 * len(kinds), 3.4, len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        part = curve[curve["kind"] == kind]
        contrasts = sorted(part["contrast"].dropna().unique())
        lines = contrasts or [np.nan]
        step = 0.02 * max(np.ptp(part["size"]), 0.5)
        for number, (contrast, style) in enumerate(zip(lines, cycle(STYLES), strict=False)):
            line = part[part["contrast"] == contrast] if contrasts else part
            # side by side, so that intervals do not hide each other
            x = line["size"] + step * (number - (len(lines) - 1) / 2)
            gaps = np.array([line["sensitivity"] - line["low"], line["high"] - line["sensitivity"]], dtype=float)
            axes.errorbar(
                x, line["sensitivity"], yerr=np.clip(gaps, 0, None), **style, markersize=4.5, capsize=2, elinewidth=1,
                label=f"{100 * contrast:g} %" if contrasts else None,
            )  # fmt: skip
        axes.axhline(1 - specificity, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
        ticks = sorted(part["size"].unique())
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set(ylim=(-0.03, 1.22), yticks=np.linspace(0, 1, 6))  # room for the legend
        axes.set_xlabel("Volume, times that before" if kind == "ventricles" else "Diameter of the equal sphere (mm)")
        axes.set_title({"bright": "bright spot"}.get(kind, kind))
        if contrasts:
            axes.legend(
                title="contrast", title_fontsize=8, loc="upper left", ncols=len(contrasts), columnspacing=1.0,
                handlelength=2.4, borderaxespad=0.0,
            )  # fmt: skip
    panels[0].set_ylabel(f"Sensitivity at a specificity of {100 * specificity:g} %, 95 % CI")
    caption = (
        f"Painted injuries, never clinical evidence. Share of painted scans called at the threshold at which "
        f"{100 * specificity:g} % of the unpainted scans are called normal. Dashed line: what chance would call."
    )
    return Drawing("sensitivity", caption, figure, curve)


def markdown(curve: pd.DataFrame) -> str:
    """The curve as a Markdown table."""
    named = bool(curve["named"].notna().any())
    head = [
        "kind",
        "size",
        "contrast",
        "scans",
        "families",
        "sensitivity (95 % CI)",
        *(["place named"] if named else []),
    ]
    lines = [head, ["---"] * len(head)]
    for row in curve.to_dict("records"):
        unit = " x" if row["kind"] == "ventricles" else " mm"
        contrast = "all" if np.isnan(row["contrast"]) else f"{100 * row['contrast']:g} %"
        share = "-" if np.isnan(row["sensitivity"]) else f"{row['sensitivity']:.2f}"
        interval = "" if np.isnan(row["low"]) else f" ({row['low']:.2f} to {row['high']:.2f})"
        cells = [
            row["kind"],
            f"{row['size']:g}{unit}",
            contrast,
            f"{row['scans']}",
            f"{row['families']}",
            share + interval,
        ]
        if named:
            cells.append("-" if np.isnan(row["named"]) else f"{row['named']:.2f}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def threshold_sentence(table: pd.DataFrame, curve: pd.DataFrame) -> str:
    """Which threshold was used, and what it rests on."""
    normal = int((table["kind"] == "none").sum())
    row = curve.iloc[0]
    if np.isnan(row["threshold"]):
        return "There are no probabilities, so there is no threshold."
    few = (
        f" {normal} unpainted scans are few: the threshold hangs on one or two of them."
        if normal < FEWEST_NORMAL
        else ""
    )
    return (
        f"Threshold: p_injury above {row['threshold']:.3f}, at which {row['specificity']:.0%} of the {normal} "
        f"unpainted scans are called normal.{few}"
    )


def write_sensitivity(table: pd.DataFrame, output: Path, specificity: float = SPECIFICITY) -> Path:
    """Write `sensitivity.md`, `sensitivity.csv` and `figures/sensitivity.*`; returns the Markdown file."""
    curve = sensitivity_curve(table, specificity)
    save_drawing(sensitivity_figure(curve, specificity), output / "figures")
    write_text(output / "sensitivity.csv", csv_text(curve))
    said = f"{NOTE} {threshold_sentence(table, curve)} Intervals: bootstrap of {table['family'].nunique()} families."
    if doubted := int(table["doubted"].sum()):
        said += f" Scans with warnings: {doubted} of {len(table)}. Do not rely on these probabilities."
    lines = [
        "# Sensitivity to painted injuries",
        "",
        said,
        "",
        "![sensitivity](figures/sensitivity.png)",
        "",
        markdown(curve),
    ]
    return write_text(output / "sensitivity.md", "\n".join(lines) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module docstring."""
    options = parse_arguments(argv)

    def measure() -> None:
        table = read_painted(options.painted, options.predictions, options.places)
        path = write_sensitivity(table, options.output, options.specificity)
        print(f"{path}: sensitivity to painted injuries, never clinical evidence")

    return run_program(PROGRAM, measure, failed=(InputError, OSError))


if __name__ == "__main__":
    sys.exit(main())

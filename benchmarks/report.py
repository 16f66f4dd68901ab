"""The measurements as Markdown and JSON."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from run_folder.files import write_text

from .contestants import Series


@dataclass
class Measurement:
    """One row of the report.

    Attributes:
        section: number and title of its table.
        what: what was measured.
        seconds: median, minimum and maximum over the turns; None if not measured.
        ratio: speed relative to the reference path, from the medians of the same interleaved turns; 2 is twice as fast.
        target: the target in words, or "" if the row has none.
        reached: whether the target was reached; None without a target.
        note: remarks.
    """

    section: str
    what: str
    seconds: tuple[float, float, float] | None = None
    ratio: float | None = None
    target: str = ""
    reached: bool | None = None
    note: str = ""


def spread(seconds: list[float], share: float = 1) -> tuple[float, float, float]:
    """Median, minimum and maximum, each divided by `share` (the samples per turn)."""
    low, high = min(seconds), max(seconds)
    return statistics.median(seconds) / share, low / share, high / share


def compare(
    section: str, results: dict, targets: dict[str, float], notes: dict[str, str], share: float = 1
) -> list[Measurement]:
    """Compare contestants with the one named `reference`, one row per contestant.

    Args:
        results: as returned by `interleave`.
        targets: name -> smallest acceptable ratio to the reference.
        notes: name -> note.
        share: samples per turn; times are given per sample.
    """
    reference, rows = results["reference"].median, []
    for name, series in results.items():
        if not isinstance(series, Series):
            rows.append(Measurement(section, name, note=series))
            continue
        ratio = reference / series.median
        target = targets.get(name)
        rows.append(
            Measurement(
                section,
                name,
                spread(series.seconds, share),
                ratio,
                f">= {target:g}x" if target else "",
                ratio >= target if target else None,
                notes.get(name, ""),
            )
        )
    return rows


def to_markdown(rows: list[Measurement], machine: dict) -> str:
    """The report: the machine, then one table per section."""
    lines = ["# Measured", "", ", ".join(f"{name} {value}" for name, value in machine.items()) + ".", ""]
    for section in dict.fromkeys(row.section for row in rows):
        lines += [f"## {section}", "", "| what | median (min to max) | x reference | target | reached | note |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in (row for row in rows if row.section == section):
            time = "" if row.seconds is None else "{} ({} to {})".format(*map(in_words, row.seconds))
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            reached = {None: "", True: "yes", False: "**no**"}[row.reached]
            lines.append(f"| {row.what} | {time} | {ratio} | {row.target} | {reached} | {row.note} |")
        lines.append("")
    return "\n".join(lines)


def in_words(seconds: float) -> str:
    """A time with its unit: `123 ms`, `1.23 s` or `12.3 s`."""
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def write(rows: list[Measurement], machine: dict, folder: Path) -> None:
    """Write `benchmarks.md` and `benchmarks.json`."""
    write_text(folder / "benchmarks.md", to_markdown(rows, machine))
    content = {"machine": machine, "rows": [asdict(row) for row in rows]}
    write_text(folder / "benchmarks.json", json.dumps(content, indent=1) + "\n")  # the load may be NaN

"""Rows of the report, as Markdown and JSON."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from .contestants import Series


@dataclass
class Row:
    """One measurement.

    Attributes:
        section: the number and name of the table it stands in.
        what: what was measured.
        seconds: median, smallest and largest over the turns; None where it was not measured.
        ratio: how many times faster than the reference path, by medians of the same interleaved turns.
        target: what is asked for, in words; "" for a row that only compares.
        reached: whether it is; None without a target.
        note: whatever else is to be known.
    """

    section: str
    what: str
    seconds: tuple[float, float, float] | None = None
    ratio: float | None = None
    target: str = ""
    reached: bool | None = None
    note: str = ""


def spread(seconds: list[float], share: float = 1) -> tuple[float, float, float]:
    """Median, smallest and largest, each divided by `share` (the samples of a turn)."""
    return tuple(value / share for value in (statistics.median(seconds), min(seconds), max(seconds)))


def compare(section: str, results: dict, targets: dict[str, float], notes: dict[str, str], share: float = 1) -> list:
    """Rows of contestants beside the one named `reference`.

    Args:
        results: as `interleave` gives them.
        targets: name -> least ratio to the reference.
        notes: name -> note.
        share: samples a turn; times are given for one.
    """
    reference, rows = results["reference"].median, []
    for name, series in results.items():
        if not isinstance(series, Series):
            rows.append(Row(section, name, note=series))
            continue
        ratio = reference / series.median
        target = targets.get(name)
        rows.append(
            Row(
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


def to_markdown(rows: list[Row], machine: dict) -> str:
    lines = ["# Measured", "", ", ".join(f"{name} {value}" for name, value in machine.items()) + ".", ""]
    for section in dict.fromkeys(row.section for row in rows):
        lines += [f"## {section}", "", "| what | median (least to most) | x reference | target | reached | note |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in (row for row in rows if row.section == section):
            time = "" if row.seconds is None else "{} ({} to {})".format(*map(in_words, row.seconds))
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            reached = {None: "", True: "yes", False: "**no**"}[row.reached]
            lines.append(f"| {row.what} | {time} | {ratio} | {row.target} | {reached} | {row.note} |")
        lines.append("")
    return "\n".join(lines)


def in_words(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def write(rows: list[Row], machine: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.md").write_text(to_markdown(rows, machine), encoding="utf-8")
    content = {"machine": machine, "rows": [asdict(row) for row in rows]}
    (folder / "benchmarks.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

"""The paper's tables with our values next to the paper's, as Markdown and CSV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from architectures.cost import cost_table
from architectures.networks import MissingPackageError
from cohort.scans import find_scans, flow
from evaluation import published
from evaluation.figures import TITLES
from evaluation.study import scan_table
from evaluation.table_one import table_one
from evaluation.uncertainty import Interval, paired_auc_difference
from replication.cells import Bench
from replication.measured import CONVERGED, Value, epochs_to_converge, screening_values, train_accuracy
from replication.rows import COMPACT, ROWS, TableRow, compact_rows, with_twins
from run_folder.files import write_text

COLUMNS = {
    2: published.TABLE_2_COLUMNS,
    3: published.TABLE_3_COLUMNS,
    4: published.TABLE_4_COLUMNS,
    5: published.TABLE_5_COLUMNS,
    6: published.TABLE_6_COLUMNS,
}
HEADINGS = {2: "Architectures", 3: "Settings", 4: "Depth", 5: "Initial weights", 6: "Mixup and test-time augmentation"}
NOTES = {
    2: "Only the network differs from GloResNet; folds, mixup, loss, schedule and mirrored view are the same. Networks "
    "start from MedicalNet's weights where these exist. The paper does not say which of these its own baselines used. "
    "Best fold: the fold with the highest AUC. It is chosen on the scans that it is scored on, so it has no interval.",
    3: "I to III: without mixup and without the mirrored view. Our definition of I: each scan is cut into a block of "
    "adjacent patches of the network's input size, at native voxel spacing. Each patch is standardised by itself and "
    "has the label of its scan. Training sees as many patches as it sees volumes in the other settings (fewer epochs). "
    "A scan's probability is the mean over its patches. Folds are drawn again, and families stay together. Peak: the "
    "best fold. It is chosen on the scans that it is scored on, so it has no interval.",
    4: "Without mixup and without the mirrored view. Training accuracy: the model of each fold on its own training "
    "scans, without augmentation.",
    5: f"ResNet-10 without mixup and without the mirrored view. {CONVERGED}",
    6: "Values without the mirrored view (TTA) are read from the same runs; nothing extra is trained.",
}
OWN_TITLES = {
    "train_accuracy": "Training accuracy",
    "epochs_to_converge": "Epochs to converge",
    **{
        f"peak_{name}": f"Peak {title[0].lower() + title[1:] if title[1].islower() else title}"
        for name, title in TITLES.items()
    },
}
LEGEND = (
    "Mean ± SD: over folds. Pooled: over all out-of-fold predictions, with the 95 % interval over families. Paper: the "
    "paper's value. Agrees: whether the paper's value is inside our interval; a dash means nothing to compare."
)


@dataclass(frozen=True)
class Entry:
    """A row with its values, or with the reason why it has none."""

    row: TableRow
    values: dict[str, Value]
    problem: str = ""
    cost: str = ""


def write_table(bench: Bench, number: int) -> Path:
    """Write `table-N.md` and `table-N.csv`. Cells that the table needs are trained first.

    Returns:
        The Markdown file.
    """
    if number == 1:
        return _write_table_1(bench)
    rows = with_twins(ROWS[number](), bench)
    costs = _costs(bench) if number == 2 else {}
    entries = [_entry(bench, row, COLUMNS[number], costs) for row in rows]
    title = f"Table {number}. {HEADINGS[number]}, {bench.cohort}"
    return _write(bench, f"table-{number}", title, entries, COLUMNS[number], [NOTES[number]])


def write_compact(bench: Bench) -> Path:
    """Write `compact.md` and `compact.csv`: the preset within the paper's stated budget and the full network."""
    columns = published.TABLE_2_COLUMNS
    costs = _costs(bench)
    rows = compact_rows(bench)
    entries = [_entry(bench, row, columns, costs) for row in rows]
    notes = [_compared(bench, row) for row in rows[1:]]
    title = f"The compact preset, {bench.cohort}"
    return _write(bench, "compact", title, entries, columns, notes)


def _entry(bench: Bench, row: TableRow, columns: tuple[str, ...], costs: dict[str, str]) -> Entry:
    cost = costs.get(row.cell.architecture, "")
    predictions = bench.predictions(row.cell)
    if predictions is None:
        return Entry(row, {}, bench.problems[row.cell], cost)
    values = screening_values(predictions, row.tta)
    run = bench.folder(row.cell)
    if "train_accuracy" in columns:
        values["train_accuracy"] = train_accuracy(run)
    if "epochs_to_converge" in columns:
        values["epochs_to_converge"] = epochs_to_converge(run)
    start = "best_" if row.best_fold else ""
    return Entry(row, {column: values[start + column] for column in columns}, cost=cost)


def _costs(bench: Bench) -> dict[str, str]:
    """Parameters and multiply-adds of each architecture, ours and the paper's, as a text."""
    size = bench.recipe(COMPACT).image_size
    try:
        rows = cost_table(size)
    except MissingPackageError as error:
        return dict.fromkeys(("vit_base", "swin_unet_encoder", "densenet121"), str(error))
    texts = {}
    for row in rows:
        ours = f"{row['parameters']:,}; {row['gmac']:.2f} GMAC at {size}^3" if row["parameters"] else "-"
        stated = row["paper_parameters_millions"]
        paper = f"; paper {stated} M, {row['paper_gflops']} GFLOPs ({row['discrepancy']})" if stated else ""
        texts[row["architecture"]] = ours + paper
    return texts


def _compared(bench: Bench, row: TableRow) -> str:
    """One sentence that compares the compact preset with another network on the same scans."""
    ours, theirs = bench.predictions(COMPACT), bench.predictions(row.cell)
    if ours is None or theirs is None:
        return f"Compact and {row.title}: not compared, because a run is missing."
    keys = ["participant_id", "session_id", "family", "label"]
    both = ours.merge(theirs, on=keys, suffixes=("", "_other"))
    if both["label"].nunique() < 2:
        return f"Compact and {row.title}: not compared, because all scans are of one class."
    pair = both["p_injury"], both["p_injury_other"]
    found = paired_auc_difference(both["label"], *pair, both["family"])
    difference = found.difference
    holds = difference.low is not None and difference.low > -0.05
    verdict = "excludes" if holds else "does not exclude"
    return (
        f"Compact and {row.title}, paired over {len(both)} scans: AUC {found.auc_a:.3f} and {found.auc_b:.3f}, "
        f"difference {difference}, p = {found.p_value:.3f}. The interval {verdict} a loss of 0.05 (our margin) or more "
        f"{bench.cohort}."
    )


def _write(
    bench: Bench, name: str, title: str, entries: list[Entry], columns: tuple[str, ...], notes: list[str]
) -> Path:
    titles = TITLES | OWN_TITLES
    with_costs = any(entry.cost for entry in entries)
    header = ["", "", *(titles[column] for column in columns), *(["Parameters, multiply-adds"] if with_costs else [])]
    lines = [f"# {title}", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    records = []
    for entry in entries:
        lines += [f"| {' | '.join(cells)} |" for cells in _lines(entry, columns, with_costs)]
        for place, column in enumerate(columns):
            value, printed = entry.values.get(column, Value()), entry.row.paper[place] if entry.row.paper else ""
            records.append(
                {
                    "row": entry.row.title,
                    "run": bench.folder(entry.row.cell).name if entry.values else "",
                    "metric": column,
                    **{key: getattr(value, key) for key in ("mean", "sd", "pooled", "low", "high", "words")},
                    "paper": printed,
                    "agrees": value.agrees(printed),
                    "problem": entry.problem,
                }
            )
    lines += ["", LEGEND, *(line for note in notes for line in ("", note)), *_warnings(bench)]
    write_text(bench.output / f"{name}.csv", pd.DataFrame(records).to_csv(index=False))
    return write_text(bench.output / f"{name}.md", "\n".join(lines) + "\n")


def _warnings(bench: Bench) -> list[str]:
    recipe = bench.recipe(COMPACT)
    lines = [
        "",
        f"Recipe {bench.recipe_name}: {recipe.image_size}^3 voxels, {recipe.num_folds} folds, "
        f"{recipe.num_train_epochs} epochs, selection {recipe.selection}, seed {recipe.seed}.",
    ]
    if Path(bench.recipe_name).stem == "reproduce":
        lines += ["", "This recipe only shows that everything runs. Its values say nothing about the method."]
    if bench.phantom:
        lines += ["", "Computed phantoms, not infants: agreement with the paper's values means nothing here."]
    return lines


def _lines(entry: Entry, columns: tuple[str, ...], with_costs: bool) -> list[list[str]]:
    """The Markdown cells of an entry: means, pooled values, the paper's values, and whether they agree."""
    row = entry.row
    cost, blank = ([entry.cost], [""]) if with_costs else ([], [])
    lines = []
    if entry.values:
        values = [entry.values[column] for column in columns]
        lines.append([row.title, "mean ± SD", *map(_mean, values), *cost])
        lines.append(["", "pooled (95 % CI)", *map(_pooled, values), *blank])
    else:
        lines.append([row.title, "ours", *([entry.problem] + [""] * (len(columns) - 1)), *cost])
    if row.paper:
        lines.append(["", "paper", *row.paper, *blank])
        if entry.values:
            agreement = [entry.values[c].agrees(p) for c, p in zip(columns, row.paper, strict=True)]
            lines.append(["", "agrees", *agreement, *blank])
    return lines


def _mean(value: Value) -> str:
    if value.mean is None:
        return value.words or "undefined"
    text = f"{value.mean:.3f}" + (f" ± {value.sd:.3f}" if value.sd is not None else "")
    return f"{text} ({value.words})" if value.words else text


def _pooled(value: Value) -> str:
    return "-" if value.pooled is None else str(Interval(value.pooled, value.low, value.high, draws=0))


def _write_table_1(bench: Bench) -> Path:
    """Write the cohort next to the paper's. It needs no network."""
    recipe = bench.recipe(COMPACT)
    scans = find_scans(bench.data_dir, bench.labels, brain_mask=recipe.brain_mask, max_birth_age=recipe.max_birth_age)
    used = [scan for scan in scans if scan.status == "used"]
    ours = table_one(scan_table(used))
    injured = sum(scan.label for scan in used)
    count = {"variable": "Scans", "normal": str(len(used) - injured), "injury": str(injured), "test": ""}
    ours = pd.DataFrame([count, *ours.to_dict("records")], dtype=object)
    normal, injury, p_value = _paper_table_1()
    ours["paper_normal"], ours["paper_injury"], ours["paper_p_value"] = (
        [column.get(name, "") for name in ours["variable"]] for column in (normal, injury, p_value)
    )
    header = ["", "Normal", "Injury", "SMD", "p", "Paper: normal", "Paper: injury", "Paper: p"]
    lines = [f"# Table 1. The cohort, {bench.cohort}", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for row in ours.to_dict("records"):
        cells = [row["variable"], row["normal"], row["injury"], _short(row["smd"], 2), _short(row["p_value"], 3)]
        cells += [row["paper_normal"], row["paper_injury"], row["paper_p_value"]]
        lines.append(f"| {' | '.join(cells)} |")
    counted = ", ".join(f"{count} {status}" for status, count in flow(scans).items())
    lines += [
        "",
        f"Scans: {counted}. SMD: standardised mean difference, injury minus normal. The paper's counts are of infants.",
    ]
    write_text(bench.output / "table-1.csv", ours.to_csv(index=False))
    return write_text(bench.output / "table-1.md", "\n".join(lines) + "\n")


def _paper_table_1() -> tuple[dict, dict, dict]:
    titles = {
        "birth_age": "Gestational age at birth (weeks)",
        "birth_weight": "Birth weight (kg)",
        "scan_age": "Post-menstrual age at scan (weeks)",
    }
    counts = published.COHORT
    normal, injury, p_value = {"Scans": str(counts["normal"])}, {"Scans": str(counts["injury"])}, {}
    for name, title in titles.items():
        (mean, sd), (other_mean, other_sd), p = published.TABLE_1[name]
        normal[title], injury[title], p_value[title] = (
            f"{mean:.2f} ± {sd:.2f}",
            f"{other_mean:.2f} ± {other_sd:.2f}",
            f"{p:.3f}",
        )
    males, other_males, p = published.TABLE_1["male"]
    normal["Male"] = f"{males} ({100 * males / counts['normal']:.1f} %)"
    injury["Male"] = f"{other_males} ({100 * other_males / counts['injury']:.1f} %)"
    p_value["Male"] = f"{p:.3f}"
    return normal, injury, p_value


def _short(value: float | None, digits: int) -> str:
    return "-" if value is None or (isinstance(value, float) and np.isnan(value)) else f"{value:.{digits}f}"

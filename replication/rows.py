"""Which cells each table is made of: rows in the paper's order, with what the paper prints in each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from architectures.networks import DEPTHS
from evaluation import published
from replication.cells import Bench, Cell

FULL = Cell(medicalnet=True)  # GloResNet as the paper describes it
BASELINE = Cell(medicalnet=True, mixup=False)
COMPACT = Cell("compact")
ARCHITECTURES = {  # name in Table 2 -> architecture
    "ViT-Base 3D": "vit_base",
    "Swin-UNet encoder": "swin_unet_encoder",
    "3D ResNet-50": "resnet50",
    "3D DenseNet-121": "densenet121",
    "3D ResNet-18": "resnet18",
    "GloResNet, mean": "resnet10",
}
SETTINGS = {
    "I": "I: ResNet-18 from scratch, native patches, no resize",
    "II": "II: I + global resize",
    "III": "III: II with ResNet-10 and MedicalNet's weights",
    "IV": "IV: III + mixup and TTA",
}


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        title: what it is called.
        cell: the run it is read from.
        tta: whether probabilities are those with test-time augmentation.
        paper: what the paper prints, a text for each column; empty where it prints nothing.
        ours: whether the paper has no such setting, so that nothing is compared.
        best_fold: whether it is the best fold alone, chosen on the scored scans.
    """

    title: str
    cell: Cell
    tta: bool = True
    paper: tuple[str, ...] = ()
    ours: bool = False
    best_fold: bool = False


def with_twins(rows: list[TableRow], bench: Bench) -> list[TableRow]:
    """The rows, each that needs weights which cannot be had followed by the same from random weights.

    The twin takes no one's place: it is named for what it is and compared with nothing. A twin that is another row's
    run is left out.
    """
    completed = []
    there = {(row.cell, row.tta) for row in rows}  # a best fold has no twin: its run has one
    for row in rows:
        completed.append(row)
        twin = replace(row.cell, medicalnet=False)
        if row.cell.medicalnet and bench.weights_problem(row.cell) and (twin, row.tta) not in there:
            title = f"{row.title}; random initial weights instead (ours)"
            completed.append(TableRow(title, twin, row.tta, ours=True))
            there.add((twin, row.tta))
    return completed


def table_2() -> list[TableRow]:
    """Everything as for GloResNet but the network; MedicalNet's weights where there are any for it."""
    return [
        TableRow(
            name.replace("GloResNet, mean", "GloResNet"),
            Cell(architecture, medicalnet=architecture in DEPTHS),
            paper=published.TABLE_2_MEANS[name],
        )
        for name, architecture in ARCHITECTURES.items()
    ] + [TableRow(name, FULL, paper=paper, best_fold=True) for name, paper in published.TABLE_2_BEST_FOLD.items()]


def table_3() -> list[TableRow]:
    cells = {
        "I": Cell("resnet18", mixup=False, patches=True),
        "II": Cell("resnet18", mixup=False),
        "III": BASELINE,
        "IV": FULL,
    }
    return [TableRow(SETTINGS[key], cell, key == "IV", published.TABLE_3[key]) for key, cell in cells.items()]


def table_4() -> list[TableRow]:
    return [
        TableRow(f"3D ResNet-{DEPTHS[name]}", Cell(name, medicalnet=True, mixup=False), False, paper)
        for name, paper in published.TABLE_4.items()
    ]


def table_5() -> list[TableRow]:
    return [
        TableRow("Random", Cell(mixup=False), False, published.TABLE_5["random"]),
        TableRow("MedicalNet", BASELINE, False, published.TABLE_5["medicalnet"]),
    ]


def table_6() -> list[TableRow]:
    return [
        TableRow("Baseline: no mixup, no TTA", BASELINE, False, published.TABLE_6["baseline"]),
        TableRow("+ mixup", FULL, False, published.TABLE_6["mixup"]),
        TableRow("+ mixup + TTA", FULL, True, published.TABLE_6["mixup and TTA"]),
    ]


def compact_rows(bench: Bench) -> list[TableRow]:
    """The compact preset beside the full network from random weights, as its own are, and from MedicalNet's."""
    rows = [TableRow("Compact preset, random initial weights", COMPACT, ours=True)]
    rows.append(TableRow("ResNet-10 in full, random initial weights", Cell(), ours=True))
    if not bench.weights_problem(FULL):
        rows.append(TableRow("GloResNet (MedicalNet's weights)", FULL, ours=True))
    return rows


ROWS = {2: table_2, 3: table_3, 4: table_4, 5: table_5, 6: table_6}


def all_cells(bench: Bench) -> list[Cell]:
    """Every cell of all tables once, in the order in which they are asked for."""
    rows = [row for table in ROWS.values() for row in with_twins(table(), bench)] + compact_rows(bench)
    return list(dict.fromkeys(row.cell for row in rows))

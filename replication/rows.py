"""The rows of each table: the cell behind each row, and the values the paper prints, in the paper's order."""

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
    """One row of a table.

    Attributes:
        title: the row's name.
        cell: the run that the values are read from.
        tta: use the probabilities with test-time augmentation.
        paper: the paper's values as printed, one text per column; empty if the paper has none.
        ours: the paper has no such setting, so nothing is compared.
        best_fold: use only the best fold. It is chosen on the scans that it is scored on.
    """

    title: str
    cell: Cell
    tta: bool = True
    paper: tuple[str, ...] = ()
    ours: bool = False
    best_fold: bool = False


def with_twins(rows: list[TableRow], bench: Bench) -> list[TableRow]:
    """Add a twin with random initial weights after each row whose MedicalNet weights are unavailable.

    The row itself stays. Its twin has its own title and is not compared with the paper. A twin that would repeat the
    run of another row is left out.
    """
    completed = []
    present = {(row.cell, row.tta) for row in rows}
    for row in rows:
        completed.append(row)
        twin = replace(row.cell, medicalnet=False)
        if row.cell.medicalnet and bench.weights_problem(row.cell) and (twin, row.tta) not in present:
            title = f"{row.title}; random initial weights instead (ours)"
            completed.append(TableRow(title, twin, row.tta, ours=True))
            present.add((twin, row.tta))  # a best-fold row of the same run gets no second twin
    return completed


def table_2() -> list[TableRow]:
    """All architectures, trained as GloResNet is; MedicalNet's weights where they exist for the architecture."""
    return [
        TableRow(
            name.replace("GloResNet, mean", "GloResNet"),
            Cell(architecture, medicalnet=architecture in DEPTHS),
            paper=published.TABLE_2_MEANS[name],
        )
        for name, architecture in ARCHITECTURES.items()
    ] + [TableRow(name, FULL, paper=paper, best_fold=True) for name, paper in published.TABLE_2_BEST_FOLD.items()]


def table_3() -> list[TableRow]:
    """The paper's settings I to IV, from native patches to the full method."""
    cells = {
        "I": Cell("resnet18", mixup=False, patches=True),
        "II": Cell("resnet18", mixup=False),
        "III": BASELINE,
        "IV": FULL,
    }
    return [TableRow(SETTINGS[key], cell, key == "IV", published.TABLE_3[key]) for key, cell in cells.items()]


def table_4() -> list[TableRow]:
    """ResNets of different depths."""
    return [
        TableRow(f"3D ResNet-{DEPTHS[name]}", Cell(name, medicalnet=True, mixup=False), False, paper)
        for name, paper in published.TABLE_4.items()
    ]


def table_5() -> list[TableRow]:
    """Random and MedicalNet's initial weights."""
    return [
        TableRow("Random", Cell(mixup=False), False, published.TABLE_5["random"]),
        TableRow("MedicalNet", BASELINE, False, published.TABLE_5["medicalnet"]),
    ]


def table_6() -> list[TableRow]:
    """Mixup and test-time augmentation, added one after the other."""
    return [
        TableRow("Baseline: no mixup, no TTA", BASELINE, False, published.TABLE_6["baseline"]),
        TableRow("+ mixup", FULL, False, published.TABLE_6["mixup"]),
        TableRow("+ mixup + TTA", FULL, True, published.TABLE_6["mixup and TTA"]),
    ]


def compact_rows(bench: Bench) -> list[TableRow]:
    """The compact preset and the full network from random weights, and the latter from MedicalNet's if available."""
    rows = [TableRow("Compact preset, random initial weights", COMPACT, ours=True)]
    rows.append(TableRow("ResNet-10 in full, random initial weights", Cell(), ours=True))
    if not bench.weights_problem(FULL):
        rows.append(TableRow("GloResNet (MedicalNet's weights)", FULL, ours=True))
    return rows


ROWS = {2: table_2, 3: table_3, 4: table_4, 5: table_5, 6: table_6}


def all_cells(bench: Bench) -> list[Cell]:
    """Every cell of all tables, without repeats, in the order in which the tables use them."""
    rows = [row for table in ROWS.values() for row in with_twins(table(), bench)] + compact_rows(bench)
    return list(dict.fromkeys(row.cell for row in rows))

"""Style and saving of all figures. They can be read with colour blindness and in greyscale."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from run_folder.files import replacing
from run_folder.tables import csv_text

# Okabe & Ito's palette (DOI 10.1038/nmeth.1618); lines also differ in dash and marker
BLACK, BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE = (
    "#000000",
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
)
GREY = "#767676"
STYLES: list[dict[str, Any]] = [
    {"color": BLUE, "linestyle": "-", "marker": "o"},
    {"color": VERMILLION, "linestyle": "--", "marker": "s"},
    {"color": GREEN, "linestyle": "-.", "marker": "^"},
    {"color": PURPLE, "linestyle": ":", "marker": "D"},
    {"color": BLACK, "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": ORANGE, "linestyle": (0, (8, 2)), "marker": "P"},
    {"color": SKY, "linestyle": (0, (1, 3)), "marker": "X"},
]
SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": 200,
    "svg.hashsalt": "gloresnet",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


styled = matplotlib.rc_context(SETTINGS)  # a decorator: texts and legends take their style when they are created


@dataclass(frozen=True)
class Drawing:
    """A finished figure: file name without extension, caption, figure, and the numbers it shows."""

    name: str
    caption: str
    figure: Figure
    data: pd.DataFrame


def new_figure(width: float = 4.6, height: float = 4.0, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure (size in inches) and its axes, without pyplot, so that it needs no closing. Call it inside `styled`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def save_drawing(drawing: Drawing, folder: Path) -> str:
    """Write NAME.svg, .pdf, .png and .csv (the numbers shown), each atomically. The same input gives the same bytes.

    Returns:
        The SVG as a ``data:`` URL, so that a page can contain the figure.
    """
    contents = {kind: rendered(drawing.figure, kind) for kind in ("svg", "pdf", "png")}
    contents["csv"] = csv_text(drawing.data).encode("utf-8")
    for kind, content in contents.items():
        with replacing(folder / f"{drawing.name}.{kind}") as temporary:
            temporary.write_bytes(content)
    return "data:image/svg+xml;base64," + base64.b64encode(contents["svg"]).decode("ascii")


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as the bytes of a file without a date. The first rendering fixes the layout."""
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    buffer = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format=kind, metadata=undated)
    figure.set_layout_engine("none")
    return buffer.getvalue()

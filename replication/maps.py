"""Grad-CAM of all architectures for the same cases, and the mean map per class, on the common input grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from cohort.folds import fold_scans, read_splits
from evaluation.drawing import Drawing, new_figure, styled
from explanation.baseline_maps import explain_baseline, last_map
from replication.cells import Bench
from replication.measured import run_volumes
from replication.rows import TableRow
from run_folder.files import InputError
from screening.loading import load_pytorch_model

CASES = {  # chosen by the out-of-fold probability of the first network
    "injury, surest hit": (1, "idxmax"),
    "injury, worst miss": (1, "idxmin"),
    "normal, surest": (0, "idxmin"),
    "normal, worst alarm": (0, "idxmax"),
}


class Maps(NamedTuple):
    """Maps of one network.

    Attributes:
        cases: the map (S, S, S) of each chosen scan, by participant and session.
        means: the mean map (S, S, S) of each class, over its held-out scans.
        edge: edge of the network's own map before interpolation, voxels.
    """

    cases: dict[tuple[str, str], np.ndarray]
    means: dict[int, np.ndarray]
    edge: int


def gradcam_figures(bench: Bench, rows: Sequence[TableRow], titles: Sequence[str]) -> list[Drawing]:
    """Draw both figures. The maps of a scan come from the models that did not see it.

    Args:
        rows: one row per network. The first one decides which cases are shown.
        titles: a short title per row.

    Raises:
        InputError: the runs hold out different scans.
    """
    predictions = bench.predictions(rows[0].cell)
    chosen = {}
    for title, (label, which) in CASES.items():
        of_class = predictions[predictions["label"] == label]["p_injury"]
        if len(of_class):
            row = predictions.loc[getattr(of_class, which)()]
            chosen[title] = (row["participant_id"], row["session_id"])
    volumes: dict = {}
    found = [network_maps(bench, row, set(chosen.values()), volumes) for row in rows]
    size = next(iter(volumes.values())).shape[0]
    note = (
        "Each map is scaled to 0 to 1, so it says nothing about how strong the evidence is. The networks' own maps, "
        f"before interpolation to {size}^3, have "
        + ", ".join(f"{maps.edge}^3 ({title})" for title, maps in zip(titles, found, strict=True))
        + " voxels; a map of 1^3 is flat and points nowhere. Empty: no evidence for injury."
    )
    return [
        _case_figure(bench, rows, titles, chosen, found, volumes, note),
        _mean_figure(titles, found, volumes, note),
    ]


def network_maps(bench: Bench, row: TableRow, wanted: set[tuple[str, str]], volumes: dict) -> Maps:
    """One network's maps of every held-out scan. Adds the cases' volumes, and class means as 0 and 1, to `volumes`."""
    run = bench.run(row.cell)
    splits = read_splits(run.splits)
    cases: dict[tuple[str, str], np.ndarray] = {}
    sums: dict[int, np.ndarray] = {}
    backgrounds: dict[int, np.ndarray] = {}
    counts, edge = {0: 0, 1: 0}, 0
    for fold in range(splits["num_folds"]):
        model, processor = load_pytorch_model(str(run.fold(fold).model))
        scans, standardised = run_volumes(run, processor)
        number = {scan: index for index, scan in enumerate(scans)}
        edge = edge or _edge(model, processor.image_size)
        _, held_out = fold_scans(splits, scans, fold)
        for scan in tqdm(held_out, desc=f"{row.cell.architecture}, fold {fold}", unit="scan", disable=None):
            pixel_values = standardised[number[scan]]["pixel_values"][None]
            heat = explain_baseline(model, pixel_values.to(model.device))[0].cpu().numpy()
            sums[scan.label] = sums.get(scan.label, 0) + heat
            backgrounds[scan.label] = backgrounds.get(scan.label, 0) + pixel_values[0, 0].numpy()
            counts[scan.label] += 1
            key = (scan.participant_id, scan.session_id)
            if key in wanted:
                cases[key] = heat
                volumes[key] = pixel_values[0, 0].numpy()
    if missing := wanted - cases.keys():
        raise InputError(f"{run} did not predict {len(missing)} of the cases shown: the runs are of different cohorts.")
    for label, total in backgrounds.items():
        volumes.setdefault(label, total / counts[label])
    return Maps(cases, {label: total / counts[label] for label, total in sums.items()}, edge)


def _edge(model, size: int) -> int:
    return max(1, round(size / last_map(model).step))


@styled
def _case_figure(bench, rows, titles, chosen, found, volumes, note) -> Drawing:
    table = {row.cell: bench.predictions(row.cell).set_index(["participant_id", "session_id"]) for row in rows}
    figure, panels = _grid(len(chosen), len(rows) + 1)
    data = []
    for line, (title, key) in zip(panels, chosen.items(), strict=True):
        _slice(line[0], volumes[key])
        line[0].set_ylabel(title, fontsize=7.5)
        for axes, row, name, maps in zip(line[1:], rows, titles, found, strict=True):
            _slice(axes, volumes[key], maps.cases[key])
            probability = float(table[row.cell].loc[key, "p_injury"])
            axes.set_xlabel(f"p = {probability:.2f}{_shape(maps.cases[key])}", fontsize=7.5)
            centre = centre_of_mass(maps.cases[key])
            data.append({"case": title, "model": name, "p_injury": probability, **centre})
    for axes, name in zip(panels[0], ["scan", *titles], strict=True):
        axes.set_title(_broken(name), fontsize=7.5, loc="center")
    caption = (
        "Grad-CAM for injury, middle axial slice of the network's input; the infant's right side is at the right. "
        f"Cases are chosen by the out-of-fold probability of {rows[0].title}. Maps and probabilities come from the "
        f"model that did not see the scan. {note}"
    )
    return Drawing("gradcam_cases", caption, figure, pd.DataFrame(data))


@styled
def _mean_figure(titles, found, volumes, note) -> Drawing:
    names = {0: "normal", 1: "injury"}
    labels = [label for label in names if label in volumes]
    figure, panels = _grid(len(labels), len(titles) + 1)
    data = []
    for line, label in zip(panels, labels, strict=True):
        _slice(line[0], volumes[label])
        line[0].set_ylabel(f"mean of {names[label]}", fontsize=7.5)
        for axes, name, maps in zip(line[1:], titles, found, strict=True):
            _slice(axes, volumes[label], maps.means[label])
            data.append({"class": names[label], "model": name, "mean_heat": float(maps.means[label].mean())})
            data[-1] |= centre_of_mass(maps.means[label])
            # the correlation of a map that is flat up to rounding is undefined
            if len(labels) == 2 and min(np.ptp(m) for m in maps.means.values()) > 1e-6:
                both = np.corrcoef(maps.means[0].ravel(), maps.means[1].ravel())
                data[-1]["correlation_of_classes"] = float(both[0, 1])
    for axes, name in zip(panels[0], ["mean scan", *titles], strict=True):
        axes.set_title(_broken(name), fontsize=7.5, loc="center")
    caption = (
        "Mean Grad-CAM maps for injury over the held-out scans of each class, middle axial slice. Every scan is "
        f"stretched to the same cube; the heads are not registered. {note}"
    )
    return Drawing("gradcam_means", caption, figure, pd.DataFrame(data))


def centre_of_mass(heat: np.ndarray) -> dict[str, float]:
    """Centre of mass of a map along R, A and S, as a fraction of the edge (0.5 is the middle); NaN for an empty map."""
    total = float(heat.sum())
    centre = {}
    for axis, name in enumerate("RAS"):
        at = (np.arange(heat.shape[axis]) + 0.5) / heat.shape[axis]
        along = heat.sum(axis=tuple(other for other in range(3) if other != axis))
        centre[f"centre_{name}"] = float(at @ along / total) if total > 0 else float("nan")
    return centre


def _grid(lines: int, columns: int):
    figure, _ = new_figure(1.25 * columns + 0.3, 1.5 * lines + 0.5)
    figure.clear()
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes in panels.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure, panels


def _slice(axes, volume: np.ndarray, heat: np.ndarray | None = None) -> None:
    """Draw the middle axial slice, anterior up, right at the right. The map on top is transparent where it is low."""
    middle = volume.shape[2] // 2
    low, high = np.quantile(volume[:, :, middle], [0.01, 0.99])
    axes.imshow(volume[:, :, middle].T, origin="lower", cmap="gray", vmin=low, vmax=high)
    if heat is not None:
        part = heat[:, :, middle].T
        axes.imshow(part, origin="lower", cmap="inferno", vmin=0, vmax=1, alpha=np.clip(0.65 * part, 0, 1))


def _shape(heat: np.ndarray) -> str:
    """A remark on a map that shows no location, else an empty text."""
    return ", empty" if heat.max() == 0 else ", flat" if np.ptp(heat) < 1e-4 else ""


def _broken(name: str) -> str:
    name = name.removeprefix("3D ").removesuffix(" (ours)")
    return name.replace(" ", "\n", 1) if len(name) > 12 else name

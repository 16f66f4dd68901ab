"""The paper's figures, from the runs of Table 2: ROC curves, t-SNE of the features, Grad-CAM of all architectures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.lines import Line2D
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import roc_auc_score, silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cohort.folds import fold_scans, read_splits
from cohort.scans import Scan
from evaluation.curves import roc_band, roc_points
from evaluation.drawing import BLACK, GREY, STYLES, Drawing, new_figure, save_drawing, styled
from evaluation.figures import counted
from evaluation.uncertainty import bootstrap_metrics
from replication.cells import Bench, Cell
from replication.maps import gradcam_figures
from replication.measured import run_volumes
from replication.rows import COMPACT, FULL, TableRow, table_2, with_twins
from run_folder.files import InputError, write_text
from run_folder.layout import RunFolder
from screening.loading import load_pytorch_model

NEIGHBOURS = 5
SCORES = {
    "silhouette": "silhouette",
    "silhouette_training": "silhouette of training scans",
    "knn_auc": "kNN AUC",
    "logistic_auc": "logistic AUC",
}
PROVES = (
    "t-SNE proves nothing: it can show clusters in noise and hide clusters in data. The scores are measured in the "
    "full feature space, on scans that the model did not see."
)


def write_figure(bench: Bench, name: str) -> Path:
    """Write `figures/NAME.*` and `figure-NAME.md`, its caption. Cells that the figure needs are trained first.

    Returns:
        The Markdown file.
    """
    drawings, notes = FIGURES[name](bench)
    lines = [f"# Figure: {TITLES[name]}, {bench.cohort}", ""]
    for drawing in drawings:
        save_drawing(drawing, bench.output / "figures")
        lines += [f"![{drawing.name}](figures/{drawing.name}.png)", "", drawing.caption, ""]
    lines += [line for note in notes for line in (note, "")]
    return write_text(bench.output / f"figure-{name}.md", "\n".join(lines))


def shown_rows(bench: Bench) -> tuple[list[TableRow], list[str]]:
    """The rows of Table 2 and the compact preset that have a run, and a note for each row without one."""
    rows = [
        *(row for row in with_twins(table_2(), bench) if not row.best_fold),
        TableRow("Compact preset (ours)", COMPACT, ours=True),
    ]
    finished = [row for row in rows if bench.run(row.cell) is not None]
    missing = [f"Not shown: {row.title} ({bench.problems[row.cell]})." for row in rows if row not in finished]
    return finished, missing


def main_row(bench: Bench) -> TableRow | None:
    """GloResNet, or ResNet-10 from random weights if MedicalNet's are unavailable. None if neither is trained."""
    if bench.run(FULL) is not None:
        return TableRow("GloResNet", FULL)
    twin = TableRow("GloResNet; random initial weights instead (ours)", Cell(), ours=True)
    return twin if bench.run(Cell()) is not None else None


def short(title: str) -> str:
    """A row's title, shortened for a legend or a panel."""
    return title.replace("; random initial weights instead (ours)", "*").replace(" encoder", "")


@styled
def roc(bench: Bench) -> tuple[list[Drawing], list[str]]:
    """Pooled out-of-fold ROC curves of all architectures, with a band around GloResNet's. Returns figures and notes."""
    rows, missing = shown_rows(bench)
    if not rows:
        return [], missing
    figure, (axes,) = new_figure(7.6, 4.4)
    main, data, label = main_row(bench), [], None
    for style, row in zip(cycle(STYLES), rows, strict=False):
        table = bench.predictions(row.cell)
        label = table["label"].to_numpy()
        points = roc_points(label, table["p_injury"])
        auc = bootstrap_metrics(label, table["p_injury"], table["family"])["auc"]
        line = {"color": style["color"], "linestyle": style["linestyle"]}
        if main and row.cell == main.cell:
            band = roc_band(label, table["p_injury"], table["family"])
            span = band["false_positive_rate"], band["low"], band["high"]
            axes.fill_between(*span, color=style["color"], alpha=0.15, linewidth=0)
            line["linewidth"] = 2.4
            data.append(band.assign(model=f"{row.title}, band"))
        title = f"{short(row.title)}: {auc:.2f}"
        axes.plot(points["false_positive_rate"], points["sensitivity"], **line, label=title)
        data.append(points.assign(model=row.title, auc=auc.estimate, auc_low=auc.low, auc_high=auc.high))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel="False-positive rate (1 - specificity)", ylabel="Sensitivity")
    axes.legend(
        loc="center left", bbox_to_anchor=(1.02, 0.5), title="Pooled AUC (95 % CI)", title_fontsize=8, handlelength=4
    )
    axes.set_title(counted(label) + (", computed phantoms" if bench.phantom else ""))
    caption = (
        "ROC curves of the out-of-fold probabilities of every architecture, pooled over all folds. Shaded: the "
        "pointwise 95 % interval of GloResNet's curve over families. The paper compares GloResNet's best fold with the "
        "means of the others. *: random initial weights, because MedicalNet's were unavailable."
    )
    return [Drawing("roc", caption, figure, pd.concat(data, ignore_index=True))], missing


@styled
def tsne(bench: Bench) -> tuple[list[Drawing], list[str]]:
    """t-SNE of all scans in the features of one fold's model, held-out scans marked; class separation on all folds."""
    row = main_row(bench)
    if row is None:
        return [], [f"Not drawn: {bench.problems[Cell()]}."]
    run = bench.run(row.cell)
    splits = read_splits(run.splits)
    scores, first = [], None
    for fold in range(splits["num_folds"]):
        scans, features = fold_features(run, fold)
        train, held_out = fold_scans(splits, scans, fold)
        first = first or (scans, features, set(held_out))
        scores.append({"fold": fold, **separation(scans, features, train, held_out)})
    scores = pd.DataFrame(scores)
    scans, features, held_out = first
    perplexity = max(2.0, min(30.0, (len(scans) - 1) / 3))
    seed = bench.recipe(row.cell).seed
    scaled = StandardScaler().fit_transform(features)
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(scaled)
    table = pd.DataFrame(
        {
            "x": places[:, 0],
            "y": places[:, 1],
            "label": [scan.label for scan in scans],
            "radiology_score": [scan.radiology_score for scan in scans],
            "scan_age": [np.nan if scan.scan_age is None else scan.scan_age for scan in scans],
            "fold": [splits["participants"][scan.participant_id]["fold"] for scan in scans],
            "held_out": [scan in held_out for scan in scans],
        }
    )
    mean, sd = scores.drop(columns="fold").mean(), scores.drop(columns="fold").std()
    separations = "; ".join(f"{SCORES[name]} {mean[name]:.2f} ± {sd[name]:.2f}" for name in mean.index)
    write_text(bench.output / "figures" / "tsne_separation.csv", scores.to_csv(index=False))
    caption = (
        f"t-SNE (perplexity {perplexity:.0f}, seed {seed}) of the {features.shape[1]} pooled features of {row.title}. "
        "It shows the model of fold 0 only, because the features of different models have no common axes. Large dots "
        f"with a dark edge: the {len(held_out)} scans that this model did not see; small dots: its training scans. "
        f"Separation of the classes, mean ± SD over the models of {len(scores)} folds: {separations}. {PROVES}"
    )
    notes = [
        "Silhouette: of the labels, on the standardised features of the held-out scans (-1 to 1; 0 means no "
        f"separation). kNN AUC: ROC AUC on the held-out scans of the share of injured scans among the {NEIGHBOURS} "
        "nearest training scans. Logistic AUC: the same for a logistic regression with an L2 penalty, fitted to the "
        "training scans. The silhouette of the training scans is shown for comparison; it says little."
    ]
    return [Drawing("tsne", caption, _panels(table, bench), table)], notes


def _panels(table: pd.DataFrame, bench: Bench):
    """Four panels of the same points, coloured by label, radiology score, age and fold."""
    figure, _ = new_figure(8.2, 6.6)
    figure.clear()
    panels = figure.subplots(2, 2).ravel()
    names = {0: "normal", 1: "injury", "": "unknown"}
    for column, axes in {"label": panels[0], "radiology_score": panels[1], "fold": panels[3]}.items():
        handles = []
        for style, value in zip(cycle(STYLES), sorted(table[column].unique()), strict=False):
            look = {"color": style["color"], "marker": style["marker"]}
            _dots(axes, table[table[column] == value], **look)
            name = value if column == "fold" else names.get(value, value)
            handles.append(Line2D([], [], linestyle="", label=name, **look))
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes.set_title(column.replace("_", " ").capitalize())
    known = table["scan_age"].dropna()
    span = (known.min(), known.max()) if len(known) else (0, 1)
    drawn = _dots(panels[2], table, c="scan_age", cmap="cividis", vmin=span[0], vmax=span[1])
    panels[2].set_title("Post-menstrual age at scan (weeks)")
    figure.colorbar(drawn, ax=panels[2], shrink=0.8)
    for axes in panels:
        axes.set(xticks=[], yticks=[])
    figure.suptitle("t-SNE of one model's features" + (", computed phantoms" if bench.phantom else ""), fontsize=9.5)
    return figure


def _dots(axes, part: pd.DataFrame, c: str | None = None, color: str | None = None, **look):
    drawn = None
    for held_out, size, edge, width in ((False, 16, "none", 0.0), (True, 46, BLACK, 0.9)):
        rows = part[part["held_out"] == held_out]
        colours = {"c": rows[c]} if c else {"color": color}
        drawn = axes.scatter(rows["x"], rows["y"], s=size, edgecolors=edge, linewidths=width, **colours, **look)
    return drawn


@torch.inference_mode()
def fold_features(run: RunFolder, fold: int) -> tuple[list[Scan], np.ndarray]:
    """All scans of a run, and their pooled features (n, C) from one fold's model, without the mirrored view."""
    model, processor = load_pytorch_model(str(run.fold(fold).model))
    scans, volumes = run_volumes(run, processor)
    found = []
    for first in range(0, len(scans), 8):
        rows = range(first, min(first + 8, len(scans)))
        batch = torch.stack([volumes[row]["pixel_values"] for row in rows]).to(model.device)
        found.append(model.base_model(batch).pooler_output.float().cpu())
    return scans, torch.cat(found).numpy()


def separation(scans: list[Scan], features: np.ndarray, train: list[Scan], held_out: list[Scan]) -> dict[str, float]:
    """How well a model's features separate the classes, by score; NaN if either part has only one class."""
    row = {scan: number for number, scan in enumerate(scans)}
    x, z = (features[[row[scan] for scan in part]] for part in (train, held_out))
    y, t = (np.array([scan.label for scan in part]) for part in (train, held_out))
    scores = dict.fromkeys(SCORES, np.nan)
    if min(len(set(y)), len(set(t))) < 2:
        return scores
    scale = StandardScaler().fit(x)
    for name, values, labels in (("silhouette", z, t), ("silhouette_training", x, y)):
        if len(labels) > 2:
            scores[name] = float(silhouette_score(scale.transform(values), labels))
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(x)))
    for name, classifier in (("knn_auc", neighbours), ("logistic_auc", LogisticRegression(C=0.01, max_iter=1000))):
        fitted = make_pipeline(StandardScaler(), classifier).fit(x, y)
        scores[name] = float(roc_auc_score(t, fitted.predict_proba(z)[:, 1]))
    return scores


def gradcam(bench: Bench) -> tuple[list[Drawing], list[str]]:
    """Each architecture's maps of the same cases, and its mean map per class. Returns figures and notes."""
    rows, missing = shown_rows(bench)
    main = main_row(bench)
    if main is None:
        return [], missing
    rows = [main, *(row for row in rows if row.cell != main.cell)]
    try:
        return gradcam_figures(bench, rows, [short(row.title) for row in rows]), missing
    except InputError as error:
        return [], [*missing, f"Not drawn: {error}"]


FIGURES: dict[str, Callable[[Bench], tuple[list[Drawing], list[str]]]] = {"roc": roc, "tsne": tsne, "gradcam": gradcam}
TITLES = {
    "roc": "ROC of all architectures",
    "tsne": "t-SNE of the features",
    "gradcam": "Grad-CAM of GloResNet and the baselines",
}

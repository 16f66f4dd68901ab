"""Failure modes: the paper's explanation of its errors, tested on phantoms at 0.5 mm.

The paper says that missed injuries are punctate lesions that the resize smooths away, and that false alarms are motion
artefacts. This module measures sensitivity by lesion type and size; the contrast that a lesion keeps after the resize,
by its diameter and the image size (physics, no network); the change of the network's probability with the lesion's
diameter; sensitivity to single painted spots by diameter and contrast; and false alarms by strength of motion.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from evaluation.drawing import BLUE, GREY, STYLES, VERMILLION, Drawing, new_figure, save_drawing, styled
from evaluation.sensitivity import NOTE, markdown, sensitivity_curve, sensitivity_figure, threshold_sentence
from replication.cells import Bench
from replication.figures import main_row
from replication.phantoms import LESIONS, NATIVE, VOXEL_SIZE, jobs, measure_all
from replication.rows import COMPACT
from run_folder.files import write_text
from run_folder.layout import RunFolder
from screening.loading import load_model

GLOBAL_STREAM = (
    "All answers are those of the global stream alone, without the local stream of this network: it looks for small "
    "lesions in scans, and the phantoms are kept as inputs of the global stream only."
)


def write_errors(bench: Bench, per_kind: int, voxel_size: float = VOXEL_SIZE) -> Path:
    """Measure and write `errors.md`, `errors-*.csv` and `figures/errors.*`.

    Args:
        per_kind: phantoms per injury and severity; there are three times as many normal heads.
        voxel_size: mm. The default is that of dHCP; tests use larger voxels because they are faster.

    Returns:
        The Markdown file.
    """
    recipe = bench.recipe(COMPACT)
    measured = measure_all(
        jobs(per_kind, recipe.image_size, recipe.brain_mask, voxel_size, recipe.framing, recipe.bias_correction),
        bench.output / "phantoms",
    )
    records = pd.DataFrame([record for result in measured.values() for record in result.records])
    row = main_row(bench)
    records["p_injury"] = np.nan
    if row is not None:
        inputs = np.concatenate([result.inputs for result in measured.values()])
        records["p_injury"] = mean_probabilities(bench.run(row.cell), inputs)
    contrasts = pd.DataFrame([entry for result in measured.values() for entry in result.contrasts])
    by_type, response = sensitivity_by_type(records), response_to_diameter(records)
    kept, motion = contrast_kept(contrasts), false_alarms(records)
    tables = {"types": by_type, "contrast": kept, "response": response, "motion": motion}
    painted = painted_spots(records)
    curve = sensitivity_curve(painted)
    tables["painted"] = curve
    for name, table in tables.items():
        write_text(bench.output / f"errors-{name}.csv", table.to_csv(index=False))
    save_drawing(errors_figure(by_type, kept, response, motion, recipe.image_size), bench.output / "figures")

    figure = sensitivity_figure(curve)
    save_drawing(replace(figure, name="errors-painted"), bench.output / "figures")

    network = f"{row.title}, mean over the models of its folds" if row else f"none ({bench.problems})"
    streams = f" {GLOBAL_STREAM}" if row and bench.recipe(row.cell).local_stream == "on" else ""
    small = contrasts[contrasts["diameter"] <= 3].groupby("image_size")["retained"].median()
    lines = [
        f"# Errors: missed lesions and motion; network trained {bench.cohort}",
        "",
        f"Phantoms at {voxel_size:g} mm that no network was trained on ({per_kind} of each injury and severity, "
        f"{3 * per_kind} normal heads). Network: {network}; threshold 0.5; input of {recipe.image_size}^3 voxels. "
        f"For a network trained on other images than phantoms at this voxel size, this is a domain shift.{streams}",
        "",
        "![errors](figures/errors.png)",
        "",
        "## Sensitivity by type and size",
        "",
        _markdown(by_type),
        "",
        "## Contrast of a punctate lesion after the resize",
        "",
        "Noise-free scan with lesions minus the same scan without, resampled as for the network. Retained: the largest "
        "change near each lesion, divided by the lesion's contrast before imaging (1 means that all of it is left; "
        "`no resize` shows what the scanner's own blur leaves). Contrast to noise: the same change, divided by the "
        "noise after the resize. Values are medians over lesions. Vanished: share of lesions that keep less than a "
        "tenth. The resize has no low-pass filter, so chance decides whether a voxel of the resized image hits or "
        "misses a lesion smaller than the voxel spacing. The noise is that of one voxel: interpolation averages it "
        "down, while at native spacing a lesion covers more voxels. Median retained for lesions of 1 to 3 mm: "
        + ", ".join(f"{v:.2f} ({size_name(k)})" for k, v in small.items())
        + ".",
        "",
        _markdown(kept),
        "",
        "## The network's response to punctate lesions",
        "",
        f"Change in probability when {LESIONS} lesions of one diameter are added to the same head with the same noise, "
        f"at {recipe.image_size}^3 only. Other sizes need other networks (`--image_size` and another `--output`).",
        "",
        _markdown(response),
        "",
        "## Sensitivity to painted spots by diameter and contrast",
        "",
        "One dark spot painted into the white matter of each normal head, as `python -m cohort.painted` does with a "
        f"user's own scans. {NOTE} {threshold_sentence(painted, curve)} Few heads give wide intervals.",
        "",
        "![painted spots](figures/errors-painted.png)",
        "",
        markdown(curve),
        "",
        "## False alarms by strength of motion",
        "",
        "The same normal heads with increasing motion artefacts (0 none, 1 strongest). Few heads give wide intervals.",
        "",
        _markdown(motion),
    ]
    return write_text(bench.output / "errors.md", "\n".join(lines) + "\n")


@torch.inference_mode()
def mean_probabilities(run: RunFolder, inputs: np.ndarray, batch_size: int = 8) -> np.ndarray:
    """Probability of injury of standardised volumes (n, S, S, S), averaged over the models of all folds.

    Of a network with a local stream, it is the probability of the global stream.
    """
    total = np.zeros(len(inputs))
    folds = run.existing_folds()
    for fold in folds:
        model, _ = load_model(str(fold.model))
        for first in range(0, len(inputs), batch_size):
            batch = torch.from_numpy(inputs[first : first + batch_size])[:, None].to(model.device)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This model has a local stream", UserWarning)  # errors.md says so
                total[first : first + batch_size] += model.predict_proba(batch)[:, 1].double().cpu().numpy()
    return total / len(folds)


def sensitivity_by_type(records: pd.DataFrame) -> pd.DataFrame:
    """One row per injury and severity: sizes, and the share classified as injured with Wilson's interval."""
    rows = []
    part = records[records["kind"] == "injury"]
    for (injury, severity), group in part.groupby(["injury", "severity"], sort=False):
        low, high = group["size"].min(), group["size"].max()
        size = f"{group['measure'].iloc[0]}: {low:.1f}" + (f" to {high:.1f}" if high > low else "")
        rows.append({"injury": injury, "severity": severity, "size": size, **_share(group["p_injury"], "sensitivity")})
    return pd.DataFrame(rows)


def contrast_kept(contrasts: pd.DataFrame) -> pd.DataFrame:
    """One row per diameter and image size: the contrast retained."""
    groups = contrasts.groupby(["diameter", "image_size"])
    table = groups.agg(
        lesions=("retained", "size"),
        retained=("retained", "median"),
        least=("retained", "min"),
        most=("retained", "max"),
        vanished=("retained", lambda values: float((values < 0.1).mean())),
        contrast_to_noise=("contrast_to_noise", "median"),
    )
    table = table.reset_index().rename(columns={"diameter": "diameter_mm"})
    return table.assign(image_size=[size_name(size) for size in table["image_size"]])


def size_name(size: int) -> str:
    """An image size as it is printed."""
    return "no resize" if size == NATIVE else f"{size}^3"


def response_to_diameter(records: pd.DataFrame) -> pd.DataFrame:
    """One row per diameter: change in probability from the same head without lesions, mean and range over heads."""
    part = records[records["kind"] == "diameter"].pivot(index="head", columns="diameter", values="p_injury")
    change = part.drop(columns=0.0).sub(part[0.0], axis=0)
    rows = [
        {"diameter_mm": d, "heads": len(c), "mean_change": c.mean(), "least": c.min(), "most": c.max()}
        for d, c in change.items()
    ]
    return pd.DataFrame(rows)


def painted_spots(records: pd.DataFrame) -> pd.DataFrame:
    """The normal heads with and without one painted spot, as `evaluation.sensitivity` expects them."""
    plain = records[(records["kind"] == "diameter") & (records["diameter"] == 0)].assign(spot="none")
    table = pd.concat([plain, records[records["kind"] == "painted"].assign(spot="spot")], ignore_index=True)
    diameters = table["diameter"].where(table["spot"] == "spot")
    return pd.DataFrame(
        {"family": table["head"].astype(int).astype(str), "kind": table["spot"], "diameter_mm": diameters}
        | {"contrast": table["contrast"], "volume_factor": np.nan, "p_injury": table["p_injury"]}
    )


def false_alarms(records: pd.DataFrame) -> pd.DataFrame:
    """One row per motion strength: the share of normal heads classified as injured, and their mean probability."""
    groups = records[records["kind"] == "motion"].groupby("motion")["p_injury"]
    return pd.DataFrame([{"motion": motion, **_share(group, "false_positive_rate")} for motion, group in groups])


def _share(probabilities: pd.Series, name: str) -> dict:
    if probabilities.isna().any():
        return {"phantoms": len(probabilities), name: np.nan, "low": np.nan, "high": np.nan, "mean_p": np.nan}
    positive = int((probabilities >= 0.5).sum())
    interval = binomtest(positive, len(probabilities)).proportion_ci(method="wilson")
    share = positive / len(probabilities)
    return {
        "phantoms": len(probabilities), name: share, "low": interval.low, "high": interval.high,
        "mean_p": float(probabilities.mean()),
    }  # fmt: skip


@styled
def errors_figure(
    by_type: pd.DataFrame, kept: pd.DataFrame, response: pd.DataFrame, motion: pd.DataFrame, image_size: int
) -> Drawing:
    """Four panels: sensitivity by type, contrast by diameter, response by diameter, false alarms by motion."""
    figure, _ = new_figure(8.6, 6.8)
    figure.clear()
    ((types, contrast), (change, alarms)) = figure.subplots(2, 2)

    places = np.arange(len(by_type))[::-1]
    _whiskers(types, by_type["sensitivity"], places, by_type, horizontal=True)
    names = by_type["injury"].replace({"cystic_pvl": "cystic PVL", "ivh": "IVH"})
    types.set_yticks(places, names + ", " + by_type["severity"], fontsize=7.5)
    types.set(xlim=(-0.03, 1.03), xlabel=f"Sensitivity at {image_size}^3, 95 % CI", title="By type of lesion")

    for style, (size, part) in zip(cycle(STYLES), kept.groupby("image_size", sort=False), strict=False):
        contrast.plot(part["diameter_mm"], part["retained"], **style, markersize=4, label=size)
    contrast.legend(title="image size", title_fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    contrast.set(ylim=(0, None), xlabel="Diameter of the lesion (mm)", ylabel="Contrast retained (median)")
    contrast.axvspan(1, 3, color=GREY, alpha=0.12, linewidth=0)
    contrast.set_title("After the resize (grey: punctate)")

    change.fill_between(
        response["diameter_mm"], response["least"], response["most"], color=BLUE, alpha=0.18, linewidth=0
    )
    change.plot(response["diameter_mm"], response["mean_change"], color=BLUE, marker="o")
    change.axhline(0, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    change.set(xlabel=f"Diameter of {LESIONS} lesions (mm)", ylabel="Change in probability, mean and range")
    change.set_title(f"The network's response at {image_size}^3")

    _whiskers(alarms, motion["motion"], motion["false_positive_rate"], motion, horizontal=False)
    alarms.plot(
        motion["motion"], motion["mean_p"], color=VERMILLION, linestyle="--", marker="s", label="mean probability"
    )
    alarms.set(ylim=(-0.03, 1.03), xlabel="Strength of motion artefacts", ylabel="False-positive rate, 95 % CI")
    alarms.set_title(f"Normal heads, n = {int(motion['phantoms'].max())}")
    alarms.legend(loc="upper left")
    tables = {"types": by_type, "contrast": kept, "response": response, "motion": motion}
    data = pd.concat([table.assign(panel=name) for name, table in tables.items()], ignore_index=True)
    caption = "Errors on phantoms at 0.5 mm."
    return Drawing("errors", caption, figure, data)


def _whiskers(axes, x, y, table: pd.DataFrame, horizontal: bool) -> None:
    value = x if horizontal else y
    error = np.abs(np.array([table["low"] - value, table["high"] - value], dtype=float))
    where = {"xerr": error} if horizontal else {"yerr": error}
    label = None if horizontal else "false-positive rate"
    axes.errorbar(x, y, **where, fmt="o", color=BLUE, markersize=5, capsize=2, label=label)


def _markdown(table: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(name.replace("_", " ") for name in table.columns) + " |", "|" + "---|" * table.shape[1]]
    for row in table.itertuples(index=False):
        cells = [("-" if np.isnan(v) else f"{v:.3g}") if isinstance(v, float) else str(v) for v in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

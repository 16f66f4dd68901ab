"""Do the heat maps point at the injury? Measured on a phantom cohort, where every lesion is known.

    python -m explanation.localisation runs/NAME

Every injured scan is explained by the one model that never saw its family, and the map is set against the scan's own
lesion mask (cysts, clots, punctate lesions) and, where they are enlarged, against its lateral ventricles. Beside it
stand the same maps of networks with random weights, and the mean map of the other scans, which knows only where
injuries usually lie. Written into the run folder, and never into a model's: `localisation.csv`, a row a scan, region
and map, and `figures/localisation.*`. Exit status: 0 written, 1 the run cannot be used, 2 the call was wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt
from tqdm import tqdm

from cohort.phantom import is_phantom
from cohort.phantom.growth import VENTRICLES
from cohort.phantom.pathology import LESION_NAMES
from evaluation.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    Drawing,
    new_figure,
    save_drawing,
    styled,
)
from evaluation.study import KEYS, read_run
from evaluation.uncertainty import Interval, family_weights, percentile_interval
from explanation.gradcam import METHODS, explain, scan_image
from preprocessing import read_volume
from run_folder.files import InputError, write_text
from run_folder.tables import read_table
from screening.loading import ModelError, load_pytorch_model

MAPS = {  # in the order of tables and figures: title, colour, marker
    "layercam": ("LayerCAM", BLUE, "o"),
    "gradcam": ("Grad-CAM", VERMILLION, "s"),
    "layercam_others": ("LayerCAM, mean of other scans", GREEN, "^"),
    "layercam_random": ("LayerCAM, random weights", PURPLE, "D"),
    "gradcam_random": ("Grad-CAM, random weights", ORANGE, "v"),
}
HIT_DISTANCE_MM = 5.0
FOCAL, VENTRICULAR = "focal lesion", "enlarged ventricles"


def localise(run: Path, seed: int = 0) -> pd.DataFrame:
    """How well each kind of map finds each injury of a run's held-out scans.

    Args:
        run: the folder of a finished run on a phantom cohort.
        seed: of the random weights.

    Returns:
        A row a scan, region and map; see `measure` for what is measured, MAPS for the maps. A region is the
        `focal lesion` mask (`kind` cyst, clot, punctate or several) or the `enlarged ventricles`.

    Raises:
        InputError: the run is unfinished, its cohort is no phantom, or files of it are gone.
        ModelError: a fold's model cannot be loaded.
    """
    table, truth = injured_scans(run)
    cases = []
    for fold, part in table.groupby("fold"):
        model, processor = load_pytorch_model(str(run / f"fold-{fold}" / "model"))
        untrained = random_twin(model, seed + int(fold))
        for row in tqdm(part.to_dict("records"), desc=f"fold {fold}", unit="scan", disable=None):
            masks = {"mask": sibling(row["image"], "desc-brain_mask")} if processor.brain_mask == "required" else {}
            pixel_values = processor(row["image"], return_tensors="pt", **masks)["pixel_values"]
            heat = {method: explain(model, pixel_values, method)[0] for method in METHODS}
            heat |= {f"{method}_random": explain(untrained, pixel_values, method)[0] for method in METHODS}
            cases.append((row, heat))
    rows = []
    total = sum(heat["layercam"] for _, heat in cases)
    for row, heat in cases:
        if len(cases) > 1:
            heat["layercam_others"] = (total - heat["layercam"]) / (len(cases) - 1)
        volume = read_volume(row["image"])
        brain = _stored(sibling(row["image"], "desc-brain_mask")) > 0
        maps = {name: scan_image(values, volume).get_fdata(dtype=np.float32) for name, values in heat.items()}
        spacing = volume.stored_spacing
        own = {key: row[key] for key in (*KEYS, "family", "fold", "p_injury")}
        for region, kind, inside in regions(row, truth):
            distance = distance_transform_edt(~inside, sampling=spacing)
            for name in MAPS:
                if name in maps:
                    found = measure(maps[name], inside, brain, distance)
                    rows.append({**own, "region": region, "kind": kind, "map": name, **found})
    return pd.DataFrame(rows)


def measure(heat: np.ndarray, inside: np.ndarray, brain: np.ndarray, distance: np.ndarray) -> dict[str, float]:
    """One map against one region, all on the scan's own grid.

    Args:
        heat: >= 0.
        inside, brain: masks of the region and of the intracranial space.
        distance: mm from each voxel to the region.

    Returns:
        `energy`, the region's share of the map's sum over the brain; `chance`, its share of the brain's volume;
        `energy_ratio`, the first over the second: 1 for a map that is even over the brain, NaN for one that is 0 there.
        `brain_energy`, the brain's share of the map's sum over the whole field, and `brain_chance`, of its volume.
        `hit` (0 or 1), whether the map's peak lies within 5 mm of the region (the pointing game of Zhang et al. 2018,
        10.1007/s11263-017-1059-x; NaN without a peak), and `hit_chance`, how much of the brain does.
    """
    whole, own = (float(values.sum(dtype=np.float64)) for values in (heat, heat[brain]))
    inside = inside & brain
    chance = inside.sum() / brain.sum()
    energy = heat[inside].sum(dtype=np.float64) / own if own else np.nan
    near = distance <= HIT_DISTANCE_MM
    return {
        "energy": float(energy),
        "chance": float(chance),
        "energy_ratio": float(energy / chance),
        "brain_energy": own / whole if whole else np.nan,
        "brain_chance": float(brain.mean()),
        "hit": float(near.flat[heat.argmax()]) if whole else np.nan,
        "hit_chance": float((near & brain).sum() / brain.sum()),
    }


def injured_scans(run: Path) -> tuple[pd.DataFrame, dict[tuple[str, str], str]]:
    """The injured scans of a run's predictions, and what `truth.tsv` says of each scan's injuries.

    Raises:
        InputError: as `localise`.
    """
    study = read_run(run)
    table = study.table[study.table["label"] == 1]
    root = next((folder for folder in Path(table["image"].iloc[0]).parents if is_phantom(folder)), None)
    if study.phantom is None or root is None:
        raise InputError(
            f"{run} was not trained on a phantom cohort, or it has moved since: where real injuries lie is not known, "
            "give a run on a phantom with its data in place."
        )
    truth = read_table(root / "truth.tsv", (*KEYS, "injuries"), as_text=True)
    for row in table.to_dict("records"):
        for name in ("desc-lesion_mask", "desc-brain_mask", "desc-drawem9_dseg"):
            sibling(row["image"], name)
    return table, {(row["participant_id"], row["session_id"]): row["injuries"] for row in truth.to_dict("records")}


def regions(row: Mapping[str, object], truth: Mapping[tuple[str, str], str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Where a scan is injured: (region, kind, mask in the stored order of axes); atrophy is nowhere in particular."""
    lesions = _stored(sibling(row["image"], "desc-lesion_mask"))
    if lesions.any():
        kinds = [name for value, name in LESION_NAMES.items() if (lesions == value).any()]
        yield FOCAL, " and ".join(kinds), lesions > 0
    if "ventriculomegaly" in truth.get((row["participant_id"], row["session_id"]), ""):
        yield VENTRICULAR, VENTRICULAR, _stored(sibling(row["image"], "desc-drawem9_dseg")) == VENTRICLES


def sibling(image: str, name: str) -> str:
    """The path of what lies beside a phantom's image under another name. Raises InputError when it does not."""
    path = Path(image)
    path = path.with_name(path.name.replace("desc-restore_T2w", name))
    if not path.is_file():
        raise InputError(f"{path} is missing: generate the phantom cohort again.")
    return str(path)


def random_twin(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The same network with weights that have learnt nothing (Adebayo et al. 2018, arXiv 1810.03292)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return type(model)(model.config).to(model.device).eval()


def summarise(table: pd.DataFrame, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """By kind of injury and map: scans, median energy ratio with its interval over families, peaks that hit."""
    groups = [(kind, part) for kind, part in table.groupby("kind", sort=True)]
    focal = table[table["region"] == FOCAL]
    if focal["kind"].nunique() > 1:
        groups.insert(0, (f"any {FOCAL}", focal))
    rows = []
    for kind, part in groups:
        for name in MAPS:
            own = part[part["map"] == name]
            ratio = own["energy_ratio"].dropna()
            interval = median_interval(ratio, own.loc[ratio.index, "family"], draws, seed)
            rows.append(
                {
                    "kind": kind,
                    "map": name,
                    "scans": len(own),
                    "energy_ratio": interval.estimate,
                    "low": interval.low,
                    "high": interval.high,
                    "above_chance": int((ratio > 1).sum()),
                    "brain_energy": own["brain_energy"].median(),
                    "brain_chance": own["brain_chance"].median(),
                    "hits": own["hit"].mean(),
                    "hit_chance": own["hit_chance"].mean(),
                }
            )
    return pd.DataFrame(rows)


def median_interval(values: pd.Series, families: pd.Series, draws: int, seed: int) -> Interval:
    """A median and its percentile interval when whole families are drawn with replacement."""
    if values.empty:
        return Interval(None, None, None, 0)
    counts = family_weights(families, draws, seed).astype(int)
    medians = np.array([np.median(np.repeat(values, count)) if count.any() else np.nan for count in counts])
    return percentile_interval(float(values.median()), medians)


def markdown(summary: pd.DataFrame) -> str:
    """The summary as a Markdown table."""
    heads = ["injury", "map", "scans", "energy ratio, median (95 % CI)", "above 1", "peak within 5 mm (chance)"]
    lines = [[*heads, "heat in the brain (even)"], ["---"] * (len(heads) + 1)]
    for row in summary.to_dict("records"):
        numbers = [None if pd.isna(row[name]) else row[name] for name in ("energy_ratio", "low", "high")]
        interval = Interval(*numbers, draws=0)
        shares = [(row["hits"], row["hit_chance"]), (row["brain_energy"], row["brain_chance"])]
        shares = ["-" if np.isnan(share) else f"{share:.0%} ({chance:.0%})" for share, chance in shares]
        scans = row["scans"]
        lines.append([row["kind"], MAPS[row["map"]][0], f"{scans}", f"{interval}", f"{row['above_chance']}", *shares])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@styled
def localisation_figure(table: pd.DataFrame, summary: pd.DataFrame) -> Drawing:
    """Energy ratios by kind of injury and map: a dot a scan, the median and its interval over families."""
    kinds = [kind for kind in summary["kind"].unique() if not kind.startswith("any ")]
    figure, panels = new_figure(2.6 + 2.3 * len(kinds), 3.6, len(kinds))
    shown = list(MAPS)
    least, most = 0.25, max(4.0, 1.1 * table["energy_ratio"].max())
    for axes, kind in zip(panels, kinds, strict=True):
        axes.axvline(1, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
        for place, name in enumerate(shown):
            _, colour, marker = MAPS[name]
            values = table[(table["kind"] == kind) & (table["map"] == name)]["energy_ratio"].dropna()
            spread = np.linspace(-0.14, 0.14, len(values)) if len(values) > 1 else np.zeros(len(values))
            axes.plot(values.clip(lower=least), place + 0.22 + spread, ".", color=GREY, markersize=4, alpha=0.6)
            row = summary[(summary["kind"] == kind) & (summary["map"] == name)].iloc[0]
            centre, low, high = row[["energy_ratio", "low", "high"]].astype(float).clip(lower=least)
            look = {"color": colour, "marker": marker, "markersize": 6, "capsize": 3}
            # a percentile interval need not hold the estimate
            reach = None if np.isnan(low) else np.clip([[centre - low], [high - centre]], 0, None)
            axes.errorbar(centre, place - 0.18, xerr=reach, **look)
        axes.set_xscale("log")
        axes.set_xlim(0.85 * least, most)
        ticks = [tick for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32) if tick <= most]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_yticks(range(len(shown)), [MAPS[name][0] for name in shown] if axes is panels[0] else [])
        scans = table[(table["kind"] == kind) & (table["map"] == shown[0])]
        axes.set_title(f"{kind}, n = {len(scans)}")
    figure.supxlabel(
        "Energy ratio: the injury's share of the heat in the brain over its share of the brain (log scale)", fontsize=9
    )
    caption = (
        "Where the maps of held-out injured scans lie, beside the phantom's truth. Dashed, 1: a map even over the "
        "brain. Dots, scans; markers, medians with 95 % intervals over families. Below 0.25 they lie on its tick."
    )
    return Drawing("localisation", caption, figure, summary)


def _stored(path: str) -> np.ndarray:
    """A label image's voxels in the stored order of axes."""
    try:
        return np.asarray(nibabel.load(path).dataobj).squeeze()
    except (OSError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(f"{path} cannot be read ({error}): generate the phantom cohort again.") from error


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's head."""
    parser = argparse.ArgumentParser(
        prog="python -m explanation.localisation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run on a phantom cohort, runs/NAME")
    parser.add_argument("--seed", type=int, default=0, help="of random weights and resampling, default %(default)s")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error("--seed is at least 0.")
    try:
        table = localise(options.run, options.seed)
        if table.empty:
            raise InputError(f"No injured scan of {options.run} has a lesion or enlarged ventricles to be found.")
        summary = summarise(table, seed=options.seed)
        save_drawing(localisation_figure(table, summary), options.run / "figures")
        write_text(options.run / "localisation.csv", table.to_csv(index=False))
    except (InputError, ModelError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(markdown(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())

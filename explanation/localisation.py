"""Measure how well the heat maps find injuries, on a phantom cohort, where every lesion is known.

    python -m explanation.localisation runs/NAME

The map of each injured scan comes from the model that did not see the scan's family. It is compared with the scan's
lesion mask (cysts, clots, punctate lesions) and, if they are enlarged, with its lateral ventricles. There are two
controls: the same maps from networks with random weights, and the mean map of the other scans, which only knows where
injuries usually are. The results go to the run folder and never into a model folder: `localisation.csv`, one row per
scan, region and map, and `figures/localisation.*`.

If the run has a local stream, its most suspicious places are compared with the lesion masks too, also for a cohort of
painted injuries: `places.csv`. Exit status: 0 written, 1 the run cannot be used, 2 wrong call.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m explanation.localisation")

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from machine.programs import FAILED, end_if_missing

PROGRAM = "python -m explanation.localisation"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run on a phantom cohort, runs/NAME")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and resampling (default %(default)s)")
    options = parser.parse_args(argv)
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}: give 0 or more")
    return options


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    end_if_missing(PROGRAM, [parse_arguments().run], FAILED)

from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt
from tqdm import tqdm

from cohort.phantom import is_phantom
from cohort.phantom.growth import VENTRICLES
from cohort.phantom.pathology import LESION_NAMES
from cohort.scans import CohortError, read_cohort
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
from evaluation.uncertainty import DEFAULT_RESAMPLING, Interval, Resampling, family_weights, percentile_interval
from explanation.gradcam import METHODS, explain, scan_image
from explanation.places import measure_places, places_markdown, summarise_places
from machine.programs import run_program
from preprocessing import read_volume
from run_folder.files import InputError, write_text
from run_folder.layout import RunFolder
from run_folder.tables import csv_text, read_table
from screening.loading import ModelError, load_pytorch_model
from screening.modalities import modalities_of, placed
from screening.one_scan import read_inputs

MAPS = {  # name: title, colour, marker; in the order of tables and figures
    "layercam": ("LayerCAM", BLUE, "o"),
    "gradcam": ("Grad-CAM", VERMILLION, "s"),
    "layercam_others": ("LayerCAM, mean of other scans", GREEN, "^"),
    "layercam_random": ("LayerCAM, random weights", PURPLE, "D"),
    "gradcam_random": ("Grad-CAM, random weights", ORANGE, "v"),
}
HIT_DISTANCE_MM = 5.0
FOCAL, VENTRICULAR = "focal lesion", "enlarged ventricles"


def localise(run: Path, seed: int = 0) -> pd.DataFrame:
    """Measure how well each kind of map finds each injury of a run's held-out scans.

    Args:
        run: the folder of a finished run on a phantom cohort.
        seed: seed of the random weights.

    Returns:
        One row per scan, region and map. The columns are described in `measure`, the maps in MAPS. A region is the
        `focal lesion` mask (`kind` is cyst, clot, punctate or several) or the `enlarged ventricles`.

    Raises:
        InputError: the run is not finished, its cohort is not a phantom, or files of the cohort are missing.
        ModelError: the model of a fold cannot be loaded.
    """
    table, truth = injured_scans(run)
    further = {(scan.participant_id, scan.session_id): scan.channels for scan in read_cohort(RunFolder(run).cohort)}
    cases = []
    processor: Any  # its own class takes a mask, which the annotation of the base class does not name
    for fold, part in table.groupby("fold"):
        model, processor = load_pytorch_model(str(RunFolder(run).fold(int(fold)).model))
        untrained = random_twin(model, seed + int(fold))
        for row in tqdm(part.to_dict("records"), desc=f"fold {fold}", unit="scan", disable=None):
            mask = sibling(row["image"], "desc-brain_mask") if processor.brain_mask == "required" else None
            channels = further[row["participant_id"], row["session_id"]] if modalities_of(processor)[1:] else ()
            others = {channel.modality: placed(channel.image, channel.transform, row["image"]) for channel in channels}
            volume, cube, *_ = read_inputs(processor, row["image"], mask, search=False, others=others)
            pixel_values = torch.from_numpy(cube[None])
            heat = {method: explain(model, pixel_values, method)[0] for method in METHODS}
            heat |= {f"{method}_random": explain(untrained, pixel_values, method)[0] for method in METHODS}
            cases.append((row, volume.frame, heat))
    rows = []
    total = sum(heat["layercam"] for _, _, heat in cases)
    for row, frame, heat in cases:
        if len(cases) > 1:
            heat["layercam_others"] = (total - heat["layercam"]) / (len(cases) - 1)
        volume = read_volume(row["image"])._replace(frame=frame)
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
    """Compare one map with one region, both on the scan's own voxel grid.

    Args:
        heat: the map, >= 0.
        inside, brain: masks of the region and of the intracranial space.
        distance: distance of each voxel from the region, mm.

    Returns:
        `energy`: the region's share of the map's sum over the brain.
        `chance`: the region's share of the brain's volume.
        `energy_ratio`: energy / chance; 1 for a map that is uniform over the brain, NaN for a map that is 0 there.
        `brain_energy`, `brain_chance`: the brain's share of the map's sum and of the volume of the field of view.
        `hit`: 1 if the map's peak is within 5 mm of the region, else 0; NaN without a peak. This is the pointing game
        of Zhang et al. 2018 (10.1007/s11263-017-1059-x).
        `hit_chance`: the share of the brain that is within 5 mm of the region.
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
    """The injured scans of a run's predictions, and the injuries of each scan as listed in `truth.tsv`.

    Raises:
        InputError: as in `localise`.
    """
    study = read_run(run)
    table = study.table[study.table["label"] == 1]
    root = next((folder for folder in Path(table["image"].iloc[0]).parents if is_phantom(folder)), None)
    if study.phantom is None or root is None:
        raise InputError(
            f"{run} was not trained on a phantom cohort, or the cohort was moved. The positions of injuries are known "
            "only in phantoms: give a run on a phantom cohort that is still in its place."
        )
    truth = read_table(root / "truth.tsv", (*KEYS, "injuries"), as_text=True)
    for row in table.to_dict("records"):
        for name in ("desc-lesion_mask", "desc-brain_mask", "desc-drawem9_dseg"):
            sibling(row["image"], name)
    return table, {(row["participant_id"], row["session_id"]): row["injuries"] for row in truth.to_dict("records")}


def regions(row: Mapping[str, str], truth: Mapping[tuple[str, str], str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """The injured regions of a scan: (region, kind, mask with the axes in file order). Atrophy has no region."""
    lesions = _stored(sibling(row["image"], "desc-lesion_mask"))
    if lesions.any():
        kinds = [name for value, name in LESION_NAMES.items() if (lesions == value).any()]
        yield FOCAL, " and ".join(kinds), lesions > 0
    if "ventriculomegaly" in truth.get((row["participant_id"], row["session_id"]), ""):
        yield VENTRICULAR, VENTRICULAR, _stored(sibling(row["image"], "desc-drawem9_dseg")) == VENTRICLES


def sibling(image: str, name: str) -> str:
    """The path of another file of the same phantom, next to its image. Raises InputError if it is missing."""
    path = Path(image)
    path = path.with_name(path.name.replace("desc-restore_T2w", name))
    if not path.is_file():
        raise InputError(f"{path} is missing: generate the phantom cohort again.")
    return str(path)


def random_twin(model: Any, seed: int) -> torch.nn.Module:
    """The same network with random weights, as a control (Adebayo et al. 2018, arXiv 1810.03292)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return type(model)(model.config).to(model.device).eval()


def summarise(table: pd.DataFrame, resampling: Resampling = DEFAULT_RESAMPLING) -> pd.DataFrame:
    """One row per kind of injury and map: scans, median energy ratio with its interval over families, share of hits."""
    groups = [(kind, part) for kind, part in table.groupby("kind", sort=True)]
    focal = table[table["region"] == FOCAL]
    if focal["kind"].nunique() > 1:
        groups.insert(0, (f"any {FOCAL}", focal))
    rows = []
    for kind, part in groups:
        for name in MAPS:
            own = part[part["map"] == name]
            ratio = own["energy_ratio"].dropna()
            interval = median_interval(ratio, own.loc[ratio.index, "family"], resampling)
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


def median_interval(values: pd.Series, families: pd.Series, resampling: Resampling) -> Interval:
    """The median and its bootstrap percentile interval. Whole families are drawn with replacement."""
    if values.empty:
        return Interval(None, None, None, 0)
    counts = family_weights(families, resampling).astype(int)
    medians = np.array([np.median(np.repeat(values, count)) if count.any() else np.nan for count in counts])
    return percentile_interval(float(values.median()), medians, resampling)


def markdown(summary: pd.DataFrame) -> str:
    """The summary as a Markdown table."""
    heads = ["injury", "map", "scans", "energy ratio, median (95 % CI)", "above 1", "peak within 5 mm (chance)"]
    lines = [[*heads, "heat in the brain (uniform map)"], ["---"] * (len(heads) + 1)]
    for row in summary.to_dict("records"):
        estimate, low, high = (None if pd.isna(row[name]) else row[name] for name in ("energy_ratio", "low", "high"))
        interval = Interval(estimate, low, high, draws=0)
        pairs = [(row["hits"], row["hit_chance"]), (row["brain_energy"], row["brain_chance"])]
        shares = ["-" if np.isnan(share) else f"{share:.0%} ({chance:.0%})" for share, chance in pairs]
        scans = row["scans"]
        lines.append([row["kind"], MAPS[row["map"]][0], f"{scans}", f"{interval}", f"{row['above_chance']}", *shares])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@styled
def localisation_figure(table: pd.DataFrame, summary: pd.DataFrame) -> Drawing:
    """Energy ratios by kind of injury and map: one dot per scan, the median and its interval over families."""
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
            # a percentile interval may not contain the estimate
            reach = None if np.isnan(low) else np.clip([[centre - low], [high - centre]], 0, None)
            axes.errorbar(centre, place - 0.18, xerr=reach, color=colour, marker=marker, markersize=6, capsize=3)
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
        "Energy ratio: the injury's share of the heat in the brain / its share of the brain's volume (log scale)",
        fontsize=9,
    )
    caption = (
        "Heat maps of held-out injured scans, compared with the known injuries of the phantoms. Dashed line at 1: a "
        "map that is uniform over the brain. Dots: scans. Markers: medians with 95 % intervals over families. Values "
        "below 0.25 are drawn at 0.25."
    )
    return Drawing("localisation", caption, figure, summary)


def _stored(path: str) -> np.ndarray:
    """Voxels of a label image, with the axes in the order of the file."""
    try:
        image: Any = nibabel.load(path)
        return np.asarray(image.dataobj).squeeze()
    except (OSError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(f"{path} cannot be read ({error}): generate the phantom cohort again.") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module docstring."""
    options = parse_arguments(argv)
    return run_program(
        PROGRAM,
        lambda: _write_localisation(RunFolder(options.run), options.seed),
        failed=(CohortError, InputError, ModelError, OSError),
        interrupted="interrupted",
    )


def _write_localisation(run: RunFolder, seed: int) -> None:
    study = read_run(run.path)
    if study.recipe.get("local_stream") == "on":
        places = measure_places(run.path)
        if not places.empty:
            write_text(run.places, csv_text(places))
            print(places_markdown(summarise_places(places)))
        if study.phantom is None:
            return  # maps are measured on phantoms only
    table = localise(run.path, seed)
    if table.empty:
        raise InputError(f"No injured scan of {run} has a focal lesion or enlarged ventricles.")
    summary = summarise(table, Resampling(seed=seed))
    save_drawing(localisation_figure(table, summary), run.figures)
    write_text(run.localisation, csv_text(table))
    print(markdown(summary))


if __name__ == "__main__":
    sys.exit(main())

"""How often the most suspicious place of the local stream is a true lesion, in scans whose lesions are known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from statsmodels.stats.proportion import proportion_confint
from tqdm import tqdm

from cohort.painted.scan import MASK_VALUES
from evaluation.study import KEYS, read_run
from evaluation.uncertainty import Interval
from preprocessing import apply_mask, read_volume
from preprocessing.candidates_gloresnet import top_places
from run_folder.files import InputError
from run_folder.layout import RunFolder
from screening.loading import load_pytorch_model
from screening.requests import find_mask

NEAR_MM = 3.0
TOP = 5
NOTE = (
    "Lesions of phantoms and painted lesions are never clinical evidence. A scan on which the local stream is silent "
    "counts as not found. Intervals are Wilson's, with one observation per family."
)
SIZES = ((0.0, 2.0), (2.0, 2.6), (2.6, 3.0), (3.0, np.inf))  # mm, diameter of the largest lesion
LESION_MASK = "desc-lesion_mask"


def lesion_mask(image: str) -> Path:
    """The mask of a scan's true lesions, next to its image: the same name, with another end."""
    path = Path(image)
    stem = re.sub(r"(_desc-[^_]+)?_T2w\..*$", "", path.name, flags=re.IGNORECASE)
    return path.with_name(f"{stem}_{LESION_MASK}.nii.gz")


def nearest_lesion(mask: Any, positions: np.ndarray) -> tuple[np.ndarray, float]:
    """How far places are from the nearest voxel of a lesion.

    Args:
        mask: a nibabel image; everything above 0 is lesion, except painted ventricles.
        positions: (n, 3) in world millimetres (right, anterior, superior).

    Returns:
        (n,) distances in mm, and the diameter in mm of a sphere as large as the largest connected lesion.
    """
    lesions = _is_lesion(mask)
    labels, _ = ndimage.label(lesions, np.ones((3, 3, 3)))
    volume = float(np.bincount(labels[lesions]).max()) * abs(float(np.linalg.det(mask.affine[:3, :3])))
    voxels = nibabel.affines.apply_affine(mask.affine, np.argwhere(lesions))
    distances = cKDTree(voxels).query(positions)[0] if len(positions) else np.zeros(0)
    return distances, float((6 * volume / np.pi) ** (1 / 3))


def measure_places(run: Path) -> pd.DataFrame:
    """Compare the highest places of each held-out scan that has lesions with these lesions.

    Args:
        run: the folder of a finished run with a local stream. Next to each image lies a mask of its lesions.

    Returns:
        One row per scan with a lesion: its ids, family, fold, score and `p_local`; `diameter_mm` of the largest lesion;
        `distance_mm` of the highest place from the nearest lesion; and `nearest_of_5_mm`, the least such distance of
        the five highest places. Distances are empty if the local stream is silent.

    Raises:
        InputError: the run is not finished, or a scan has no lesion mask that can be read.
        ModelError: the model of a fold cannot be loaded.
    """
    rows = []
    for fold, part in read_run(run).table.groupby("fold"):
        scans = [(row, mask) for row in part.to_dict("records") if (mask := _lesions(row["image"])) is not None]
        model, processor = load_pytorch_model(str(RunFolder(run).fold(int(fold)).model)) if scans else (None, None)
        for row, mask in tqdm(scans, desc=f"fold {fold}, places", unit="scan", disable=None):
            places = highest_places(model, processor, row)
            distances, diameter = nearest_lesion(mask, places)
            own = {key: row[key] for key in (*KEYS, "family", "fold", "radiology_score", "p_local")}
            nearest = {
                "distance_mm": distances[:1].min(initial=np.inf),
                "nearest_of_5_mm": distances.min(initial=np.inf),
            }
            rows.append({**own, "diameter_mm": diameter, **nearest})
    return pd.DataFrame(rows).replace(np.inf, np.nan)


@torch.no_grad()
def highest_places(model: Any, processor: Any, row: dict[str, Any]) -> np.ndarray:
    """The five most suspicious places of a scan, the highest first: (n, 3) world mm; none if the stream is silent."""
    volume = read_volume(row["image"])
    if processor.brain_mask == "required":
        volume = apply_mask(volume, find_mask(row["image"]))
    found = processor.search(processor.correct(volume))
    if not len(found.patches):
        return np.zeros((0, 3))
    patches, valid = (torch.from_numpy(array)[None].to(model.device) for array in (found.patches, found.valid))
    logits = model.local(patches, valid)[0].cpu().numpy()
    return found.positions[top_places(logits, found.positions, TOP)]


def _lesions(image: str) -> Any:
    """The lesion mask of a scan; None if it has no lesion."""
    path = lesion_mask(image)
    try:
        mask: Any = nibabel.load(path)
        return mask if _is_lesion(mask).any() else None
    except (OSError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(f"{path} cannot be read ({error}): places are compared with a mask of lesions.") from error


def _is_lesion(mask: Any) -> np.ndarray:
    """Which voxels are lesion: (x, y, z) bool. Wide ventricles are no place to look for."""
    values = np.asarray(mask.dataobj).squeeze()
    return (values > 0) & (values != MASK_VALUES["ventricles"])


def summarise_places(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """The share of scans whose highest place lies within 3 mm of a lesion: all, by score, and by size of the lesion.

    Args:
        table: from `measure_places`. A scan on which the local stream is silent counts as not found.
        level: of the confidence intervals.
    """
    groups = [("all scans with lesions", table)]
    if table["radiology_score"].astype(str).isin(["3"]).any():
        groups.append(("score 3", table[table["radiology_score"].astype(str) == "3"]))
    for least, most in SIZES:
        name = (
            f"largest lesion {least:g} to {most:g} mm" if np.isfinite(most) else f"largest lesion {least:g} mm or more"
        )
        groups.append((name, table[table["diameter_mm"].between(least, most, inclusive="left")]))
    rows = []
    for name, part in groups:
        if len(part):
            distances = {"top": part["distance_mm"], "top_5": part["nearest_of_5_mm"]}
            families = part["family"].nunique()
            found = {key: _share(values <= NEAR_MM, families, level) for key, values in distances.items()}
            rows.append({"scans": name, "n": len(part), **found})
    return pd.DataFrame(rows)


def _share(found: pd.Series, families: int, level: float) -> Interval:
    """The share of True with Wilson's interval, which also has a width at 0 and 1. Scans of a family count as one."""
    share = float(found.mean())
    low, high = proportion_confint(share * families, families, 1 - level, method="wilson")
    return Interval(share, float(low), float(high), 0, level)


def places_markdown(summary: pd.DataFrame) -> str:
    """The summary as a Markdown table, and what it cannot show."""
    lines = [
        "| scans | n | highest place within 3 mm of a lesion (95 % CI) | any of the 5 highest |",
        "|---|---|---|---|",
    ]
    for row in summary.to_dict("records"):
        lines.append(f"| {row['scans']} | {row['n']} | {row['top']:.2f} | {row['top_5']:.2f} |")
    return "\n".join([*lines, "", NOTE])

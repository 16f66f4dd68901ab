"""The misclassified scans: missed cases and false alarms, with thumbnails."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from run_folder.files import InputError
from run_folder.tables import read_table

from .measures import read_ras

THUMBNAIL = 112  # pixels of the longer edge
COLUMNS = ["participant_id", "session_id", "fold", "radiology_score", "p_injury", "scan_age", "birth_age", "sex"]


def wrong_calls(table: pd.DataFrame, threshold: float | np.ndarray = 0.5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Missed cases (injured, called normal) and false alarms (normal, called injured), most confident error first.

    Args:
        table: predictions with covariates.
        threshold: one number, or (n,) if the threshold differs by fold.

    Returns:
        Two tables with the columns of `COLUMNS` and ``image``, as far as the input has them.
    """
    called = (table["p_injury"] >= threshold).astype(int)
    columns = [column for column in [*COLUMNS, "image"] if column in table]
    missed = table[(table["label"] == 1) & (called == 0)].sort_values("p_injury")
    alarms = table[(table["label"] == 0) & (called == 1)].sort_values("p_injury", ascending=False)
    return missed[columns].reset_index(drop=True), alarms[columns].reset_index(drop=True)


def wrong_by_score(table: pd.DataFrame, threshold: float | np.ndarray = 0.5) -> pd.DataFrame:
    """Errors per radiology score: ``score, label, n, wrong, share`` (missed if injured, false alarms if normal)."""
    wrong = (table["p_injury"] >= threshold).astype(int) != table["label"]
    scores = table["radiology_score"].astype(str).replace("", "unknown")
    groups = pd.DataFrame({"score": scores, "label": table["label"], "wrong": wrong}).groupby(["score", "label"])
    counted = groups["wrong"].agg(n="size", wrong="sum").reset_index()
    return counted.assign(share=counted["wrong"] / counted["n"])


def thumbnail(path: str | Path) -> str:
    """An axial and a coronal slice of the head next to each other, as a PNG ``data:`` URL.

    The slices go through the centre of mass of the head. The patient's right is on the viewer's left, grey levels span
    0 to the 99.5th percentile, and voxels keep their true proportions.

    Raises:
        InputError: the scan cannot be read.
    """
    volume, size = read_ras(path)
    volume = volume - volume.min()
    top = np.percentile(volume, 99.5) or 1.0
    head = volume > 0.15 * top
    where = np.argwhere(head)
    centre = where.mean(axis=0).astype(int)
    low, high = np.percentile(where, [0.5, 99.5], axis=0).astype(int)  # the head without stray noise
    low, high = np.maximum(low - 3, 0), high + 4
    centre, volume = centre - low, volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    # flipped and transposed: anterior (axial) and superior (coronal) point up; in RAS, right has high indices
    axial, coronal = volume[::-1, ::-1, centre[2]].T, volume[::-1, centre[1], ::-1].T
    pictures = [_picture(axial / top, size[0], size[1]), _picture(coronal / top, size[0], size[2])]
    height = max(picture.height for picture in pictures)
    sheet = Image.new("L", (sum(p.width for p in pictures) + 2, height), 0)
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, (height - picture.height) // 2))
        left += picture.width + 2
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _picture(slice_: np.ndarray, width_mm: float, height_mm: float) -> Image.Image:
    grey = Image.fromarray((255 * slice_.clip(0, 1)).astype(np.uint8))
    width, height = grey.width * width_mm, grey.height * height_mm
    scale = THUMBNAIL / max(width, height)
    return grey.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BILINEAR)


def thumbnails(table: pd.DataFrame, most: int = 60) -> list[str | None]:
    """A thumbnail for each of the first ``most`` rows; None if the image is unknown, deleted or unreadable."""
    pictures: list[str | None] = []
    for path in table["image"] if "image" in table else [None] * len(table):
        picture = None
        if isinstance(path, str) and path and len(pictures) < most and Path(path).is_file():
            try:
                picture = thumbnail(path)
            except InputError:
                picture = None
        pictures.append(picture)
    return pictures


def phantom_truth(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(participant, session) -> true injuries, from the ``truth.tsv`` of a phantom cohort; empty for real scans."""
    images = [path for path in table.get("image", []) if isinstance(path, str) and path]
    for folder in Path(images[0]).absolute().parents[1:5] if images else ():
        if (folder / "truth.tsv").is_file():
            truth = read_table(folder / "truth.tsv", ("participant_id", "session_id", "injuries"))
            return {(row["participant_id"], row["session_id"]): _described(row) for row in truth.to_dict("records")}
    return {}


def _described(row: dict[str, Any]) -> str:
    """`ivh:minor:left atrophy:mild` as "IVH (minor, left); atrophy (mild)", followed by "motion" if there is any."""
    words = []
    for injury in str(row["injuries"]).replace("_", " ").replace("cystic pvl", "cystic-PVL").split(" "):
        name, *details = injury.split(":")
        words.append(name.replace("ivh", "IVH") + (f" ({', '.join(details)})" if details else ""))
    if isinstance(row.get("motion"), int | float) and row["motion"] > 0:
        words.append("motion")
    return "; ".join(word.replace("none", "no injury").replace("cystic-PVL", "cystic PVL") for word in words)

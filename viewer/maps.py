"""The heat map of an entry, see `entries.py`: on the network's cube, to be shown, and on the scan's grid, as a file."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from explanation.gradcam import explain, map_image, peak_position, scan_image
from screening.model import ScreeningModel
from screening.one_scan import framed_scan, prepare_scan

from .scans import place_further


def write_map(
    model: ScreeningModel, processor: Any, entry: dict, method: str, file: Path
) -> tuple[float, float, float] | None:
    """Write the heat map of an entry on the network's cube. Returns its maximum in mm, None if it is 0 everywhere."""
    others = place_further(entry["further"], entry["uploaded"])
    volume, pixel_values = prepare_scan(processor, entry["path"], entry["mask"], others=others)
    heat = explain(model.networks, pixel_values.to(model.device), method)[0].cpu()
    nibabel.save(map_image(heat, volume), file)
    return peak_position(heat, volume) if heat.any() else None


def write_map_on_scan(processor: Any, entry: dict, cube: Path, file: Path) -> None:
    """Write a heat map, which `write_map` wrote as a cube, on the scan's own voxel grid."""
    heat = torch.from_numpy(nibabel.load(cube).get_fdata(dtype=np.float32))
    nibabel.save(scan_image(heat, framed_scan(processor, entry["path"], entry["mask"])), file)

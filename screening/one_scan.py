"""One scan screened, with all that a reader needs to judge the number."""

import os

import numpy as np
import torch

from architectures.networks import member_temperatures
from preprocessing import Volume, apply_mask, read_volume

from .model import INJURY, ScreeningModel, predicted_label
from .out_of_distribution import MASKED_SHARE, describe, unusual

NOTICE = "For research use only. Not a medical device, and not for any decision about a patient."


def prepare_scan(processor, scan: str, mask: str | None = None, name: str = "") -> tuple[Volume, torch.Tensor]:
    """A scan on its own grid, and as the network sees it, `(1, 1, S, S, S)`.

    Args:
        processor: the model's own, which need not be of this version.
        scan: path of a scan.
        mask: path of its brain mask, for a model that demands one.
        name: what messages call the scan; its file's name when left out.

    Raises:
        ValueError: the scan or mask cannot be used; one sentence that says why and names no folder.
    """
    try:
        volume = read_volume(scan)
        brain = None
        if mask is not None:
            apply_mask(volume, mask)  # here the positions are known, and compared
            brain = read_volume(mask).data
        return volume, processor(volume.data, mask=brain, return_tensors="pt").pixel_values
    except ValueError as error:
        sentence = str(error).replace(scan, name or os.path.basename(scan))
        raise ValueError(sentence.replace(mask, os.path.basename(mask)) if mask else sentence) from error


def screen_scan(model: ScreeningModel, processor, scan: str, mask: str | None = None, name: str = "") -> dict:
    """Screen one scan.

    Args:
        model, processor: as `load_model` gives them.
        scan, mask, name: as in `prepare_scan`.

    Returns:
        Plain JSON values: `p_injury` (the mean of the views), `p_injury_no_tta`, `p_injury_mirrored` (None without
        test-time augmentation), `view_spread` (the difference of the two), `p_injury_members` and `member_spread` (of
        an ensemble: each member's probability, and their standard deviation; else None), `predicted_label`,
        `threshold`, `temperature`, `calibrated`, `preprocessing`, `warnings` (sentences), `model` (what it learned
        from), `notice`.

    Raises:
        ValueError: the scan or mask cannot be used, or the model gave no probability.
    """
    name = name or os.path.basename(scan)
    volume, pixel_values = prepare_scan(processor, scan, mask, name)
    with torch.inference_mode():
        members = model.predict_members(pixel_values.to(model.device))[:, :, 0, INJURY].double()
    views, members = members.mean(dim=0).tolist(), members.mean(dim=1).tolist()
    p_injury, config = float(np.mean(views)), model.config
    label = predicted_label(p_injury, config, name)
    lattice = pixel_values[0, 0].numpy()
    return {
        "scan": name,
        "p_injury": p_injury,
        "p_injury_no_tta": views[0],
        "p_injury_mirrored": views[1] if len(views) > 1 else None,
        "view_spread": abs(views[0] - views[1]) if len(views) > 1 else None,
        "p_injury_members": members if len(members) > 1 else None,
        "member_spread": float(np.std(members, ddof=1)) if len(members) > 1 else None,
        "predicted_label": label,
        "threshold": float(config.threshold),
        "temperature": float(config.temperature),
        "calibrated": any(t != 1 for t in (config.temperature, *member_temperatures(config))),
        "preprocessing": describe_preprocessing(volume, lattice, processor),
        "warnings": unusual(lattice, config.training_appearance),
        "model": {**(config.provenance or {}), "image_size": config.image_size},
        "notice": NOTICE,
    }


def describe_preprocessing(volume: Volume, lattice: np.ndarray, processor) -> dict:
    """What was found in the file and what became of it, as plain values."""
    extent = [
        n * edge for n, edge in zip(volume.data.shape, np.linalg.norm(volume.affine[:3, :3], axis=0), strict=True)
    ]
    constant = describe(lattice)["constant"]
    return {
        "stored_shape": list(volume.stored_shape),
        "stored_spacing_mm": [round(edge, 4) for edge in volume.stored_spacing],
        "stored_orientation": volume.stored_orientation,
        "field_of_view_mm": [round(float(length), 1) for length in extent],
        "intensity_range": [float(volume.data.min()), float(volume.data.max())],
        "intensity_window": intensity_window(volume.data),
        "orientation": "RAS",
        "shape": list(lattice.shape),
        "spacing_mm": [round(float(length) / processor.image_size, 3) for length in extent],
        "intensity_mean": round(float(lattice.mean()), 6),
        "intensity_sd": round(float(lattice.std()), 6),
        "brain_mask": processor.brain_mask,
        "background": f"constant over {100 * constant:.0f} % of the volume: it looks skull-stripped or masked"
        if constant > MASKED_SHARE
        else "carries signal or noise: it does not look skull-stripped",
    }


def intensity_window(data: np.ndarray) -> list[float]:
    """The intensities to show as black and as white: the 2nd and the 99.8th percentile, of every 27th voxel."""
    low, high = np.quantile(data[::3, ::3, ::3], (0.02, 0.998))
    if low == high:
        low, high = data.min(), data.max()
    return [float(low), float(high)]

"""Screen one scan, with everything that is needed to judge the probability."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from architectures.networks import member_temperatures
from dicomfiles import is_delivery
from dicomfiles import read as read_delivery
from preprocessing import LocalInputs, Volume, VolumeError, apply_mask, read_volume, stack_local_inputs
from preprocessing.appearance_gloresnet import check_standardised, coarser
from preprocessing.arrays_gloresnet import longest_edge
from preprocessing.modalities_gloresnet import images_by_modality

from .modalities import modalities_of, presence_arrays, used_and_missing
from .model import INJURY, ScreeningModel, predicted_label
from .out_of_distribution import MASKED_SHARE, describe, unusual
from .places import list_places

NOTICE = "For research use only. Not a medical device, and not for any decision about a patient."


if TYPE_CHECKING:
    import torch


class ScanInputs(NamedTuple):
    """A scan that was read and prepared.

    Attributes:
        volume: the scan on its own voxel grid, as in `framed_scan`.
        pixel_values: the network's input `(C, S, S, S)` float32.
        local: what the local stream needs; None for a model without one.
        presence: `(C,)` bool, which modalities there are; None for a model that takes T2w alone.
    """

    volume: Volume
    pixel_values: np.ndarray
    local: LocalInputs | None = None
    presence: np.ndarray | None = None


def open_scan(scan: str | Volume, series: str | None = None) -> str | Volume:
    """The volume of a DICOM folder, zip or file, with its warnings; the path of any other scan.

    Args:
        scan: its path. A volume is returned as it is.
        series: number or UID of the DICOM series to use, where several fit.

    Raises:
        ValueError: the delivery does not give one T2w volume.
    """
    return read_delivery(scan, series).image if isinstance(scan, str) and is_delivery(scan) else scan


def framed_scan(processor, scan: str | Volume, mask: str | None = None) -> Volume:
    """Read a scan on its own voxel grid, with the `frame` that the network sees.

    Args:
        processor: of the model; it may be of another version of this project.
        scan: from `open_scan`.
        mask: path of its brain mask, if the model requires one.

    Returns:
        The scan without the mask, with the `warnings` about both files and about the frame.

    Raises:
        ValueError: the scan or mask cannot be used.
    """
    volume = read_volume(scan)
    seen = _seen(processor, volume, mask, correct=frames(processor))  # otherwise only the data would change
    return volume._replace(warnings=seen.warnings, frame=seen.frame)


def _seen(processor, volume: Volume, mask: str | None, correct: bool) -> Volume:
    """A scan as the network sees it, on its own grid: masked, without its bias field, with its frame."""
    seen = volume if mask is None else apply_mask(volume, mask)
    if correct and corrects_bias(processor):
        seen = processor.correct(seen)
    return processor.frame(seen) if frames(processor) else seen


def frames(processor) -> bool:
    """Whether a processor, perhaps of an earlier version, places the head on a frame."""
    return getattr(processor, "framing", "field_of_view") == "head"


def corrects_bias(processor) -> bool:
    """Whether a processor, perhaps of an earlier version, removes the bias field."""
    return getattr(processor, "bias_correction", "none") == "n4"


def has_search(processor) -> bool:
    """Whether a processor, perhaps of an earlier version, prepares the inputs of a local stream."""
    return bool(getattr(processor, "local_stream", False))


def read_inputs(
    processor,
    scan: str | Volume,
    mask: str | None = None,
    search: bool = True,
    others: Mapping[str, Any] | None = None,
) -> ScanInputs:
    """Read a scan on its own voxel grid, and prepare what the model needs.

    Args:
        processor, scan, mask: see `framed_scan`.
        search: whether to prepare the local stream too, if there is one. If it cannot judge the scan, the volume's
            warnings say so.
        others: further images of the scan by modality: paths, or images in its world space. The warnings name those
            that the model takes and that are missing.

    Raises:
        ValueError: the scan, another image or the mask cannot be used.
    """
    volume = read_volume(scan)
    images_by_modality({"T2w": volume, **(others or {})}, modalities_of(processor), volume.source)
    seen = _seen(processor, volume, mask, correct=True)  # the processor does not repeat any of it
    local = processor.search(seen) if search and has_search(processor) else None
    silent = (local.warning,) if local is not None and local.warning else ()
    volume = volume._replace(warnings=(*seen.warnings, *silent), frame=seen.frame)
    if len(modalities_of(processor)) > 1:
        channels = processor.map(seen, others or {}, mask)
        volume = volume._replace(warnings=(*volume.warnings, *channels.warnings))
        return ScanInputs(volume, channels.pixel_values, local, channels.presence)
    # the position of a mask was checked above, because arrays have none
    brain = None if mask is None else read_volume(mask).data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the doubts about these files are in volume.warnings
        source = seen if corrects_bias(processor) else volume if frames(processor) else volume.data
        without_search = {"local_stream": False} if has_search(processor) else {}
        pixel_values = processor(source, mask=brain, return_tensors="np", **without_search).pixel_values[0]
    for channel in pixel_values:  # a processor of another version may not check it
        check_standardised(channel, volume.source)
    return ScanInputs(volume, pixel_values, local)


def local_arrays(scans: list[LocalInputs | None]) -> dict[str, np.ndarray]:
    """What a model takes besides `pixel_values`, for a batch of scans; empty for a model without a local stream."""
    if not scans or scans[0] is None:
        return {}
    return stack_local_inputs([found for found in scans if found is not None])


def all_warnings(volume: Volume, cube: np.ndarray, trained_on: dict[str, list[float]] | None) -> list[str]:
    """Everything doubtful about a scan: what its files say, then how it differs from the training scans.

    Args:
        volume: from `read_inputs`.
        cube: `(S, S, S)`, the T2w channel of its input.
        trained_on: `training_appearance` of the model's configuration.

    Returns:
        Sentences that do not name the scan.
    """
    return [*volume.warnings, *coarser(longest_edge(volume), trained_on), *unusual(cube, trained_on)]


def prepare_scan(
    processor,
    scan: str | Volume,
    mask: str | None = None,
    name: str = "",
    others: Mapping[str, Any] | None = None,
) -> tuple[Volume, torch.Tensor]:
    """`read_inputs` for the global stream: a batch `(1, C, S, S, S)`, and no message contains a folder name.

    Args:
        processor, mask: see `framed_scan`.
        scan: see `open_scan`.
        name: the name of the scan in messages; by default its file name.
        others: see `read_inputs`.

    Raises:
        ValueError: the scan or mask cannot be used. The message is one sentence.
    """
    import torch

    found = _prepared(processor, scan, mask, name, others, search=False)
    return found.volume, torch.from_numpy(found.pixel_values[None])


def _prepared(
    processor,
    scan: str | Volume,
    mask: str | None,
    name: str,
    others: Mapping[str, Any] | None,
    search: bool,
) -> ScanInputs:
    path = scan if isinstance(scan, str) else scan.source
    try:
        return read_inputs(processor, open_scan(scan), mask, search, others)
    except ValueError as error:
        # a model folder brings its own copy of the class
        ours = any(kind.__name__ == VolumeError.__name__ for kind in type(error).__mro__)
        sentence = str(error).replace(path, name or os.path.basename(path))
        for file in (mask, *(others or {}).values()):
            file = getattr(file, "source", file)
            sentence = sentence.replace(file, os.path.basename(file)) if isinstance(file, str) else sentence
        raise (VolumeError if ours else ValueError)(sentence) from error


def screen_scan(
    model: ScreeningModel,
    processor,
    scan: str | Volume,
    mask: str | None = None,
    name: str = "",
    others: Mapping[str, Any] | None = None,
) -> dict:
    """Screen one scan.

    Args:
        model, processor: from `load_model`; the model also from `prepare`.
        scan, mask, name, series, others: see `prepare_scan`.

    Returns:
        A dictionary of JSON values:

        - `scan`: its name
        - `p_injury`: the mean probability over the views; `p_injury_no_tta`, `p_injury_mirrored`: those of the scan and
          of its mirror image; `view_spread`: their absolute difference. The last two are None without test-time
          augmentation.
        - `p_injury_members`, `member_spread`: the probability of each ensemble member, and their standard deviation;
          None for a single network
        - `streams`: which streams spoke: `global`, then `local` and `shares` of a model with a local stream
        - `p_global`, `p_local`, `p_shares`: what each says alone; None for one that did not speak. `p_injury` is
          1 - (1 - q) (1 - p_local) (1 - p_shares) with q = max(0, 2 p_global - 1), for each view and ensemble member,
          then averaged; q alone if the local stream did not speak.
        - `places`: the most suspicious places that the local stream found, see `list_places`
        - `modalities`, `missing_modalities`: those that the answer rests on, and others that the model takes
        - `predicted_label`, `threshold`, `temperature`, `calibrated`
        - `preprocessing`: see `describe_preprocessing`
        - `warnings`: see `all_warnings`
        - `model`: what the model was trained on, and its `image_size`
        - `notice`

    Raises:
        ValueError: the scan or mask cannot be used, or the model did not return a probability.
    """
    name = name or os.path.basename(scan if isinstance(scan, str) else scan.source)
    volume, pixels, found, presence = _prepared(processor, scan, mask, name, others, search=True)
    local = local_arrays([found])
    said = model.answer({"pixel_values": pixels[None]} | local | presence_arrays([presence]))
    each = said["members"][:, :, 0, INJURY].astype(np.float64)  # (members, views)
    views, members = each.mean(axis=0).tolist(), each.mean(axis=1).tolist()
    p_injury, config = float(np.mean(views)), model.config
    label = predicted_label(p_injury, config, name)
    cube = pixels[0]
    return {
        "scan": name,
        "p_injury": p_injury,
        "p_injury_no_tta": views[0],
        "p_injury_mirrored": views[1] if len(views) > 1 else None,
        "view_spread": abs(views[0] - views[1]) if len(views) > 1 else None,
        "p_injury_members": members if len(members) > 1 else None,
        "member_spread": float(np.std(members, ddof=1)) if len(members) > 1 else None,
        **_streams(said, local, p_injury),
        **used_and_missing(processor, presence),
        "predicted_label": label,
        "threshold": float(config.threshold),
        "temperature": float(config.temperature),
        "calibrated": any(t != 1 for t in (config.temperature, *member_temperatures(config))),
        "preprocessing": describe_preprocessing(volume, cube, processor),
        "warnings": all_warnings(volume, cube, config.training_appearance),
        "model": {**(config.provenance or {}), "image_size": config.image_size},
        "notice": NOTICE,
    }


def _streams(said: dict[str, np.ndarray], local: dict[str, np.ndarray], p_injury: float) -> dict:
    """The entries of the answer that say which stream spoke."""
    voices = {name: float(said[f"p_{name}"][0]) if local else np.nan for name in ("global", "local", "shares")}
    if not local:
        voices["global"] = p_injury
    spoke = [name for name, p in voices.items() if np.isfinite(p)]
    return {
        "streams": spoke,
        **{f"p_{name}": p if name in spoke else None for name, p in voices.items()},
        "places": list_places(said["candidates"][0], local["local_positions"][0]) if local else [],
    }


def describe_preprocessing(volume: Volume, cube: np.ndarray, processor) -> dict:
    """What the file contains and how it was preprocessed, as JSON values."""
    assert volume.affine is not None and volume.stored_spacing is not None  # it was read from a file
    extent = [
        n * edge for n, edge in zip(volume.data.shape, np.linalg.norm(volume.affine[:3, :3], axis=0), strict=True)
    ]
    constant = describe(cube)["constant"]
    framed = frames(processor)
    seen = [processor.frame_mm] * 3 if framed else extent
    return {
        "stored_shape": list(volume.stored_shape),
        "stored_spacing_mm": [round(edge, 4) for edge in volume.stored_spacing],
        "stored_orientation": volume.stored_orientation,
        "field_of_view_mm": [round(float(length), 1) for length in extent],
        "intensity_range": [float(volume.data.min()), float(volume.data.max())],
        "intensity_window": intensity_window(volume.data),
        "orientation": "RAS",
        "shape": list(cube.shape),
        "spacing_mm": [round(float(length) / processor.image_size, 3) for length in seen],
        "intensity_mean": round(float(cube.mean()), 6),
        "intensity_sd": round(float(cube.std()), 6),
        "brain_mask": processor.brain_mask,
        "framing": "head" if framed else "field_of_view",
        "bias_correction": "n4" if corrects_bias(processor) else "none",
        "frame_corners_mm": frame_corners(volume) if framed else None,
        "background": f"constant over {100 * constant:.0f} % of the volume: it looks skull-stripped or masked"
        if constant > MASKED_SHARE
        else "carries signal or noise: it does not look skull-stripped",
    }


def frame_corners(volume: Volume) -> list[list[float]]:
    """Where the centres of the cube's first and last voxel are, in millimetres (R, A, S) of the scan."""
    assert volume.affine is not None and volume.frame is not None  # it was framed
    return [
        np.round(volume.affine @ [*corner, 1], 3)[:3].tolist() for corner in (volume.frame.first, volume.frame.last)
    ]


def intensity_window(data: np.ndarray) -> list[float]:
    """The intensities to display as black and white: the 2nd and 99.8th percentile of every 27th voxel."""
    low, high = np.quantile(data[::3, ::3, ::3], (0.02, 0.998))
    if low == high:
        low, high = data.min(), data.max()
    return [float(low), float(high)]

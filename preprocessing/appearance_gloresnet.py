"""Describe a standardised volume by twelve numbers, and say which of them are far from those of the training scans.

A network gives confident answers even for images unlike its training scans. These numbers need no network, and each has
a simple meaning. This file travels with a model, so that the pipeline can warn as predict.py and the page do.
"""

import numpy as np

from .reading_gloresnet import VolumeError

FOREGROUND = 0.0  # the mean of a standardised volume; the head is above it, the background below
STANDARDISED = 1e-3  # its mean is within this of 0, its standard deviation of 1
LONGEST_EDGE = "longest_edge_mm"  # of the voxels of a scan; the record holds its range over the training scans
COARSER = 1.1  # times the largest longest edge of the training scans; more counts as coarser
FAR = 4.5  # standard deviations of the training scans; held-out phantoms stay within 4

# name -> meaning, unit, and a lower bound for the standard deviation over the training scans
DESCRIPTORS = {
    "dark": ("the darkest 5 % of the volume", " SD", 0.05),
    "middle": ("the median intensity", " SD", 0.05),
    "bright": ("the brightest 0.5 % of the volume", " SD", 0.1),
    "constant": ("the share of exactly constant background", "", 0.05),
    "sharpness": ("the difference between neighbouring voxels", " SD", 0.01),
    "symmetry": ("the correlation of the left with the right half", "", 0.02),
    "extent_right_left": ("the head's extent from left to right (share of the volume)", "", 0.02),
    "extent_front_back": ("the head's extent from back to front (share of the volume)", "", 0.02),
    "extent_up_down": ("the head's extent from bottom to top (share of the volume)", "", 0.02),
    "centre_right_left": ("the head's centre from left to right (share of the volume)", "", 0.01),
    "centre_front_back": ("the head's centre from back to front (share of the volume)", "", 0.01),
    "centre_up_down": ("the head's centre from bottom to top (share of the volume)", "", 0.01),
}


def check_standardised(channel: np.ndarray, name: str) -> np.ndarray:
    """Check that a channel `(R, A, S)` float32 has mean 0 and standard deviation 1, and return it.

    Raises:
        VolumeError: it does not, so no network may answer for it.
    """
    mean = float(channel.mean())
    sd = max(float(np.square(channel).mean()) - mean**2, 0.0) ** 0.5
    if not (abs(mean) <= STANDARDISED and abs(sd - 1) <= STANDARDISED):
        raise VolumeError(
            f"{name} has mean {mean:.3g} and SD {sd:.3g} after standardising, not 0 and 1:"
            " check that its intensities differ enough, and its scaling (scl_slope)."
        )
    return channel


def describe(volume: np.ndarray) -> dict[str, float]:
    """The descriptors of one standardised volume.

    Args:
        volume: `(R, A, S)` float32 with mean 0 and standard deviation 1, as the processor makes it.

    Returns:
        One number for each name in `DESCRIPTORS`. An extent is the distance between the 5th and 95th percentile of the
        foreground.
    """
    dark, middle, bright = np.quantile(volume[::2, ::2, ::2], (0.05, 0.5, 0.995))  # an eighth of the voxels is enough
    answer = {
        "dark": dark,
        "middle": middle,
        "bright": bright,
        "constant": np.mean(volume < volume.min() + 1e-3),
        "sharpness": np.mean([np.abs(np.diff(volume, axis=axis)).mean() for axis in range(3)]),
        "symmetry": np.mean(volume * volume[::-1]),  # this is the correlation, because mean is 0 and SD 1
    }
    foreground = volume > FOREGROUND
    for axis, name in enumerate(("right_left", "front_back", "up_down")):
        profile = foreground.sum(axis=tuple({0, 1, 2} - {axis}))
        cumulative = np.cumsum(profile) / profile.sum()
        answer[f"extent_{name}"] = np.subtract(*np.searchsorted(cumulative, (0.95, 0.05))) / len(profile)
        answer[f"centre_{name}"] = np.average(np.arange(len(profile)), weights=profile) / (len(profile) - 1)
    return {name: float(answer[name]) for name in DESCRIPTORS}


def coarser(edge_mm: float | None, trained_on: dict[str, list[float]] | None) -> list[str]:
    """A warning about voxels, or slices, that are longer than those of all training scans.

    Args:
        edge_mm: the longest edge of the scan's voxels; None if it is not known.
        trained_on: `training_appearance` of a model. Models from before version 0.2 have no record of voxel edges.

    Returns:
        One sentence if the edge is more than `COARSER` times the largest one of the training scans; else nothing.
    """
    least, most = (trained_on or {}).get(LONGEST_EDGE, (0, np.inf))
    if edge_mm is None or edge_mm <= COARSER * most:
        return []
    seen = f"{most:.2f} mm" if f"{least:.2f}" == f"{most:.2f}" else f"{least:.2f} to {most:.2f} mm"
    return [
        f"The longest edge of the voxels, or the slice spacing, is {edge_mm:.2f} mm; in the training scans it was "
        f"{seen}: small injuries may be invisible."
    ]


def unusual(volume: np.ndarray, trained_on: dict[str, list[float]] | None) -> list[str]:
    """Warnings about a volume that differs from the training scans.

    Args:
        volume: as in `describe`.
        trained_on: `{name: [mean, standard deviation]}` of each descriptor over the training scans; None if the model
            has no such record. Other names do not matter here.

    Returns:
        One sentence per descriptor that is more than `FAR` standard deviations from the training mean; one sentence if
        there is no record.
    """
    if not trained_on:
        return ["The model has no record of its training scans: it is not known whether this scan is similar to them."]
    sentences = []
    for name, value in describe(volume).items():
        (what, unit, least), (mean, sd) = DESCRIPTORS[name], trained_on[name]
        if abs(value - mean) > FAR * max(sd, least):
            what = what[0].upper() + what[1:]
            sentences.append(f"{what} is {value:.2f}{unit}; in the training scans it was {mean:.2f} ± {sd:.2f}{unit}.")
    return sentences

"""How a standardised volume looks, in a few plain numbers, and whether a model was trained on volumes that look so.

A network answers with confidence whatever it is shown. These numbers need no network, and each can be said in words.
"""

from collections.abc import Iterable

import numpy as np

FOREGROUND = 0.0  # standard deviations: head and background lie on either side of a standardised volume's mean
FAR = 4.5  # standard deviations of the training scans; held-out phantoms stay within 4
MASKED_SHARE = 0.3  # of the voxels at exactly the darkest value: a scanner's background is never that flat

# name -> what it is in words, its unit, and the smallest spread that training scans are taken to have
DESCRIPTORS = {
    "dark": ("the darkest 5 % of the volume", " SD", 0.05),
    "middle": ("the median intensity", " SD", 0.05),
    "bright": ("the brightest 0.5 % of the volume", " SD", 0.1),
    "constant": ("the share of exactly constant background", "", 0.05),
    "sharpness": ("the difference between neighbouring voxels", " SD", 0.01),
    "symmetry": ("the correlation of the left with the right half", "", 0.02),
    "extent_right_left": ("the head's extent from left to right, as a share of the volume", "", 0.02),
    "extent_front_back": ("the head's extent from back to front, as a share of the volume", "", 0.02),
    "extent_up_down": ("the head's extent from bottom to top, as a share of the volume", "", 0.02),
    "centre_right_left": ("the head's centre from left to right, as a share of the volume", "", 0.01),
    "centre_front_back": ("the head's centre from back to front, as a share of the volume", "", 0.01),
    "centre_up_down": ("the head's centre from bottom to top, as a share of the volume", "", 0.01),
}


def describe(volume: np.ndarray) -> dict[str, float]:
    """The descriptors of one standardised volume.

    Args:
        volume: `(R, A, S)` float32 with mean 0 and standard deviation 1, as the processor makes it.

    Returns:
        One number for each name of `DESCRIPTORS`. Extents reach from the 5th to the 95th percentile of the foreground.
    """
    dark, middle, bright = np.quantile(volume[::2, ::2, ::2], (0.05, 0.5, 0.995))  # an eighth says the same
    answer = {
        "dark": dark,
        "middle": middle,
        "bright": bright,
        "constant": np.mean(volume < volume.min() + 1e-3),
        "sharpness": np.mean([np.abs(np.diff(volume, axis=axis)).mean() for axis in range(3)]),
        "symmetry": np.mean(volume * volume[::-1]),  # the correlation, as the mean is 0 and the deviation 1
    }
    foreground = volume > FOREGROUND
    for axis, name in enumerate(("right_left", "front_back", "up_down")):
        profile = foreground.sum(axis=tuple({0, 1, 2} - {axis}))
        cumulative = np.cumsum(profile) / profile.sum()
        answer[f"extent_{name}"] = np.subtract(*np.searchsorted(cumulative, (0.95, 0.05))) / len(profile)
        answer[f"centre_{name}"] = np.average(np.arange(len(profile)), weights=profile) / (len(profile) - 1)
    return {name: float(answer[name]) for name in DESCRIPTORS}


def training_appearance(volumes: Iterable[np.ndarray]) -> dict[str, list[float]]:
    """What a model's training scans look like together: `{name: [mean, standard deviation]}`, nothing about one scan.

    Args:
        volumes: as in `describe`, one at least.
    """
    rows = [list(describe(volume).values()) for volume in volumes]
    columns = zip(DESCRIPTORS, np.mean(rows, axis=0), np.std(rows, axis=0), strict=True)
    return {name: [round(float(mean), 5), round(float(sd), 5)] for name, mean, sd in columns}


def unusual(volume: np.ndarray, trained_on: dict[str, list[float]] | None) -> list[str]:
    """One sentence for each way in which a volume lies far from what the model was trained on; none if it does not."""
    if not trained_on:
        return ["The model has no record of how its training scans look: whether this one is alike is not known."]
    sentences = []
    for name, value in describe(volume).items():
        (what, unit, least), (mean, sd) = DESCRIPTORS[name], trained_on[name]
        if abs(value - mean) > FAR * max(sd, least):
            what = what[0].upper() + what[1:]
            sentences.append(f"{what} is {value:.2f}{unit}; in the training scans it was {mean:.2f} ± {sd:.2f}{unit}.")
    return sentences

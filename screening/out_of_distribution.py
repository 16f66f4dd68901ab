"""The record of how the training scans look, and the warnings about scans that look different.

The numbers and sentences themselves are in `preprocessing.appearance_gloresnet`, which travels with every model.
"""

from collections.abc import Iterable

import numpy as np

from preprocessing.appearance_gloresnet import DESCRIPTORS, describe, unusual

__all__ = ["DESCRIPTORS", "MASKED_SHARE", "describe", "training_appearance", "unusual"]

MASKED_SHARE = 0.3  # share of voxels at the darkest value; an unmasked background is never so constant


def training_appearance(volumes: Iterable[np.ndarray]) -> dict[str, list[float]]:
    """Mean and standard deviation of each descriptor over the training scans; nothing about a single scan.

    Args:
        volumes: at least one, as in `describe`.

    Returns:
        `{name: [mean, standard deviation]}`
    """
    rows = [list(describe(volume).values()) for volume in volumes]
    columns = zip(DESCRIPTORS, np.mean(rows, axis=0), np.std(rows, axis=0), strict=True)
    return {name: [round(float(mean), 5), round(float(sd), 5)] for name, mean, sd in columns}

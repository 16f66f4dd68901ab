"""Decide which voxels a brain mask selects, and refuse what is not a brain mask."""

import numpy as np

from .reading_gloresnet import VolumeError

SMALLEST = 0.002  # of the volume: in a cube of 256 mm this is 34 mL, less than the brain at 24 weeks
LARGEST = 0.75  # of the volume: an ellipsoid fills 0.52 of its bounding box
BORDER = 0.5  # of the outermost voxels: a brain is inside the head, which is inside the volume
ROUNDING = 1e-5  # of probabilities
ADVICE = "give a mask that is 1 in the brain and 0 elsewhere, or brain probabilities from 0 to 1."


def brain_voxels(mask: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The voxels that a mask selects.

    Args:
        mask: 0 outside and one positive number (such as 1 or 255) inside; or probabilities in [0, 1], of which those
            of at least 0.5 are brain. Finite.
        name: of the mask in messages.

    Returns:
        The brain as a boolean array, and sentences to warn about.

    Raises:
        VolumeError: the mask has other values, selects (nearly) nothing or nearly everything, or is inverted.
    """
    low, high = float(mask.min()), float(mask.max())
    sentences: tuple[str, ...] = ()
    if low < -ROUNDING:
        raise VolumeError(f"{name} has negative values, down to {low:.3g}, as a map of signed distances has: {ADVICE}")
    if high == 0:
        raise VolumeError(f"{name} is an empty mask, no voxel is above 0: give the brain mask of this scan.")
    two_values = low == 0 and np.count_nonzero(mask) == np.count_nonzero(mask == high)
    if two_values and high > 1 - ROUNDING:  # a scaling factor in the header may round 1 down
        brain = mask > 0
    elif high <= 1 + ROUNDING and low < high:
        brain = mask >= 0.5
        sentences = (
            f"The values are between 0 and 1, from {low:.3g} to {high:.3g}; voxels of at least 0.5 count as brain.",
        )
    elif low == high:
        raise VolumeError(f"{name} covers the whole volume, every voxel is {low:.3g}: {ADVICE}")
    else:
        values = len(np.unique(mask))
        raise VolumeError(f"{name} has {values} different values from {low:.3g} to {high:.3g}: {ADVICE}")
    _check_place(brain, name)
    return brain, sentences


def _check_place(brain: np.ndarray, name: str) -> None:
    """Check that a brain may have this size and place.

    Raises:
        VolumeError: it may not.
    """
    share = np.count_nonzero(brain) / brain.size
    if share < SMALLEST:
        raise VolumeError(
            f"{name} is a nearly empty mask, {_percent(share)} of the volume: give the brain mask of this scan."
        )
    border = _border_share(brain)
    if border > BORDER:
        raise VolumeError(f"{name} covers {_percent(border)} of the border of the volume, so it is inverted: {ADVICE}")
    if share > LARGEST:
        raise VolumeError(f"{name} covers {_percent(share)} of the volume, more than a brain does: {ADVICE}")
    if np.count_nonzero(_enclosed(brain)) > np.count_nonzero(brain[::2, ::2, ::2]):
        raise VolumeError(f"{name} surrounds a hole that is larger than the mask, so it is inverted: {ADVICE}")


def _border_share(brain: np.ndarray) -> float:
    """The share of the six faces of the volume that is brain."""
    faces = [np.moveaxis(brain, axis, 0)[place] for axis in range(3) for place in (0, -1)]
    return sum(np.count_nonzero(face) for face in faces) / sum(face.size for face in faces)


def _enclosed(brain: np.ndarray) -> np.ndarray:
    """The voxels outside that have brain before and after them along every axis; of every second voxel per axis."""
    brain = brain[::2, ::2, ::2]
    enclosed = ~brain
    for axis in range(3):
        enclosed &= np.logical_or.accumulate(brain, axis)
        enclosed &= np.flip(np.logical_or.accumulate(np.flip(brain, axis), axis), axis)
    return enclosed


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.99 or share == 1 else f"{100 * share:.4g} %"

"""Random rotation and left-right flip of a batch, on its device. Drawing and applying are separate functions."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor


class Augmentation(NamedTuple):
    """The rotation and the flip of each volume in a batch."""

    rotations: np.ndarray
    """(B, 3, 3), map output to input coordinates relative to the centre, axes R, A, S"""
    flips: np.ndarray
    """(B,) bool, whether the volume is mirrored left to right"""


def draw_augmentation(
    rng: np.random.Generator, batch_size: int, *, rotation_degrees: float, flip_prob: float
) -> Augmentation:
    """Draw angles about R, A and S, uniform in +-`rotation_degrees`, and flips with probability `flip_prob`."""
    angles = rng.uniform(-rotation_degrees, rotation_degrees, size=(batch_size, 3))
    rotations = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return Augmentation(rotations, rng.random(batch_size) < flip_prob)


def augment(volumes: Tensor, augmentation: Augmentation) -> Tensor:
    """Rotate each volume about its centre (trilinear, edge values repeated outside), then flip it where drawn.

    Volumes rotate on the standardised voxel grid. If the scan's field of view was not a cube, that grid is stretched,
    so in millimetres the result is also slightly sheared.

    Args:
        volumes: (B, C, R, A, S), cubic, any device.
        augmentation: one rotation and flip per volume, the same for all its channels.

    Returns:
        (B, C, R, A, S), a new tensor.
    """
    rotated = torch.empty_like(volumes)
    axis = torch.linspace(-1, 1, volumes.shape[-1], dtype=volumes.dtype, device=volumes.device)
    # one volume at a time to save memory: the sampling points take three times the memory of the volume
    for index, rotation in enumerate(augmentation.rotations):
        volume = volumes[index : index + 1]
        if not np.array_equal(rotation, np.eye(3)):
            # grid_sample expects each point as (S, A, R), with 0 at the centre and 1 at the border
            matrix = torch.as_tensor(rotation[::-1].copy(), dtype=volumes.dtype, device=volumes.device)
            r, a, s = (matrix[:, :, None] * axis).unbind(1)
            points = (r[:, :, None, None] + a[:, None, :, None] + s[:, None, None, :]).movedim(0, -1)
            # plane by plane, because grid_sample spreads only the batch dimension over the CPU's cores
            planes, volume = points[:, None], volume.expand(len(points), -1, -1, -1, -1)
            volume = F.grid_sample(volume, planes, mode="bilinear", padding_mode="border", align_corners=True)
            volume = volume.transpose(0, 2)
        rotated[index] = volume[0].flip(1) if augmentation.flips[index] else volume[0]
    return rotated

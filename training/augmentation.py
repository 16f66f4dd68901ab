"""Random rotation and left-right flip of a batch, on its device. Drawing the parameters is apart from applying them."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor


class Augmentation(NamedTuple):
    """What is done to each volume of a batch."""

    rotations: np.ndarray
    """(B, 3, 3), from output to input coordinates about the centre, axes R, A, S"""
    flips: np.ndarray
    """(B,), whether the volume is mirrored left to right"""


def draw_augmentation(
    rng: np.random.Generator, batch_size: int, *, rotation_degrees: float, flip_prob: float
) -> Augmentation:
    """Angles about R, A and S uniform within +-`rotation_degrees`, and flips with probability `flip_prob`."""
    angles = rng.uniform(-rotation_degrees, rotation_degrees, size=(batch_size, 3))
    rotations = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return Augmentation(rotations, rng.random(batch_size) < flip_prob)


def augment(volumes: Tensor, augmentation: Augmentation) -> Tensor:
    """Rotate each volume about its centre (trilinear, edge values beyond the border), then flip where drawn.

    The rotation is one of the standardised lattice: where the scan's field of view is not a cube, it is slightly
    sheared in millimetres, as the lattice itself is stretched.

    Args:
        volumes: (B, 1, R, A, S), cubic, any device.
        augmentation: one rotation and flip a volume.

    Returns:
        (B, 1, R, A, S), a new tensor.
    """
    rotated = torch.empty_like(volumes)
    axis = torch.linspace(-1, 1, volumes.shape[-1], dtype=volumes.dtype, device=volumes.device)
    # one volume at a time: a grid is three times the size of its volume
    for index, rotation in enumerate(augmentation.rotations):
        volume = volumes[index : index + 1]
        if not np.array_equal(rotation, np.eye(3)):
            # grid_sample wants the point of each output voxel as (S, A, R), the centre 0 and the border 1
            matrix = torch.as_tensor(rotation[::-1].copy(), dtype=volumes.dtype, device=volumes.device)
            r, a, s = (matrix[:, :, None] * axis).unbind(1)
            points = (r[:, :, None, None] + a[:, None, :, None] + s[:, None, None, :]).movedim(0, -1)
            # plane by plane, as grid_sample shares among a CPU's cores what is apart in the batch
            planes, volume = points[:, None], volume.expand(len(points), -1, -1, -1, -1)
            volume = F.grid_sample(volume, planes, mode="bilinear", padding_mode="border", align_corners=True)
            volume = volume.transpose(0, 2)
        rotated[index] = volume[0].flip(1) if augmentation.flips[index] else volume[0]
    return rotated

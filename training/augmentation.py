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
    # one volume at a time: a grid is three times the size of its volume
    for index, rotation in enumerate(augmentation.rotations):
        volume = volumes[index : index + 1]
        if not np.array_equal(rotation, np.eye(3)):
            # grid_sample's coordinates run x = S, y = A, z = R: reverse both sides of the matrix
            theta = np.concatenate([rotation[::-1, ::-1], np.zeros((3, 1))], axis=1)
            theta = torch.as_tensor(theta[None].copy(), dtype=volumes.dtype, device=volumes.device)
            # plane by plane, as grid_sample shares among a CPU's cores what is apart in the batch
            planes = F.affine_grid(theta, list(volume.shape), align_corners=True).transpose(0, 1)
            volume = volume.expand(len(planes), -1, -1, -1, -1)
            volume = F.grid_sample(volume, planes, mode="bilinear", padding_mode="border", align_corners=True)
            volume = volume.transpose(0, 2)
        rotated[index] = volume[0].flip(1) if augmentation.flips[index] else volume[0]
    return rotated

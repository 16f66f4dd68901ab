"""Propose places where a small dark lesion may be, and cut what a small network needs to judge them.

Every local minimum of the scan that is darker than its surroundings is a candidate: thousands per scan, of which a
network keeps the few suspicious ones. Nothing here is learnt.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .interior_gloresnet import Interior, NoInterior, find_interior, import_ndimage
from .volume_gloresnet import Volume

FINE_MM, COARSE_MM = 0.5, 1.8  # standard deviations of the Gaussians: the scan at a candidate, and its surroundings
DARKEST, BRIGHTEST = 0.35, 1.15  # of a candidate; white matter is 1
CONTRAST = 0.03  # by which a candidate is darker than its surroundings; white matter is 1
FROM_EDGE = 9  # voxels between a candidate and the edge of the array
MOST = 4096  # candidates per scan; a scan with more keeps those that are darkest compared with their surroundings
FEWEST = 50  # a scan with fewer is not searched: its interior is not that of a brain
EDGE = 11  # voxels per edge of a cube
GAIN, LIMIT = 4.0, 4.0  # cubes hold (intensity - 1) * GAIN, between -LIMIT and LIMIT
APART_MM = 3.0  # between two places: a lesion of this size is one place
HIGHEST = 256  # candidates that are compared when places are listed
ALONE = "answered by the global stream alone: "


class LocalInputs(NamedTuple):
    """What the local stream needs of one scan.

    Attributes:
        patches: `(n, 2, 11, 11, 11)` float32, see `cut_patches`. n is 0 if the local stream is silent.
        positions: `(n, 3)` float32, of the candidates in the scan's world millimetres (right, anterior, superior).
        valid: `(n,)` bool, all True; batches are padded with False.
        shares: `(9,)` float32, see `interior_gloresnet.intensity_shares`; NaN if the local stream is silent.
        warning: why the local stream is silent, or "".
    """

    patches: np.ndarray
    positions: np.ndarray
    valid: np.ndarray
    shares: np.ndarray
    warning: str = ""


def local_inputs(volume: Volume, masked: bool = False) -> LocalInputs:
    """Find and cut the candidates of one scan.

    Args:
        volume, masked: see `find_interior`.

    Raises:
        VolumeError: scipy is not installed.
    """
    try:
        interior = find_interior(volume, masked)
        voxels = find_candidates(interior)
        if len(voxels) < FEWEST:
            raise NoInterior(f"it has {len(voxels)} places that could be a small lesion, fewer than {FEWEST}.")
    except NoInterior as reason:
        return no_local_inputs(f"{ALONE}{reason}")
    positions = voxels @ interior.affine[:3, :3].T + interior.affine[:3, 3]
    return LocalInputs(
        cut_patches(interior.data, voxels), positions.astype(np.float32), np.ones(len(voxels), bool), interior.shares
    )


def no_local_inputs(warning: str = "") -> LocalInputs:
    """The inputs of a scan about which the local stream is silent."""
    return LocalInputs(
        np.zeros((0, 2, EDGE, EDGE, EDGE), np.float32),
        np.zeros((0, 3), np.float32),
        np.zeros(0, bool),
        np.full(9, np.nan, np.float32),
        warning,
    )


def stack_local_inputs(scans: Sequence[LocalInputs]) -> dict[str, np.ndarray]:
    """The inputs of several scans as one batch, by the names that the model takes them.

    Returns:
        `local_patches` `(B, N, 2, 11, 11, 11)` float32, `local_positions` `(B, N, 3)` float32 in mm, `local_valid`
        `(B, N)` bool, `local_shares` `(B, 9)` float32. N is the largest number of candidates of a scan, and at least 1;
        padding is 0 and not valid.
    """
    most = max(1, *(len(scan.valid) for scan in scans))
    batch = {
        "local_patches": np.zeros((len(scans), most, 2, EDGE, EDGE, EDGE), np.float32),
        "local_positions": np.zeros((len(scans), most, 3), np.float32),
        "local_valid": np.zeros((len(scans), most), bool),
        "local_shares": np.stack([scan.shares for scan in scans]),
    }
    for row, scan in enumerate(scans):
        count = len(scan.valid)
        batch["local_patches"][row, :count] = scan.patches
        batch["local_positions"][row, :count] = scan.positions
        batch["local_valid"][row, :count] = scan.valid
    return batch


def find_candidates(interior: Interior) -> np.ndarray:
    """The voxels inside the brain that are darker than all 26 neighbours and than their surroundings.

    Args:
        interior: see `find_interior`.

    Returns:
        `(n, 3)` int64 voxel indices of `interior.data`, in ascending order, n at most 4096.
    """
    ndimage = import_ndimage("the scan")
    data, spacing = interior.data, interior.spacing
    smooth = ndimage.gaussian_filter(data, FINE_MM / spacing, mode="nearest")
    minima = ndimage.minimum_filter(smooth, 3, mode="nearest")
    minima = (minima == smooth) & interior.inside & (smooth > DARKEST) & (smooth < BRIGHTEST)
    middle = np.zeros_like(minima)
    middle[(slice(FROM_EDGE, -FROM_EDGE),) * 3] = True
    around = ndimage.gaussian_filter(data, COARSE_MM / spacing, mode="nearest")
    voxels = np.argwhere(minima & middle)
    place = tuple(voxels.T)
    contrast = around[place] - smooth[place]
    kept = np.flatnonzero(contrast >= CONTRAST)
    if len(kept) > MOST:
        kept = np.sort(kept[np.argsort(-contrast[kept], kind="stable")[:MOST]])
    return voxels[kept]


def cut_patches(data: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Two cubes of 11 voxels around each candidate: on the grid, and at twice its spacing.

    The second cube takes every second voxel of the mean over 3^3 voxels. Beyond its edge, the array continues with its
    outermost voxels.

    Args:
        data: `(x, y, z)` float32; white matter is 1.
        voxels: `(n, 3)` whole numbers.

    Returns:
        `(n, 2, 11, 11, 11)` float32: (intensity - 1) * 4, between -4 and 4.
    """
    ndimage = import_ndimage("the scan")
    half = EDGE // 2
    patches = np.empty((len(voxels), 2, EDGE, EDGE, EDGE), np.float32)
    if not len(voxels):
        return patches
    place = tuple(np.asarray(voxels).T)
    fine = np.pad(data, half, mode="edge")
    patches[:, 0] = _windows(fine, EDGE)[place]
    coarse = np.pad(ndimage.uniform_filter(data, 3, mode="nearest"), 2 * half, mode="edge")
    patches[:, 1] = _windows(coarse, 4 * half + 1)[:, :, :, ::2, ::2, ::2][place]
    patches -= 1
    patches *= GAIN
    return np.clip(patches, -LIMIT, LIMIT, out=patches)


def top_places(logits: np.ndarray, positions: np.ndarray, count: int = 24) -> np.ndarray:
    """The highest candidates that are at least 3 mm apart.

    Args:
        logits: `(n,)` of the candidates of one scan, without padding.
        positions: `(n, 3)` in mm.
        count: how many places at most.

    Returns:
        Indices of candidates, the highest first. Candidates beyond the 256 highest are not considered.
    """
    order = np.argsort(-np.asarray(logits), kind="stable")[:HIGHEST]
    positions = np.asarray(positions, np.float64)
    kept: list[int] = []
    for index in order:
        if len(kept) == count:
            break
        if (((positions[kept] - positions[index]) ** 2).sum(axis=1) >= APART_MM**2).all():
            kept.append(int(index))
    return np.array(kept, int)


def _windows(data: np.ndarray, edge: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(data, (edge, edge, edge))

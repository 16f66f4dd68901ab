"""Place an image of a session in the world of its T2w scan, through a transform in FSL's FLIRT convention.

Only the affine changes: no voxel is interpolated, so that the image can be mapped to the network's cube in one step.
"""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from preprocessing.reading_gloresnet import VolumeError, open_image, spatial_shape, stated_affine
from preprocessing.volume_gloresnet import Volume, read_volume

from .images import CohortError

LARGEST_FILE = 10_000  # bytes; a 4 x 4 matrix of text has a few hundred
SCALED = 0.1  # the two images show one head: an edge may change by this share at most


def in_t2w_space(
    image: str | os.PathLike[str] | SpatialImage,
    matrix: str | os.PathLike[str] | None,
    t2w: str | os.PathLike[str] | SpatialImage,
) -> Volume:
    """The image as `read_volume` returns it, with an affine into the world of the T2w scan, in mm.

    Args:
        image: the image that moves, such as an FA map.
        matrix: FLIRT's matrix from it to the T2w scan, a text file of 4 rows of 4 numbers; None if the image lies in
            the T2w scan's world already.
        t2w: the scan.

    Raises:
        CohortError: the matrix cannot be read, or cannot be a motion of one head: it mirrors or scales.
        VolumeError: an image cannot be used.
    """
    volume = read_volume(image, "the image")
    if volume.affine is None:
        raise VolumeError(f"{volume.source} has no affine: give a NIfTI file.")
    if matrix is None:
        return volume
    return volume._replace(affine=_world(Path(matrix), _lattice(image), _lattice(t2w)) @ volume.affine)


def _lattice(image: str | os.PathLike[str] | SpatialImage) -> nib.Nifti1Image:
    """An empty image with the stored shape and affine."""
    name = "the image"
    if isinstance(image, (str, os.PathLike)):
        name = os.fsdecode(image)
        image = open_image(name)
    shape = spatial_shape(tuple(int(n) for n in image.shape), name)
    return nib.Nifti1Image(np.broadcast_to(np.uint8(0), shape), stated_affine(image, name))


def _world(matrix: Path, moving: nib.Nifti1Image, t2w: nib.Nifti1Image) -> np.ndarray:
    """The motion from the world of `moving` to that of the T2w scan, mm, 4 x 4. Raises CohortError."""
    try:
        from nitransforms.io.fsl import FSLLinearTransform  # only for transforms: it is not needed for T2w and T1w
    except ImportError as error:
        raise CohortError(f"{matrix} can be read with nitransforms only: run pip install nitransforms.") from error
    try:
        if matrix.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it has {matrix.stat().st_size} bytes")
        text = matrix.read_text(encoding="ascii")
        stated = np.array([[float(number) for number in line.split()] for line in text.splitlines() if line.strip()])
        if stated.shape != (4, 4) or not np.isfinite(stated).all() or (stated[3] != (0, 0, 0, 1)).any():
            raise ValueError("it is not 4 rows of 4 finite numbers that end with 0 0 0 1")
        to_moving = FSLLinearTransform.from_string(text).to_ras(moving=moving, reference=t2w)
        world = np.linalg.inv(to_moving)
    except (OSError, ValueError) as error:  # LinAlgError is a ValueError
        reason = " ".join(str(error).split()).rstrip(".")
        raise CohortError(f"{matrix} is not a matrix of FSL's FLIRT ({reason}): make it again.") from error
    edges = np.linalg.svd(world[:3, :3], compute_uv=False)
    if np.linalg.det(world[:3, :3]) < 0:
        raise CohortError(
            f"{matrix} mirrors the image, so it cannot be right: make it again with FLIRT, rigid (6 dof)."
        )
    if np.abs(edges - 1).max() > SCALED:
        raise CohortError(
            f"{matrix} scales the image by {edges.min():.2f} to {edges.max():.2f}, but a transform within one session "
            "is rigid: check that it belongs to this image and this T2w scan."
        )
    return world

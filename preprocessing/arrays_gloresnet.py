"""Take the voxels and the affine out of arrays, tensors, and images of other libraries, by duck typing."""

import os
import sys
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage

from .reading_gloresnet import VolumeError, check_affine, open_image, stated_affine

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def array_and_affine(source: Any, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The voxels of an object in memory, and its affine from voxel indices to RAS millimetres.

    Args:
        source: an array or tensor; one with an affine (MONAI `MetaTensor`); or an image with an affine and its voxels
            in `data` (TorchIO `ScalarImage`) or from `get_fdata()`. An affine is RAS, or LPS if `meta["space"]` says
            so, as in MONAI.
        name: of the scan in messages.

    Returns:
        The array, and the affine; None if the object has no affine.

    Raises:
        VolumeError: it is another object, its orientation cannot be known, or its affine cannot be used.
    """
    affine, voxels = getattr(source, "affine", None), source
    if affine is not None and not is_array(source):
        voxels = source.get_fdata() if hasattr(source, "get_fdata") else getattr(source, "data", None)
    elif hasattr(source, "GetDirection") or (hasattr(source, "direction") and hasattr(source, "spacing")):
        kind = f"{type(source).__module__.split('.')[0]} {type(source).__name__}"
        raise VolumeError(f"{name} is a {kind}: write it to a NIfTI file, and give the path, or nibabel.load(path).")
    if not is_array(voxels):
        raise VolumeError(
            f"{name} is a {type(source).__name__}: give a path, a nibabel volume, or a 3D array or tensor."
        )
    if np.ma.is_masked(voxels):
        raise VolumeError(f"{name} is an array with masked voxels: fill them, for example with array.filled(0).")
    if affine is None:
        return _as_numpy(voxels), None
    matrix = np.array(_as_numpy(affine), dtype=np.float64)
    if matrix.ndim == 3 and len(matrix) == 1:  # a batch of one
        matrix = matrix[0]
    check_affine(matrix, name)
    meta = getattr(source, "meta", None)
    space = str(getattr(meta.get("space"), "value", meta.get("space"))) if isinstance(meta, dict) else ""
    return _as_numpy(voxels), LPS_TO_RAS @ matrix if space.upper() == "LPS" else matrix


def longest_edge(source: Any) -> float | None:
    """The longest edge of the voxels of a scan in mm, without reading its voxels.

    Args:
        source: a scan that `read_volume` accepts.

    Returns:
        The edge; None for an array without an affine.

    Raises:
        VolumeError: the file or its header cannot be used.
    """
    affine: Any
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        affine = stated_affine(open_image(path), path)
    elif isinstance(source, SpatialImage):
        affine = stated_affine(source, "the scan")
    else:
        affine = getattr(source, "affine", None)
        if affine is None:
            return None
        affine = np.array(_as_numpy(affine), dtype=np.float64).reshape(-1, 4, 4)[0]  # perhaps a batch of one
    return float(np.linalg.norm(affine[:3, :3], axis=0).max())


def is_array(source: Any) -> bool:
    """Whether it is a numpy array or a tensor."""
    torch = sys.modules.get("torch")  # not imported here: a tensor exists only where torch has been imported
    return isinstance(source, np.ndarray) or (torch is not None and isinstance(source, torch.Tensor))


def _as_numpy(array: Any) -> np.ndarray:
    if isinstance(array, np.ndarray) or not is_array(array):
        return np.asarray(array)
    torch = sys.modules["torch"]
    tensor = array.detach().cpu().as_subclass(torch.Tensor)
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

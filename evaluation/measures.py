"""Simple measurements of each scan: image quality (a proxy for motion) and tissue volumes from a segmentation.

They are features for `controls`: a network that only detects blur or large ventricles does no better than a logistic
regression on these numbers. The quality measures also depend on anatomy (a mature brain has more edges), so they are
proxies and do not diagnose motion.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from machine.programs import one_line
from preprocessing import VolumeError, read_labels
from run_folder.files import InputError

QUALITY = ("entropy_focus", "edge_strength", "noise", "background", "slice_jumps")
TISSUES = {  # DrawEM-9 labels; 4 is the background
    1: "csf_ml",
    2: "cortical_grey_matter_ml",
    3: "white_matter_ml",
    5: "ventricles_ml",
    6: "cerebellum_ml",
    7: "deep_grey_matter_ml",
    8: "brainstem_ml",
    9: "hippocampus_amygdala_ml",
}


def read_ras(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """A 3D image as float32 in RAS axis order, and its voxel size in mm (3,).

    Raises:
        InputError: the file is unreadable, not one 3D volume of known orientation, or has voxels that are not finite.
    """
    try:
        image = read_labels(path)
    except VolumeError as error:
        raise InputError(f"{path} cannot be read as an image ({one_line(error)})") from error
    assert image.affine is not None  # it was read from a file
    return np.asarray(image.data, dtype=np.float32), np.asarray(nib.affines.voxel_sizes(image.affine))


def image_quality(volume: np.ndarray) -> dict[str, float]:
    """Five quality measures of one volume in RAS order. They have no unit and do not depend on intensity scaling.

    - ``entropy_focus``: Shannon entropy of the voxel energies, divided by its maximum. Ghosts and blur raise it
      (Atkinson 1997, DOI 10.1109/42.650886; as in MRIQC, DOI 10.1371/journal.pone.0184661).
    - ``edge_strength``: root mean square gradient divided by mean intensity, inside the head. Blur lowers it. (The mean
      gradient would hardly change: a blurred edge is lower but wider.)
    - ``noise``: robust spread of each voxel's difference from the mean of its six neighbours, divided by mean
      intensity, inside the head.
    - ``background``: mean intensity outside the head divided by that inside. Ghosts raise it.
    - ``slice_jumps``: mean absolute second difference between the mean intensities of axial slices, divided by mean
      intensity. Through-plane motion raises it.

    Raises:
        InputError: the volume is constant.
    """
    volume = volume - volume.min()
    if volume.max() <= 0:
        raise InputError("image quality cannot be measured on a constant volume.")
    head = volume > 0.15 * np.percentile(volume[volume > 0], 99)
    mean = float(volume[head].mean())
    energy = volume.astype(np.float64) ** 2
    share = np.sqrt(energy / energy.sum())
    entropy = -np.sum(share * np.log(share, where=share > 0, out=np.zeros_like(share)))
    largest = np.sqrt(volume.size) * np.log(np.sqrt(volume.size))
    gradient_energy = sum(np.square(part) for part in np.gradient(volume))
    residual = ndimage.laplace(volume)[head] / 6
    spread = 1.4826 * np.median(np.abs(residual - np.median(residual))) / np.sqrt(1 + 1 / 6)
    inside = head.sum(axis=(0, 1))
    slices = (volume * head).sum(axis=(0, 1))[inside > 0.1 * inside.max()] / inside[inside > 0.1 * inside.max()]
    return {
        "entropy_focus": float(entropy / largest),
        "edge_strength": float(np.sqrt(gradient_energy[head].mean()) / mean),
        "noise": float(spread / mean),
        "background": float(volume[~head].mean() / mean) if (~head).any() else 0.0,
        "slice_jumps": float(np.abs(np.diff(slices, 2)).mean() / mean) if len(slices) > 2 else 0.0,
    }


def tissue_volumes(path: str | Path) -> dict[str, float]:
    """Volumes in mL of a DrawEM-9 segmentation, and ``ventricle_share``: ventricles divided by all tissue and CSF.

    Volume = voxels of the label x |det(affine)| / 1000.

    Raises:
        InputError: the file is unreadable or has no tissue label.
    """
    segmentation, voxel_size = read_ras(path)
    counts = np.bincount(np.rint(segmentation).astype(np.int64).ravel().clip(0), minlength=10)
    millilitres = float(np.prod(voxel_size)) / 1000
    volumes = {name: float(counts[label] * millilitres) for label, name in TISSUES.items()}
    total = sum(volumes.values())
    if total == 0:
        raise InputError(f"{path} has no voxel with a DrawEM-9 tissue label.")
    return {**volumes, "ventricle_share": volumes["ventricles_ml"] / total}


def _measured(scans: pd.DataFrame, column: str, measure) -> Iterator[dict[str, object]]:
    for row in scans.to_dict("records"):
        if isinstance(row.get(column), str) and row[column]:
            yield {"participant_id": row["participant_id"], "session_id": row["session_id"], **measure(row[column])}


def measure_quality(scans: pd.DataFrame) -> pd.DataFrame:
    """`image_quality` of every scan that has an ``image``: ``participant_id, session_id`` and one column per measure.

    It takes about 0.3 s per scan at 1 mm and 4 s at 0.5 mm.
    """
    return pd.DataFrame(_measured(scans, "image", lambda path: image_quality(read_ras(path)[0])))


def measure_volumes(scans: pd.DataFrame) -> pd.DataFrame:
    """`tissue_volumes` of every scan that has a ``segmentation``; same keys, empty if no scan has one."""
    return pd.DataFrame(_measured(scans, "segmentation", tissue_volumes))

"""Input without the global resize (setting I of Table 3): patches at native voxel spacing, written as a new cohort.

A scan is reoriented to RAS. A block of n x n x n adjacent patches of image_size^3 voxels is cut around the centre of
its voxel grid. Each patch is standardised by itself; the resize leaves a patch of this size unchanged. A patch has the
label of its scan, and all patches of a family are in one fold. A scan's probability is the mean over its patches.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from tqdm import tqdm

from cohort.phantom.writer import DESCRIPTION
from cohort.scans import find_scans
from preprocessing import apply_mask, correct_bias, read_volume
from run_folder.files import replacing_folder
from training.recipe import Recipe

MARK = "p"  # between session and patch number; a session may only have letters and digits


def starts(length: int, size: int, count: int) -> list[int]:
    """First voxels of up to `count` adjacent patches around the middle of an axis; fewer if fewer cover the axis.

    If the axis is shorter than the patches together, they extend beyond it on both sides.
    """
    count = min(count, -(-length // size))
    first = (length - count * size) // 2
    return [first + size * number for number in range(count)]


def cut(data: np.ndarray, start: tuple[int, int, int], size: int) -> np.ndarray:
    """A cube of `size`^3 voxels. Voxels outside the scan get the lowest intensity of the scan."""
    patch = np.full((size,) * 3, data.min(), dtype=np.float32)
    inside = [(max(s, 0), min(s + size, n)) for s, n in zip(start, data.shape, strict=True)]
    target = tuple(slice(low - s, high - s) for (low, high), s in zip(inside, start, strict=True))
    patch[target] = data[tuple(slice(*ends) for ends in inside)]
    return patch


def patch_cohort(data_dir: Path, labels: Path | None, recipe: Recipe, output: Path, per_axis: int) -> tuple[Path, Path]:
    """Write the patches of a cohort as a BIDS folder, unless it exists.

    Returns:
        The folder and its label table.

    Raises:
        CohortError, VolumeError: the cohort or one of its scans cannot be used.
    """
    name = [str(data_dir.resolve()), str(labels), recipe.image_size, recipe.brain_mask, recipe.max_birth_age, per_axis]
    if recipe.bias_correction != "none":
        name.append(recipe.bias_correction)  # otherwise folders from before this setting keep their names
    folder = output / hashlib.sha256(repr(name).encode()).hexdigest()[:8] / "patches"
    labels_file = folder / "labels.tsv"
    if not labels_file.is_file():
        with replacing_folder(folder) as temporary:
            _write_patches(data_dir, labels, recipe, temporary, per_axis)
    return folder, labels_file


def _write_patches(data_dir: Path, labels: Path | None, recipe: Recipe, folder: Path, per_axis: int) -> None:
    scans = find_scans(data_dir, labels, brain_mask=recipe.brain_mask, max_birth_age=recipe.max_birth_age)
    used = [scan for scan in scans if scan.status == "used"]
    rows, infants = [], {}
    for scan in tqdm(used, desc="cutting patches", unit="scan", disable=None):
        volume = read_volume(scan.image)
        if recipe.brain_mask == "required":
            volume = apply_mask(volume, scan.mask)
        if recipe.bias_correction == "n4":
            volume = correct_bias(volume, masked=recipe.brain_mask == "required")
        corners = [starts(n, recipe.image_size, per_axis) for n in volume.data.shape]
        for number, start in enumerate((x, y, z) for x in corners[0] for y in corners[1] for z in corners[2]):
            patch = cut(volume.data, start, recipe.image_size)
            if patch.min() == patch.max():
                continue  # only air
            session = f"{scan.session_id}{MARK}{number}"
            anat = folder / f"sub-{scan.participant_id}" / f"ses-{session}" / "anat"
            anat.mkdir(parents=True)
            image = nibabel.Nifti1Image(patch, volume.affine @ _moved(start))
            image.to_filename(anat / f"sub-{scan.participant_id}_ses-{session}_desc-restore_T2w.nii.gz")
            rows.append({"participant_id": scan.participant_id, "session_id": session, "label": scan.label})
            rows[-1]["radiology_score"] = scan.radiology_score or "n/a"
        infants[scan.participant_id] = {
            "participant_id": scan.participant_id,
            "family_id": scan.family,
            "birth_age": "n/a" if scan.birth_age is None else scan.birth_age,  # for --max_birth_age
        }
    pd.DataFrame(infants.values()).to_csv(folder / "participants.tsv", sep="\t", index=False)
    if (data_dir / DESCRIPTION).is_file():  # marks a phantom cohort
        shutil.copy(data_dir / DESCRIPTION, folder / DESCRIPTION)
    pd.DataFrame(rows).to_csv(folder / "labels.tsv", sep="\t", index=False)


def whole_scans(predictions: pd.DataFrame) -> pd.DataFrame:
    """Turn predictions of patches into predictions of scans: the mean over the patches of each scan."""
    session = predictions["session_id"].str.replace(rf"{MARK}\d+$", "", regex=True)
    keys = ["participant_id", "session_id", "family", "fold", "label", "radiology_score"]
    table = predictions.assign(session_id=session).groupby(keys, as_index=False, sort=False, dropna=False)
    return table[["p_injury", "p_injury_no_tta"]].mean()


def _moved(start: tuple[int, int, int]) -> np.ndarray:
    shift = np.eye(4)
    shift[:3, 3] = start
    return shift

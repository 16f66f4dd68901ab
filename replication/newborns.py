"""Make a labelled BIDS cohort out of scans of real newborns, with dark spots and wide ventricles of known size.

    python -m replication.newborns --scans FOLDER --output data/newborns [--seed 42]

FOLDER holds skull-stripped T2w scans, `NAME*T2w*.nii.gz`, each with `NAME*egmentation.nii.gz`, FreeSurfer's labels on
the same grid. NAME is what comes before the first underscore. Each infant becomes four scans with smooth random warps,
on the scan's own voxel size: two normal ones (radiology score 1), one with 2 to 6 dark spots in the white matter (3),
and one with wide ventricles (5). The four are one family, so no fold is trained on one and scored on another.

The injuries are those of `newborn_injuries.py`, and not of the painter that training uses, so a network that learnt the
habits of that painter gains nothing here. `lesions.tsv` lists each spot, `truth.tsv` each scan; masks and tissues are
next to the scans. A painted injury is never clinical evidence.

Exit status: 0 written, 1 failed, 2 wrong call, 130 interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m replication.newborns")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from machine.programs import WRONG_CALL, end_if_missing

PROGRAM = "python -m replication.newborns"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", type=Path, required=True, help="folder of skull-stripped T2w scans with labels")
    parser.add_argument("--output", type=Path, required=True, help="the BIDS folder to write")
    parser.add_argument("--seed", type=int, default=42, help="of all warps and injuries (default: 42)")
    parser.add_argument("--num_workers", type=int, help="processes (default: one per core)")
    options = parser.parse_args(argv)
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}: give 0 or more")
    if options.num_workers is not None and options.num_workers < 1:
        parser.error(f"--num_workers is {options.num_workers}: give at least 1")
    return options


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    end_if_missing(PROGRAM, [parse_arguments().scans], WRONG_CALL)

import functools
from typing import NamedTuple

import nibabel
import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm import tqdm

from cohort.phantom.fields import named_rng
from cohort.phantom.growth import (
    BRAINSTEM,
    CEREBELLUM,
    CORTEX,
    CSF,
    DEEP_GREY,
    HIPPOCAMPUS,
    VENTRICLES,
    WHITE_MATTER,
)
from machine.cores import available_cores
from machine.programs import run_program
from machine.workers import in_workers
from preprocessing import read_labels, read_volume
from run_folder.files import replacing_folder, write_json, write_text

from .newborn_injuries import WIDER, paint_spots, sampled, warp, widening

KINDS = {"normal": (2, 1), "spots": (1, 3), "ventricles": (1, 5)}  # copies of each infant, radiology score
TISSUES = {  # FreeSurfer's labels of the left and right side; any other voxel of the brain counts as fluid
    WHITE_MATTER: (2, 41),
    CORTEX: (3, 42),
    VENTRICLES: (4, 43),
    CEREBELLUM: (7, 8, 46, 47),
    DEEP_GREY: (9, 10, 11, 12, 13, 26, 28, 48, 49, 50, 51, 52, 58, 60),
    BRAINSTEM: (16,),
    HIPPOCAMPUS: (17, 18, 53, 54),
}
MARGIN_MM = 8.0  # of air around the stored field of view, so that no warp moves the brain out of it


class Infant(NamedTuple):
    """One infant, with its axes in RAS order: intensities, tissues (0 outside the brain), affine, voxel edges in mm."""

    name: str
    data: np.ndarray
    tissues: np.ndarray
    affine: np.ndarray
    spacing: np.ndarray


def find_infants(folder: Path) -> list[tuple[str, Path, Path]]:
    """The infants of a folder: (name, T2w scan, segmentation).

    Raises:
        ValueError: there is none, one has no segmentation, or two have one name.
    """
    found: dict[str, tuple[str, Path, Path]] = {}
    for scan in sorted(folder.glob("*T2w*.nii*")):
        name = scan.name.split("_")[0].removeprefix("sub-")
        labels = sorted(scan.parent.glob(f"{scan.name.split('_')[0]}_*egmentation.nii*"))
        if not name.isalnum():
            raise ValueError(f"{scan} starts with {name!r}: begin its name with letters or digits and an underscore")
        if len(labels) != 1:
            raise ValueError(f"{scan} has {len(labels)} segmentations named {name}_*egmentation.nii.gz: give it one")
        if name in found:
            raise ValueError(f"{found[name][1]} and {scan} start with the same name: keep one of them")
        found[name] = name, scan, labels[0]
    if not found:
        raise ValueError(f"{folder} has no scan named *T2w*.nii.gz: give a folder of skull-stripped T2w scans")
    return list(found.values())


def read_infant(name: str, scan: Path, labels: Path) -> Infant:
    """Read an infant, with `MARGIN_MM` of air added on every side.

    Raises:
        ValueError: the files cannot be read, have two grids, or the scan still has its skull.
    """
    volume, segmentation = read_volume(str(scan)), read_labels(str(labels))
    if volume.data.shape != segmentation.data.shape or not np.allclose(volume.affine, segmentation.affine, atol=1e-3):
        raise ValueError(f"{labels} is on another grid than {scan}: give FreeSurfer's labels on the scan's grid")
    if np.mean(volume.data == 0) < 0.2:
        raise ValueError(f"{scan} is not skull-stripped, it has no air of value 0: mask the brain first")
    tissues = np.where(ndimage.binary_fill_holes(volume.data > 0), CSF, 0).astype(np.uint8)
    for tissue, values in TISSUES.items():
        tissues[np.isin(segmentation.data, values)] = tissue
    for tissue in (WHITE_MATTER, VENTRICLES):
        if not (tissues == tissue).any():
            listed = " and ".join(map(str, TISSUES[tissue]))
            raise ValueError(f"{labels} has no voxel of the labels {listed}: give FreeSurfer's labels")
    affine = np.array(volume.affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    margin = np.ceil(MARGIN_MM / spacing).astype(int)
    affine[:3, 3] -= affine[:3, :3] @ margin
    data, tissues = (np.pad(array, [(m, m) for m in margin]) for array in (volume.data.astype(np.float32), tissues))
    return Infant(name, data, tissues, affine, spacing)


def write_infant(output: Path, seed: int, files: tuple[str, Path, Path]) -> list[tuple[dict, list[dict]]]:
    """Write all scans of one infant. Returns, for each, its row of `truth.tsv` and its rows of `lesions.tsv`."""
    infant = read_infant(*files)
    kinds = [kind for kind, (copies, _) in KINDS.items() for _ in range(copies)]
    return [_write_copy(output, infant, kind, number, seed) for number, kind in enumerate(kinds, start=1)]


def _write_copy(output: Path, infant: Infant, kind: str, number: int, seed: int) -> tuple[dict, list[dict]]:
    rng = named_rng(seed, "newborns", infant.name, number)
    positions = warp(infant.data.shape, infant.spacing, rng)
    if kind == "ventricles":
        moved = widening(infant.tissues == VENTRICLES, infant.spacing, float(rng.uniform(*WIDER)))
        positions += np.stack([sampled(each, positions, 1) for each in moved])
    tissues = sampled(infant.tissues, positions, 0)
    # linear: a cubic spline would overshoot at the sharp edge of the brain
    data = np.where(tissues > 0, sampled(infant.data, positions, 1), 0)
    mask, spots = np.zeros(data.shape, np.uint8), []
    if kind == "spots":
        data, mask, spots = paint_spots(data, tissues, infant.spacing, rng)
    participant, voxel_ml = f"{infant.name}c{number}", float(infant.spacing.prod()) / 1000
    anat = output / f"sub-{participant}" / "ses-1" / "anat"
    anat.mkdir(parents=True)
    arrays = {"restore_T2w": data, "brain_mask": tissues > 0, "drawem9_dseg": tissues, "lesion_mask": mask}
    for name, array in arrays.items():
        image = nibabel.Nifti1Image(array.astype(np.float32 if name == "restore_T2w" else np.uint8), infant.affine)
        image.header["descrip"] = b"warped; injuries are painted"
        nibabel.save(image, anat / f"sub-{participant}_ses-1_desc-{name}.nii.gz")
    key = {"participant_id": participant, "session_id": "1"}
    before, after = (np.count_nonzero(t == VENTRICLES) * voxel_ml for t in (infant.tissues, tissues))
    injuries = {"normal": "none", "spots": "punctate", "ventricles": "ventriculomegaly"}[kind]
    score = KINDS[kind][1]
    row = {**key, "family_id": infant.name, "label": int(score >= 3), "radiology_score": score, "injuries": injuries}
    row |= {"punctate_count": len(spots), "ventricles_before_ml": f"{before:.2f}", "ventricles_ml": f"{after:.2f}"}
    rows = []
    for spot in spots:
        place = infant.affine[:3] @ [*spot.centre, 1]
        rows.append({**key, **{f"{axis}_mm": f"{at:.2f}" for axis, at in zip("xyz", place, strict=True)}})
        rows[-1] |= {"diameter_mm": f"{spot.diameter:.2f}", "contrast": f"{spot.contrast:.3f}", "shape": spot.shape}
    return row, rows


def make_newborns(scans: Path, output: Path, seed: int = 42, num_workers: int | None = None) -> Path:
    """Write the cohort; see the module docstring. Equal arguments give equal images.

    Raises:
        ValueError: the folder of scans, a file in it or the output folder cannot be used.
        OSError: the cohort cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not empty: give a new folder")
    infants = find_infants(scans)
    with replacing_folder(output) as folder:
        write = functools.partial(write_infant, folder, seed)
        workers = min(num_workers or available_cores(), len(infants))
        with (
            tqdm(total=len(infants), desc="newborns", unit="infant", disable=None) as bar,
            in_workers(write, infants, workers) as written,
        ):
            copies = []
            for of_infant in written:
                copies += of_infant
                bar.update()
        copies.sort(key=lambda copy: copy[0]["participant_id"])
        truth = pd.DataFrame([row for row, _ in copies])
        lesions = pd.DataFrame([spot for _, spots in copies for spot in spots])
        labels = ["participant_id", "family_id", "radiology_score"]
        for name, table in (("participants", truth[labels]), ("truth", truth), ("lesions", lesions)):
            write_text(folder / f"{name}.tsv", table.to_csv(sep="\t", index=False))
        generated = {"Name": PROGRAM, "Description": "Warped copies of real scans; every injury is painted"}
        description = {"Name": "Newborns with painted injuries", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}
        content = description | {
            "GeneratedBy": [generated | {"Parameters": {"seed": seed, "num_infants": len(infants)}}]
        }
        write_json(folder / "dataset_description.json", content)
    return output


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module docstring."""
    options = parse_arguments(argv)

    def run() -> None:
        made = make_newborns(options.scans, options.output, options.seed, options.num_workers)
        print(f"{made}: {len(pd.read_csv(made / 'truth.tsv', sep='	'))} scans")

    return run_program(PROGRAM, run, wrong_call=(ValueError,), interrupted="interrupted; nothing was kept")


if __name__ == "__main__":
    sys.exit(main())

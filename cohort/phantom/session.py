"""The files of one phantom session, put in place whole."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np

from .plan import PlannedScan
from .scan import make_phantom_scan, nifti

_SUFFIXES = ("desc-restore_T2w", "desc-brain_mask", "desc-drawem9_dseg", "desc-lesion_mask")


def session_folder(output: Path, scan: PlannedScan) -> Path:
    return output / f"sub-{scan.participant_id}" / f"ses-{scan.session_id}"


def session_files(scan: PlannedScan) -> list[str]:
    stem = f"sub-{scan.participant_id}_ses-{scan.session_id}"
    return [f"anat/{stem}_{suffix}.nii.gz" for suffix in _SUFFIXES] + [f"{stem}_truth.json"]


def is_written(output: Path, scan: PlannedScan) -> bool:
    folder = session_folder(output, scan)
    return all((folder / name).is_file() for name in session_files(scan))


def write_session(output: Path, scan: PlannedScan, seed: int) -> None:
    """Generate one session and put it in place whole: written to a hidden folder beside, then renamed."""
    generated = make_phantom_scan(
        scan.scan_age,
        scan.injuries,
        seed=seed,
        grid=scan.grid,
        motion=scan.motion,
        family=scan.family_id,
        infant=scan.participant_id,
        session=scan.session_id,
    )
    final = session_folder(output, scan)
    partial = final.with_name(f".{final.name}")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "anat").mkdir(parents=True)
    names = session_files(scan)
    arrays = (generated.volume, generated.brain_mask, generated.dseg, generated.lesion_mask)
    for name, array in zip(names[:-1], arrays, strict=True):
        (partial / name).write_bytes(_nifti_bytes(array, generated.affine))
    row = {
        "participant_id": scan.participant_id,
        "session_id": scan.session_id,
        "family_id": scan.family_id,
        "label": "n/a" if scan.label is None else scan.label,
        "radiology_score": scan.radiology_score,
        **{key: round(value, 4) if isinstance(value, float) else value for key, value in generated.truth.items()},
    }
    (partial / names[-1]).write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    if final.exists():  # incomplete: something was deleted from it
        shutil.rmtree(final)
    partial.rename(final)


def _nifti_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    """A gzipped NIfTI file; no time stamp, so that equal images are equal files."""
    return gzip.compress(nifti(array, affine).to_bytes(), compresslevel=4, mtime=0)


def write_text(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)

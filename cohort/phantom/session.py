"""The files of one phantom session. The session's folder appears only when it is complete."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

from run_folder.files import replacing_folder

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
    """Generate one session and write its folder. An incomplete folder is replaced."""
    generated = make_phantom_scan(
        scan.scan_age,
        scan.injuries,
        seed=seed,
        grid=scan.grid,
        motion=scan.motion,
        family=scan.family_id,
        infant=scan.participant_id,
        session=scan.session_id,
        field_of_view=scan.field_of_view,
        scanner=scan.scanner,
    )
    row = {
        "participant_id": scan.participant_id,
        "session_id": scan.session_id,
        "family_id": scan.family_id,
        "label": "n/a" if scan.label is None else scan.label,
        "radiology_score": scan.radiology_score,
        **{key: round(value, 4) if isinstance(value, float) else value for key, value in generated.truth.items()},
    }
    names = session_files(scan)
    arrays = (generated.volume, generated.brain_mask, generated.dseg, generated.lesion_mask)
    with replacing_folder(session_folder(output, scan)) as folder:
        (folder / "anat").mkdir()
        for name, array in zip(names[:-1], arrays, strict=True):
            (folder / name).write_bytes(_nifti_bytes(array, generated.affine))
        (folder / names[-1]).write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def _nifti_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    """A gzipped NIfTI file without a time stamp, so that equal images give equal bytes."""
    return gzip.compress(nifti(array, affine).to_bytes(), compresslevel=4, mtime=0)

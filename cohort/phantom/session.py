"""The files of one phantom session. The session's folder appears only when it is complete."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

from run_folder.files import replacing_folder

from .modalities import MAPS
from .plan import PlannedScan
from .scan import PhantomScan, make_phantom_scan, nifti

_SUFFIXES = ("desc-restore_T2w", "desc-brain_mask", "desc-drawem9_dseg", "desc-lesion_mask")
T1W = "anat/{}_desc-restore_space-T2w_T1w.nii.gz"
DIFFUSION_ROOT = "dmri_eddy_pipeline"  # a BIDS tree of its own in the cohort's folder, as in the dHCP release
MAP, TRANSFORM = "dwi/{}_model-DTI_{}.nii.gz", "xfm/{}_from-dwi_to-T2w_mode-image.mat"


def session_folder(output: Path, scan: PlannedScan) -> Path:
    return output / f"sub-{scan.participant_id}" / f"ses-{scan.session_id}"


def session_files(scan: PlannedScan) -> list[str]:
    stem = _stem(scan)
    return [f"anat/{stem}_{suffix}.nii.gz" for suffix in _SUFFIXES] + [f"{stem}_truth.json"]


def is_written(output: Path, scan: PlannedScan) -> bool:
    folder = session_folder(output, scan)
    files = [folder / name for name in session_files(scan)] + list(_channel_files(output, scan).values())
    return all(file.is_file() for file in files)


def _channel_files(output: Path, scan: PlannedScan) -> dict[str, Path]:
    """The files of the modalities other than T2w, and the transform of the maps (`xfm`)."""
    stem, maps = _stem(scan), [name for name in MAPS if name in (scan.modalities or ())]
    files = {"T1w": session_folder(output, scan) / T1W.format(stem)} if "T1w" in (scan.modalities or ()) else {}
    diffusion = session_folder(output / DIFFUSION_ROOT, scan)
    files |= {name: diffusion / MAP.format(stem, name) for name in maps}
    return files | ({"xfm": diffusion / TRANSFORM.format(stem)} if maps else {})


def _stem(scan: PlannedScan) -> str:
    return f"sub-{scan.participant_id}_ses-{scan.session_id}"


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
        modalities=scan.modalities or ("T2w",),
    )
    row = {
        "participant_id": scan.participant_id,
        "session_id": scan.session_id,
        "family_id": scan.family_id,
        "label": "n/a" if scan.label is None else scan.label,
        "radiology_score": scan.radiology_score,
        **{key: round(value, 4) if isinstance(value, float) else value for key, value in generated.truth.items()},
    }
    if scan.modalities is not None:
        row["modalities"] = " ".join(scan.modalities)
        row |= {f"white_matter_{m}": round(generated.white_matter.get(m, 1.0), 4) for m in ("T2w", *MAPS)}
        _write_diffusion(output, scan, generated)
    names = session_files(scan)
    arrays = (generated.volume, generated.brain_mask, generated.dseg, generated.lesion_mask)
    with replacing_folder(session_folder(output, scan)) as folder:
        (folder / "anat").mkdir()
        for name, array in zip(names[:-1], arrays, strict=True):
            (folder / name).write_bytes(_nifti_bytes(array, generated.affine))
        if "T1w" in generated.channels:
            (folder / T1W.format(_stem(scan))).write_bytes(_nifti_bytes(*generated.channels["T1w"]))
        (folder / names[-1]).write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def _write_diffusion(output: Path, scan: PlannedScan, generated: PhantomScan) -> None:
    if generated.diffusion is None:
        return
    stem = _stem(scan)
    with replacing_folder(session_folder(output / DIFFUSION_ROOT, scan)) as folder:
        for name in (MAP.split("/")[0], TRANSFORM.split("/")[0]):
            (folder / name).mkdir()
        for name in [each for each in MAPS if each in generated.channels]:
            (folder / MAP.format(stem, name)).write_bytes(_nifti_bytes(*generated.channels[name]))
        rows = ("  ".join(f"{value:.10f}" for value in row) for row in generated.diffusion.flirt)
        (folder / TRANSFORM.format(stem)).write_text("\n".join(rows) + "\n", encoding="ascii")


def _nifti_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    """A gzipped NIfTI file without a time stamp, so that equal images give equal bytes."""
    return gzip.compress(nifti(array, affine).to_bytes(), compresslevel=4, mtime=0)

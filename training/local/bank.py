"""What the local stream is trained on: the candidates of every scan, and injuries painted into the normal ones.

It is made once for all folds and runs, and kept next to the cached volumes: about 8 MB per scan, and 8 MB more per
normal scan for its copy with motion. A scan is known by its content, so a copied cohort finds its bank again.
"""

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm import tqdm

import cohort.painted
import preprocessing
from cohort.painted.spots import Lesion, paint_spots
from cohort.scans import CohortError, Scan
from machine.cores import available_cores
from machine.workers import in_workers
from preprocessing import GloResNetImageProcessor, Volume, VolumeError, apply_mask, read_volume
from preprocessing.candidates_gloresnet import (
    FEWEST,
    LocalInputs,
    cut_patches,
    find_candidates,
    local_inputs,
    no_local_inputs,
)
from preprocessing.interior_gloresnet import Interior, NoInterior, find_interior
from run_folder.files import replacing

from . import motion
from .motion import move_head
from .scorer import Normal, packed

LESIONS = 40  # painted into each copy
WANTED, PER_COPY = 4000, 25  # painted candidates for a network, and those of one copy
FEWEST_COPIES, MOST_COPIES = 2, 8  # of a normal scan
NEAREST_MM, NEAR = 1.0, 0.4  # a candidate within max(1 mm, 0.4 diameters) of a painted centre is a positive
FILES = ("shares", "scan", "moved")
KEYS = ["participant_id", "session_id"]
SHARES = [  # of `preprocessing.interior_gloresnet.intensity_shares`; white matter is 1
    *("interior_litres", "dark_threshold", "bright_threshold", "dark_share", "bright_share"),
    *("below_0.6", "below_0.8", "above_1.25", "above_1.6"),
]


class Bank:
    """The training material of the local stream.

    Args:
        folder: of the cache.
        names: each scan's name in it.
        copies: painted copies per normal scan.
    """

    def __init__(self, folder: Path, names: Mapping[Scan, str], copies: int):
        self.folder, self.names, self.copies = folder, names, copies

    def shares(self, scans: Sequence[Scan]) -> np.ndarray:
        """Intensity shares (n, 9) float64 of the scans; NaN where the local stream is silent."""
        return np.array([self._read(scan, "shares") for scan in scans], np.float64).reshape(len(scans), -1)

    def candidates(self, scan: Scan) -> np.ndarray:
        """The scan's candidates as 8-bit patches (N, 2, 11, 11, 11), read from the disk as they are used."""
        return self._read(scan, "scan")

    def normal(self, scan: Scan) -> Normal:
        """The material of a normal scan."""
        painted = [np.asarray(self._read(scan, f"painted-{copy}")) for copy in range(self.copies)]
        return Normal(self.candidates(scan), self._read(scan, "moved"), painted)

    def _read(self, scan: Scan, what: str) -> np.ndarray:
        return np.load(self.folder / f"{self.names[scan]}-{what}.npy", mmap_mode="r")


def copies_for(normals: int) -> int:
    """How many painted copies of each scan a network needs that is trained on this number of normal scans."""
    return min(max(-(-WANTED // (PER_COPY * max(normals, 1))), FEWEST_COPIES), MOST_COPIES)


def build_bank(
    scans: Mapping[Scan, str], processor: GloResNetImageProcessor, copies: int, *, num_workers: int | None = None
) -> Bank:
    """Make what is missing of the bank, or find all of it in the cache.

    Args:
        scans: the scans in use, and the SHA-256 of each one's file.
        processor: says whether scans have masks and whether the bias field is corrected.
        copies: painted copies of each normal scan. No other scan is painted.
        num_workers: number of processes; all cores by default.

    Raises:
        CohortError: a scan or mask can no longer be read.
    """
    folder = _folder(processor)
    folder.mkdir(parents=True, exist_ok=True)
    names = {scan: _name(scan, content, processor) for scan, content in scans.items()}
    with FileLock(folder / ".lock"):  # a second run on the same cohort waits here
        jobs = [
            _Job(scan.image or "", scan.mask, str(folder / names[scan]), scan.label == 0, copies)
            for scan in scans
            if not _is_whole(folder, names[scan], _files(scan.label == 0, copies))
        ]
        workers = min(num_workers or available_cores(), max(len(jobs), 1))
        with in_workers(partial(_build, processor=processor), jobs, workers) as built:
            for problem in tqdm(built, desc="Searching scans for dark spots", total=len(jobs), disable=not jobs):
                if problem:
                    raise CohortError(problem)
    return Bank(folder, names, copies)


def shares_table(scans: Sequence[Scan], bank: Bank) -> pd.DataFrame:
    """The intensity shares of each scan: a control that needs no segmentation."""
    keys = pd.DataFrame([[scan.participant_id, scan.session_id] for scan in scans], columns=KEYS)
    return pd.concat([keys, pd.DataFrame(bank.shares(scans), columns=SHARES)], axis=1)


class _Job(NamedTuple):
    image: str
    mask: str | None
    path: str
    """Of its files, without their endings"""
    normal: bool
    copies: int


def local_inputs_of(image: str, mask: str | None, processor: GloResNetImageProcessor) -> LocalInputs:
    """What the local stream needs of one scan. Raises VolumeError if the scan or its mask cannot be read."""
    return local_inputs(*_searched(image, mask, processor))


def _searched(image: str, mask: str | None, processor: GloResNetImageProcessor) -> tuple[Volume, bool]:
    """A scan as the local stream sees it, and whether it has a mask."""
    volume = read_volume(image)
    masked = processor.brain_mask == "required"
    if masked:
        volume = apply_mask(volume, mask)
    return processor.correct(volume), masked


def near_injuries(voxels: np.ndarray, spacing: np.ndarray, lesions: Iterable[Lesion]) -> np.ndarray:
    """Which candidates (N, 3) lie within max(1 mm, 0.4 diameters) of the centre of an injury: (N,) bool."""
    near = np.zeros(len(voxels), bool)
    for lesion in lesions:
        distance = np.linalg.norm((voxels - np.array(lesion.centre)) * spacing, axis=1)
        near |= distance <= max(NEAREST_MM, NEAR * lesion.diameter_mm)
    return near


def _build(job: _Job, processor: GloResNetImageProcessor) -> str | None:
    """Write the files of one scan. Returns a sentence if the scan cannot be read."""
    empty = packed(no_local_inputs().patches)
    arrays = dict.fromkeys(_files(job.normal, job.copies), empty)
    arrays["shares"] = no_local_inputs().shares
    try:
        interior = find_interior(*_searched(job.image, job.mask, processor))
        voxels = find_candidates(interior)
    except NoInterior:
        voxels = np.zeros((0, 3), int)
    except (VolumeError, OSError) as error:
        return " ".join(str(error).split())
    if len(voxels) >= FEWEST:
        arrays["shares"], arrays["scan"] = interior.shares, packed(cut_patches(interior.data, voxels))
        if job.normal:
            seed = int(Path(job.path).name[:16], 16)
            arrays["moved"] = _moved(interior, np.random.default_rng([seed, MOST_COPIES]))
            for copy in range(job.copies):
                arrays[f"painted-{copy}"] = _painted(interior, np.random.default_rng([seed, copy]))
    for what, array in arrays.items():
        with replacing(f"{job.path}-{what}.npy") as unfinished:
            with open(unfinished, "wb") as file:
                np.save(file, array)
    return None


def _moved(interior: Interior, rng: np.random.Generator) -> np.ndarray:
    data = move_head(interior.data, interior.spacing, rng)
    return packed(cut_patches(data, find_candidates(interior._replace(data=data))))


def _painted(interior: Interior, rng: np.random.Generator) -> np.ndarray:
    spacing = interior.spacing
    x, y, z = map(float, spacing)
    data, lesions = paint_spots(interior.data, interior.inside, (x, y, z), rng, LESIONS)
    voxels = find_candidates(interior._replace(data=data))
    return packed(cut_patches(data, voxels[near_injuries(voxels, spacing, lesions)]))


def _files(normal: bool, copies: int) -> tuple[str, ...]:
    return (*FILES, *(f"painted-{copy}" for copy in range(copies))) if normal else FILES[:2]


def _is_whole(folder: Path, name: str, files: Iterable[str]) -> bool:
    """Whether every file of a scan is there and complete."""
    for what in files:
        try:
            np.load(folder / f"{name}-{what}.npy", mmap_mode="r")
        except (OSError, ValueError, EOFError):  # missing, or cut short
            return False
    return True


def _name(scan: Scan, content: str, processor: GloResNetImageProcessor) -> str:
    mask = b""
    if processor.brain_mask == "required":
        with open(scan.mask or "", "rb") as file:
            mask = hashlib.file_digest(file, "sha256").digest()
    return hashlib.sha256(content.encode() + mask).hexdigest()[:32]


def _folder(processor: GloResNetImageProcessor) -> Path:
    """The cache folder for these settings and this version of the code that makes the bank."""
    settings = {"masked": processor.brain_mask == "required", "bias_correction": processor.bias_correction}
    code = sorted(Path(inspect.getfile(preprocessing)).parent.glob("*_gloresnet.py"))
    code += sorted(Path(inspect.getfile(cohort.painted)).parent.glob("*.py"))
    text = "".join(path.read_text() for path in (*code, Path(__file__), Path(motion.__file__)))
    digest = hashlib.sha256((json.dumps(settings, sort_keys=True) + text).encode()).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE) / "gloresnet" / f"local-{digest[:16]}"

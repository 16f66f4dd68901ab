"""Phantoms at dHCP's voxel size for the analysis of errors: lesions of one diameter at known places, rising motion.

None of them is in any cohort: seed and names are others. A job is one head or one injured scan; what it measured is
kept in a file, so that an interrupted analysis goes on.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from cohort.phantom import INJURIES, make_phantom_scan, small_grid
from cohort.phantom.acquisition import INTENSITY_SCALE, acquire, draw_acquisition, paint, t2_signal, white_matter_t2
from cohort.phantom.anatomy import Anatomy, build_anatomy
from cohort.phantom.fields import named_rng
from cohort.phantom.grids import Grid
from cohort.phantom.growth import WHITE_MATTER
from cohort.phantom.pathology import PUNCTATE, Lesion, LesionMap, sphere_fraction
from cohort.phantom.scan import infant_volumes, without_artefacts
from machine.cores import available_cores
from preprocessing import apply_mask, read_volume
from preprocessing.volume_gloresnet import map_volume, resample
from run_folder.files import replacing

SEED = 260602498
VOXEL_SIZE = 0.5  # mm, dHCP's
CONTRAST = -0.18  # the mean of punctate lesions, relative to white matter
DIAMETERS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # mm; punctate lesions have 1 to 3
IMAGE_SIZES = (32, 64, 96, 128, 192)
NATIVE = 0  # in the place of an image size: before the resize
MOTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
LESIONS = 8  # in a head, so far apart that none adds to another's contrast
APART_MM = 14.0


class Job(NamedTuple):
    """One phantom: a normal head with all that is done to it (`injury` empty), or a scan with one injury."""

    number: int
    image_size: int
    brain_mask: str
    injury: str = ""
    severity: str = ""
    voxel_size: float = VOXEL_SIZE

    @property
    def name(self) -> str:
        what = f"{self.injury}-{self.severity}" if self.injury else "head"
        return f"{what}-{self.number}-{self.image_size}-{self.brain_mask}-{self.voxel_size:g}mm"

    @property
    def weeks(self) -> float:
        return 32.0 + (self.number * 2.7) % 10.0


class Measured(NamedTuple):
    """What came of a job: lattices for the network, (n, S, S, S), a record of each, and contrasts of single lesions."""

    lattices: np.ndarray
    records: list[dict]
    contrasts: list[dict]


def jobs(per_kind: int, image_size: int, brain_mask: str, voxel_size: float = VOXEL_SIZE) -> list[Job]:
    """Three normal heads for each `per_kind`, and `per_kind` scans of each injury and severity."""
    every = [Job(number, image_size, brain_mask, voxel_size=voxel_size) for number in range(3 * per_kind)]
    for injury, severities in INJURIES.items():
        for severity in severities:
            every += [Job(n, image_size, brain_mask, injury, severity, voxel_size) for n in range(per_kind)]
    return every


def measure_all(todo: list[Job], folder: Path) -> dict[Job, Measured]:
    """The results of all jobs, those that are not in `folder` worked out on every core."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [job for job in todo if not (folder / f"{job.name}.npz").is_file()]
    if missing:
        # a forked child would wait for ever for the threads that torch has in its parent
        with ProcessPoolExecutor(min(available_cores(), len(missing)), mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(_measure_into, job, folder) for job in missing]
            for done in tqdm(waiting, desc="0.5 mm phantoms", unit="phantom", disable=None):
                done.result()
    return {job: _read(folder / f"{job.name}.npz") for job in todo}


def _measure_into(job: Job, folder: Path) -> None:
    torch.set_num_threads(1)
    measured = measure_injured(job) if job.injury else measure_head(job)
    words = json.dumps([measured.records, measured.contrasts])
    with replacing(folder / f"{job.name}.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, lattices=measured.lattices.astype(np.float32), words=np.array(words))


def _read(path: Path) -> Measured:
    with np.load(path) as content:
        return Measured(content["lattices"], *json.loads(str(content["words"])))


def measure_injured(job: Job) -> Measured:
    """One scan with one injury, and its size."""
    scan = make_phantom_scan(
        job.weeks,
        {job.injury: job.severity},
        seed=SEED,
        voxel_size=job.voxel_size,
        family=f"injured {job.number}",
        infant=f"{job.injury} {job.severity} {job.number}",
    )
    sizes = {
        "ventriculomegaly": ("ventricles, mL", scan.volumes_ml["lateral_ventricles"]),
        "atrophy": ("brain, mL", scan.volumes_ml["brain"]),
        "cystic_pvl": ("longest cyst, mm", scan.truth["cyst_max_extent_mm"]),
        "ivh": ("clot, mL", scan.volumes_ml["clot_lesion"]),
        "punctate": ("largest lesion, mm", scan.truth["punctate_max_diameter_mm"]),
    }
    measure, size = sizes[job.injury]
    record = {"kind": "injury", "injury": job.injury, "severity": job.severity, "measure": measure, "size": float(size)}
    return Measured(_lattice(scan.volume, scan.brain_mask, job)[None], [record], [])


def measure_head(job: Job) -> Measured:
    """One normal head: as it is, with lesions of each diameter, and with rising motion; contrasts of each lesion."""
    grid = small_grid(job.voxel_size)
    names = f"normal {job.number}", "head"
    conditions = draw_acquisition(named_rng(SEED, "acquisition", *names))
    anatomy = build_anatomy(
        infant_volumes(job.weeks, SEED, *names), job.weeks, grid, SEED, *names, shift=conditions.shift
    )
    mask = (anatomy.dseg > 0).astype(np.uint8)
    still = {
        diameter: paint(anatomy, lesions, job.weeks, conditions, grid, SEED, "".join(names))
        for diameter, lesions in _lesions_of_each_diameter(anatomy, grid, conditions.shift).items()
    }

    def image(diameter: float, conditions) -> np.ndarray:
        # the same noise and motion every time, so that only what is asked for differs
        return acquire(still[diameter].copy(), job.weeks, conditions, grid, named_rng(SEED, "image", *names))

    lattices, records = [], []
    for diameter in (0.0, *DIAMETERS):
        lattices.append(_lattice(image(diameter, conditions), mask, job))
        records.append({"kind": "diameter", "head": job.number, "diameter": diameter})
    for motion in MOTIONS:
        lattices.append(_lattice(image(0.0, replace(conditions, motion=motion)), mask, job))
        records.append({"kind": "motion", "head": job.number, "motion": motion})

    white = t2_signal(white_matter_t2(job.weeks)) * INTENSITY_SCALE * conditions.gain
    clean = without_artefacts(conditions)
    plain = image(0.0, clean).astype(np.float32)
    sizes = sorted({*IMAGE_SIZES, job.image_size})
    noise = np.random.default_rng(SEED).standard_normal(plain.shape, dtype=np.float32)
    noise_left = {NATIVE: 1.0} | {size: float(resample(noise, size).std()) for size in sizes}
    places = _places(anatomy, grid)
    contrasts = []
    for diameter in DIAMETERS:
        change = image(diameter, clean).astype(np.float32) - plain
        for size in noise_left:
            lattice = np.abs(change if size == NATIVE else resample(change, size))
            for centre in places:
                peak = _peak(lattice, centre, diameter, grid, conditions.shift)
                retained, to_noise = peak / (abs(CONTRAST) * white), peak / (noise_left[size] * white / conditions.snr)
                contrasts.append(
                    {"head": job.number, "diameter": diameter, "image_size": size, "retained": float(retained)}
                    | {"contrast_to_noise": float(to_noise)}
                )
    return Measured(np.stack(lattices), records, contrasts)


def _places(anatomy: Anatomy, grid: Grid) -> list[tuple[float, float, float]]:
    """Centres in white matter, mm, far from each other; the same for every diameter."""
    white = anatomy.dseg.ravel()[anatomy.inside] == WHITE_MATTER
    room = max(DIAMETERS) / 2
    for margin in (room, room / 2, 0.0):  # a thin mantle has no room for the largest
        candidates = np.flatnonzero(white & (anatomy.ventricle_gap > margin) & (anatomy.sulcal_depth > margin + 1.0))
        if candidates.size > 1000:
            break
    rng = named_rng(SEED, "places", int(candidates.size))
    chosen: list[np.ndarray] = []
    for index in rng.permutation(candidates)[:5000]:
        # off the voxels' centres, as lesions are
        point = anatomy.points[:, index] + rng.uniform(-0.5, 0.5, 3) * grid.voxel_size
        if all(np.linalg.norm(point - other) > APART_MM for other in chosen):
            chosen.append(point)
        if len(chosen) == LESIONS:
            break
    return [tuple(float(v) for v in point) for point in chosen]


def _lesions_of_each_diameter(anatomy: Anatomy, grid: Grid, shift: tuple) -> dict[float, LesionMap]:
    """Diameter -> lesions of that diameter at the same places; 0 -> none."""
    blank = np.zeros(anatomy.dseg.shape, dtype=np.uint8)
    laid = {0.0: LesionMap(mask=blank)}
    for diameter in DIAMETERS:
        change = np.zeros(anatomy.dseg.shape, dtype=np.float32)
        for centre in _places(anatomy, grid):
            box, part = sphere_fraction(grid.axes(shift), centre, diameter, change.shape)
            change[box] += CONTRAST * part
        lesions = [Lesion(PUNCTATE, centre, diameter, CONTRAST) for centre in _places(anatomy, grid)]
        laid[diameter] = LesionMap(mask=blank, punctate_contrast=change, lesions=lesions)
    return laid


def _peak(lattice: np.ndarray, centre: tuple, diameter: float, grid: Grid, shift: tuple) -> float:
    """The largest value of the lattice within a lattice voxel of a lesion."""
    box = []
    for axis, middle, edge in zip(grid.axes(shift), centre, lattice.shape, strict=True):
        step = (axis[-1] - axis[0]) / (edge - 1)  # mm between lattice points
        at, reach = (middle - axis[0]) / step, diameter / 2 / step + 1
        box.append(slice(max(int(np.ceil(at - reach)), 0), int(np.floor(at + reach)) + 1))
    return float(lattice[tuple(box)].max())


def _lattice(volume: np.ndarray, mask: np.ndarray, job: Job) -> np.ndarray:
    """The standardised lattice of a RAS array, (S, S, S)."""
    read = read_volume(volume)
    return map_volume(apply_mask(read, mask) if job.brain_mask == "required" else read, job.image_size)

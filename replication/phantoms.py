"""Phantoms at dHCP's voxel size for the error analysis: lesions of given diameters at known places, increasing motion.

They have a seed and names that no phantom cohort uses, so no network was trained on them. A job is one normal head or
one injured scan. Its results are saved in a file, so an interrupted analysis can continue.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import torch
from tqdm import tqdm

from cohort.painted.plan import Cell
from cohort.painted.scan import Unpaintable, labelled_source
from cohort.painted.scan import paint as paint_injury
from cohort.phantom import INJURIES, make_phantom_scan, small_grid
from cohort.phantom.acquisition import INTENSITY_SCALE, acquire, draw_acquisition, paint, t2_signal, white_matter_t2
from cohort.phantom.anatomy import Anatomy, build_anatomy
from cohort.phantom.fields import named_rng
from cohort.phantom.grids import Grid
from cohort.phantom.growth import WHITE_MATTER
from cohort.phantom.pathology import PUNCTATE, Lesion, LesionMap, sphere_fraction
from cohort.phantom.scan import infant_volumes, without_artefacts
from machine.cores import available_cores
from machine.workers import in_workers
from preprocessing import apply_mask, correct_bias, frame_head, read_volume
from preprocessing.resampling_gloresnet import resample
from preprocessing.volume_gloresnet import map_volume
from run_folder.files import replacing

SEED = 260602498
VOXEL_SIZE = 0.5  # mm, dHCP's
CONTRAST = -0.18  # mean contrast of punctate lesions, relative to white matter
DIAMETERS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # mm; punctate lesions measure 1 to 3
IMAGE_SIZES = (32, 64, 96, 128, 192)
NATIVE = 0  # as an image size: not resized
MOTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
# painted into the finished scan, one each, in the same way as into a user's own scans
PAINTED = [Cell("spot", diameter, contrast, None) for diameter in (1.5, 2.0, 3.0, 4.0) for contrast in (0.15, 0.3)]
LESIONS = 8  # per head, far enough apart not to add to each other's contrast
APART_MM = 14.0


class Job(NamedTuple):
    """One phantom: a normal head in all its variants (`injury` is empty), or a scan with one injury."""

    number: int
    image_size: int
    brain_mask: str
    injury: str = ""
    severity: str = ""
    voxel_size: float = VOXEL_SIZE
    framing: str = "field_of_view"
    bias_correction: str = "none"

    @property
    def name(self) -> str:
        """Name of the file with the results."""
        what = f"{self.injury}-{self.severity}" if self.injury else "painted-head"
        more = ("-head" if self.framing == "head" else "") + ("-n4" if self.bias_correction == "n4" else "")
        return f"{what}-{self.number}-{self.image_size}-{self.brain_mask}-{self.voxel_size:g}mm{more}"

    @property
    def weeks(self) -> float:
        """Post-menstrual age, 32 to 42 weeks."""
        return 32.0 + (self.number * 2.7) % 10.0


class Measured(NamedTuple):
    """Results of a job.

    Attributes:
        inputs: standardised volumes for the network, (n, S, S, S).
        records: one per volume; what it shows.
        contrasts: one per lesion, diameter and image size.
    """

    inputs: np.ndarray
    records: list[dict]
    contrasts: list[dict]


def jobs(
    per_kind: int,
    image_size: int,
    brain_mask: str,
    voxel_size: float = VOXEL_SIZE,
    framing: str = "field_of_view",
    bias_correction: str = "none",
) -> list[Job]:
    """`per_kind` scans of each injury and severity, and three times `per_kind` normal heads."""
    common = {"voxel_size": voxel_size, "framing": framing, "bias_correction": bias_correction}
    every = [Job(number, image_size, brain_mask, **common) for number in range(3 * per_kind)]
    for injury, severities in INJURIES.items():
        for severity in severities:
            every += [Job(n, image_size, brain_mask, injury, severity, **common) for n in range(per_kind)]
    return every


def measure_all(todo: list[Job], folder: Path) -> dict[Job, Measured]:
    """The results of all jobs. Those not yet in `folder` are computed, on all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [job for job in todo if not (folder / f"{job.name}.npz").is_file()]
    if missing:
        # spawn, because a forked child would wait forever for torch's threads, which exist only in the parent
        workers = min(available_cores(), len(missing))
        with in_workers(partial(_measure_into, folder), missing, workers, start_method="spawn") as measured:
            for _ in tqdm(measured, desc="0.5 mm phantoms", total=len(missing), unit="phantom", disable=None):
                pass
    return {job: _read(folder / f"{job.name}.npz") for job in todo}


def _measure_into(folder: Path, job: Job) -> None:
    torch.set_num_threads(1)
    measured = measure_injured(job) if job.injury else measure_head(job)
    words = json.dumps([measured.records, measured.contrasts])
    with replacing(folder / f"{job.name}.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, lattices=measured.inputs.astype(np.float32), words=np.array(words))


def _read(path: Path) -> Measured:
    with np.load(path) as content:  # "lattices" is the inputs' key in files that exist already
        return Measured(content["lattices"], *json.loads(str(content["words"])))


def measure_injured(job: Job) -> Measured:
    """One scan with one injury, and the size of that injury."""
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
    return Measured(_network_input(scan.volume, scan.brain_mask, job)[None], [record], [])


def measure_head(job: Job) -> Measured:
    """One normal head: without lesions, with lesions of each diameter, with motion, with painted spots; contrasts."""
    grid = small_grid(job.voxel_size)
    names = f"normal {job.number}", "head"
    conditions = draw_acquisition(named_rng(SEED, "acquisition", *names))
    anatomy = build_anatomy(
        infant_volumes(job.weeks, SEED, *names), job.weeks, grid, SEED, *names, shift=conditions.shift
    )
    mask = (anatomy.dseg > 0).astype(np.uint8)
    places = _places(anatomy, grid)
    painted = {
        diameter: paint(anatomy, lesions, job.weeks, conditions, SEED, "".join(names))
        for diameter, lesions in _lesions_of_each_diameter(anatomy, places, grid, conditions.shift).items()
    }

    def image(diameter: float, conditions) -> np.ndarray:
        # same seed every time: the images differ only in the lesions and the conditions given
        return acquire(painted[diameter].copy(), job.weeks, conditions, grid, named_rng(SEED, "image", *names))

    inputs, records = [], []
    for diameter in (0.0, *DIAMETERS):
        inputs.append(_network_input(image(diameter, conditions), mask, job))
        records.append({"kind": "diameter", "head": job.number, "diameter": diameter})
    for motion in MOTIONS:
        inputs.append(_network_input(image(0.0, replace(conditions, motion=motion)), mask, job))
        records.append({"kind": "motion", "head": job.number, "motion": motion})

    source = labelled_source(image(0.0, conditions), anatomy.dseg, grid.affine)
    for number, cell in enumerate(PAINTED):
        with contextlib.suppress(Unpaintable):  # the table counts the heads
            spot = paint_injury(source, cell, 1, np.random.default_rng([SEED, job.number, number]))
            inputs.append(_network_input(spot.data, mask, job))
            records.append(
                {"kind": "painted", "head": job.number, "diameter": cell.diameter_mm, "contrast": cell.contrast}
            )

    white = t2_signal(white_matter_t2(job.weeks)) * INTENSITY_SCALE * conditions.gain
    clean = without_artefacts(conditions)
    plain = image(0.0, clean).astype(np.float32)
    sizes = sorted({*IMAGE_SIZES, job.image_size})
    noise = np.random.default_rng(SEED).standard_normal(plain.shape, dtype=np.float32)
    noise_left = {NATIVE: 1.0} | {size: float(resample(noise, size).std()) for size in sizes}
    contrasts = []
    for diameter in DIAMETERS:
        change = image(diameter, clean).astype(np.float32) - plain
        for size in noise_left:
            resized = np.abs(change if size == NATIVE else resample(change, size))
            for centre in places:
                peak = _peak(resized, centre, diameter, grid, conditions.shift)
                retained, to_noise = peak / (abs(CONTRAST) * white), peak / (noise_left[size] * white / conditions.snr)
                contrasts.append(
                    {"head": job.number, "diameter": diameter, "image_size": size, "retained": float(retained)}
                    | {"contrast_to_noise": float(to_noise)}
                )
    return Measured(np.stack(inputs), records, contrasts)


def _places(anatomy: Anatomy, grid: Grid) -> list[tuple[float, float, float]]:
    """Lesion centres in white matter, mm, far from each other. They are the same for every diameter."""
    white = anatomy.dseg.ravel()[anatomy.inside] == WHITE_MATTER
    room = max(DIAMETERS) / 2
    for margin in (room, room / 2, 0.0):  # thin white matter has no room for the largest lesion
        candidates = np.flatnonzero(white & (anatomy.ventricle_gap > margin) & (anatomy.sulcal_depth > margin + 1.0))
        if candidates.size > 1000:
            break
    rng = named_rng(SEED, "places", int(candidates.size))
    chosen: list[np.ndarray] = []
    for index in rng.permutation(candidates)[:5000]:
        # lesions are not centred on voxels
        point = anatomy.points[:, index] + rng.uniform(-0.5, 0.5, 3) * grid.voxel_size
        if all(np.linalg.norm(point - other) > APART_MM for other in chosen):
            chosen.append(point)
        if len(chosen) == LESIONS:
            break
    return [tuple(float(v) for v in point) for point in chosen]


def _lesions_of_each_diameter(
    anatomy: Anatomy, places: list[tuple[float, float, float]], grid: Grid, shift: tuple
) -> dict[float, LesionMap]:
    """For each diameter (mm), lesions of that diameter at the same places; none for diameter 0."""
    blank = np.zeros(anatomy.dseg.shape, dtype=np.uint8)
    maps = {0.0: LesionMap(mask=blank)}
    for diameter in DIAMETERS:
        change = np.zeros(anatomy.dseg.shape, dtype=np.float32)
        for centre in places:
            box, part = sphere_fraction(grid.axes(shift), centre, diameter, change.shape)
            change[box] += CONTRAST * part
        lesions = [Lesion(PUNCTATE, centre, diameter, CONTRAST) for centre in places]
        maps[diameter] = LesionMap(mask=blank, punctate_contrast=change, lesions=lesions)
    return maps


def _peak(volume: np.ndarray, centre: tuple, diameter: float, grid: Grid, shift: tuple) -> float:
    """The largest value of a resized volume in a lesion or within one voxel of it."""
    box = []
    for axis, middle, edge in zip(grid.axes(shift), centre, volume.shape, strict=True):
        step = (axis[-1] - axis[0]) / (edge - 1)  # mm between voxel centres
        at, reach = (middle - axis[0]) / step, diameter / 2 / step + 1
        box.append(slice(max(int(np.ceil(at - reach)), 0), int(np.floor(at + reach)) + 1))
    return float(volume[tuple(box)].max())


def _network_input(volume: np.ndarray, mask: np.ndarray, job: Job) -> np.ndarray:
    """A RAS array, preprocessed for the network: (S, S, S)."""
    read = read_volume(nibabel.Nifti1Image(volume, small_grid(job.voxel_size).affine))
    if job.brain_mask == "required":
        read = apply_mask(read, mask)
    if job.bias_correction == "n4":
        read = correct_bias(read, masked=job.brain_mask == "required")
    return map_volume(frame_head(read) if job.framing == "head" else read, job.image_size)

"""Measure how a model's answers depend on the field of view, the slice thickness and the bias field.

    python -m replication.framing runs/A/fold-0/model runs/B/fold-0/model --output framing

Phantoms that no network was trained on are screened as they are, and again after each change. The output folder gets
`framing.md`, one table per model, and `framing.csv`, one row per model, phantom and change. If SimpleITK is installed,
`framing.md` also says how much of the bias field N4 leaves, and how long it takes. The phantoms are those of a
cohort with varied fields of view, or with `--base fixed` those of the default cohort, which have no neck.

To compare both framings, train and compare on a cohort with varied fields of view:

    python -m cohort.phantom --output data/phantom-varied --field_of_view varied
    accelerate launch train.py --data_dir data/phantom-varied --framing head --output_dir runs/varied-head
    accelerate launch train.py --data_dir data/phantom-varied --framing field_of_view --output_dir runs/varied-field
    python -m evaluation.report runs/varied-head runs/varied-field --output runs/varied-comparison

Exit status: 0 measured, 1 failed, 2 wrong call.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("replication.framing")

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from cohort.phantom import FieldOfView, PhantomScan, make_phantom_scan
from cohort.phantom.grids import FIELD_OF_VIEW_MM
from machine.programs import one_line, run_program
from preprocessing.bias_gloresnet import log_bias_field
from run_folder.files import write_text
from screening.errors import ModelError
from screening.loading import load_model
from screening.one_scan import all_warnings, read_scan

PROGRAM = "python -m replication.framing"
SEED = 20261126  # of no phantom cohort
UNCHANGED = "none"
USUAL = FieldOfView(15.0, 15.0, 15.0, 15.0, 20.0, 14.0)
INJURIES: tuple[dict[str, str], ...] = (  # every second phantom is normal
    {"ventriculomegaly": "severe"},
    {"ivh": "major", "ventriculomegaly": "moderate"},
    {"cystic_pvl": "large", "ventriculomegaly": "moderate"},
    {"atrophy": "severe", "ventriculomegaly": "moderate"},
    {"ventriculomegaly": "moderate"},
    {"cystic_pvl": "confluent", "ventriculomegaly": "moderate"},
)
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


def phantom(number: int, voxel_size: float, field: FieldOfView | None = None) -> PhantomScan:
    """One of the phantoms; the same head for any field of view."""
    return make_phantom_scan(
        30.0 + (number * 2.9) % 14.0,
        INJURIES[number // 2 % len(INJURIES)] if number % 2 else {},
        seed=SEED,
        voxel_size=voxel_size,
        family=f"framing {number}",
        field_of_view=field,
    )


def fixed_field(scan: PhantomScan) -> FieldOfView:
    """The field of view of the default phantom cohort, around this head, without a neck."""
    brain = np.argwhere(scan.brain_mask)
    voxel = float(np.abs(scan.affine[0, 0]))
    head = (np.ptp(brain, axis=0) + 1) * voxel * 1.05 + 2 * scan.acquisition.scalp_mm
    r, a, s = (float(edge) for edge in (np.array(FIELD_OF_VIEW_MM) - head) / 2)
    return FieldOfView(r, r, a, a, s, s, neck=False)


def changes(number: int, voxel_size: float, base: str) -> Iterator[tuple[str, nibabel.Nifti1Image]]:
    """The unchanged scan of a phantom first, then each change: (its name, the image)."""
    field = USUAL if base == "varied" else fixed_field(phantom(number, voxel_size))
    scan = phantom(number, voxel_size, field)
    whole = scan.image()
    yield UNCHANGED, whole
    brain = np.flatnonzero(scan.brain_mask.any(axis=(0, 1)))
    bottom = brain[0] - scan.acquisition.scalp_mm / voxel_size
    height = np.ptp(brain) + 1 + 2 * scan.acquisition.scalp_mm / voxel_size
    for name, share in (("lowest tenth of the head missing", 0.1), ("lowest quarter of the head missing", 0.25)):
        yield name, whole.slicer[:, :, int(round(bottom + share * height)) :]
    width, length, _ = (edge * voxel_size for edge in whole.shape)
    side, face = 0.1 * width, 0.1 * length
    moved = {
        "20 mm more neck": replace(field, bottom_mm=field.bottom_mm + 20, neck=True),
        "head 10 mm higher": replace(field, bottom_mm=field.bottom_mm + 10, top_mm=field.top_mm - 10),
        "10 % more air": replace(
            field,
            left_mm=field.left_mm + side,
            right_mm=field.right_mm + side,
            back_mm=field.back_mm + face,
            front_mm=field.front_mm + face,
            top_mm=field.top_mm + 0.1 * whole.shape[2] * voxel_size,
        ),
        "30 % larger in plane": replace(
            field,
            left_mm=field.left_mm + 1.5 * side,
            right_mm=field.right_mm + 1.5 * side,
            back_mm=field.back_mm + 1.5 * face,
            front_mm=field.front_mm + 1.5 * face,
        ),
        "head nods by 15 degrees": replace(field, nod=15.0),
        "head tilts by 15 degrees to the side": replace(field, roll=15.0),
    }
    for name, changed in moved.items():
        yield name, phantom(number, voxel_size, changed).image()
    for plane, axis in PLANES.items():
        for times in (2, 3, 4):
            yield f"{plane} slices {times} times as thick", thick_slices(whole, axis, times)
    yield "bias field of 0.61 to 1.65", biased(whole)


def thick_slices(image: nibabel.Nifti1Image, axis: int, times: int) -> nibabel.Nifti1Image:
    """Each `times` neighbouring slices averaged to one; the last incomplete one is left out."""
    data = np.moveaxis(image.get_fdata(dtype=np.float32), axis, 0)
    count = len(data) // times
    thick = data[: count * times].reshape(count, times, *data.shape[1:]).mean(axis=1)
    affine = image.affine.copy()
    affine[:3, 3] += image.affine[:3, axis] * (times - 1) / 2
    affine[:3, axis] *= times
    return nibabel.Nifti1Image(np.moveaxis(thick, 0, axis), affine)


def biased(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """The image times a smooth field from exp(-0.5) = 0.61 in one corner to exp(0.5) = 1.65 in the opposite one."""
    ramps = [np.linspace(-1, 1, n) for n in image.shape]
    field = np.exp(sum(np.ix_(*ramps)) / 6).astype(np.float32)
    return nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) * field, image.affine)


@torch.inference_mode()
def measure(models: Sequence[str], num_phantoms: int, base: str, voxel_size: float) -> pd.DataFrame:
    """Screen every phantom after every change with every model.

    Returns:
        Columns `model`, `phantom`, `injured`, `change`, `p_injury` (NaN if refused), `warnings`, `head_warnings` (those
        of the file and its framing), `refused` (the message).

    Raises:
        ModelError: a model cannot be loaded.
    """
    loaded = [(name, *load_model(name)) for name in models]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "phantom.nii.gz")
        for number in tqdm(range(num_phantoms), desc="phantoms", unit="head", disable=None):
            for change, image in changes(number, voxel_size, base):
                nibabel.save(image, path)
                for name, model, processor in loaded:
                    row = {"model": name, "phantom": number, "injured": number % 2, "change": change}
                    row |= {"p_injury": np.nan, "warnings": "", "head_warnings": "", "refused": ""}
                    try:
                        volume, cube = read_scan(processor, path)
                    except ValueError as error:  # a VolumeError, perhaps of the model folder's own code
                        rows.append(row | {"refused": one_line(error).replace(path, "the scan")})
                        continue
                    p_injury = model.predict_proba(torch.from_numpy(cube[None]).to(model.device))[0, 1]
                    warned = all_warnings(volume, cube[0], model.config.training_appearance)
                    row["p_injury"] = float(p_injury)
                    rows.append(row | {"warnings": " ".join(warned), "head_warnings": " ".join(volume.warnings)})
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per change, of one model's rows: mean and largest |change of p|, flips at 0.5, warnings, refusals.

    The mean is over phantoms that the model answered before and after the change.
    """
    before = rows[rows["change"] == UNCHANGED].set_index("phantom")["p_injury"]
    table = []
    for change, part in rows.groupby("change", sort=False):
        after = part.set_index("phantom")["p_injury"]
        moved = (after - before).abs().dropna()
        flips = ((after >= 0.5) != (before >= 0.5))[moved.index]
        table.append(
            {
                "change": change,
                "mean change of p": moved.mean(),
                "largest": moved.max(),
                "flips": int(flips.sum()),
                "answered": len(moved),
                "with a warning": int((part["warnings"] != "").sum()),
                "about the head": int((part["head_warnings"] != "").sum()),
                "refused": int((part["refused"] != "").sum()),
            }
        )
    return pd.DataFrame(table)


def residual_bias(num_phantoms: int, base: str, voxel_size: float) -> pd.DataFrame:
    """How much of the field of `biased` is left after N4, inside each phantom's brain.

    A phantom may have a field of its own, so the field that N4 finds in it without `biased` does not count.

    Returns:
        Columns `before`, `after`, `after_masked` (N4 in the brain mask): standard deviation of the logarithm of the
        field; `seconds` of one correction in the head.
    """
    rows = []
    for number in tqdm(range(num_phantoms), desc="bias fields", unit="head", disable=None):
        field = USUAL if base == "varied" else fixed_field(phantom(number, voxel_size))
        scan = phantom(number, voxel_size, field)
        image, brain = scan.image(), scan.brain_mask > 0
        plain, changed = (each.get_fdata(dtype=np.float32) for each in (image, biased(image)))
        started = time.perf_counter()
        log_bias_field(changed)
        row = {"seconds": time.perf_counter() - started}
        known = np.log(biased(nibabel.Nifti1Image(np.ones_like(plain), image.affine)).get_fdata())
        row["before"] = np.std(known[brain])
        for name, masked in (("after", False), ("after_masked", True)):
            both = (np.where(brain, data, 0) if masked else data for data in (changed, plain))
            found, own = (log_bias_field(data, masked) for data in both)
            row[name] = np.std((known - (found - own))[brain])
        rows.append(row)
    return pd.DataFrame(rows)


def write_framing(models: Sequence[str], output: Path, num_phantoms: int, base: str, voxel_size: float) -> Path:
    """Measure, and write `framing.csv` and `framing.md`. Returns the latter."""
    rows = measure(models, num_phantoms, base, voxel_size)
    write_text(output / "framing.csv", rows.to_csv(index=False))
    lines = [
        "# Answers and the field of view",
        "",
        f"{num_phantoms} phantoms of {voxel_size:g} mm that no network was trained on, base: {base} field of view. A "
        "phantom is never clinical evidence. The first row compares nothing: it counts warnings and refusals of "
        "unchanged scans.",
    ]
    for model, part in rows.groupby("model", sort=False):
        table = summary(part)
        lines += ["", f"## {model}", "", "| " + " | ".join(table.columns) + " |", "|" + "---|" * table.shape[1]]
        for row in table.itertuples(index=False):
            cells = [("-" if np.isnan(v) else f"{v:.3f}") if isinstance(v, float) else str(v) for v in row]
            lines.append(f"| {' | '.join(cells)} |")
    if find_spec("SimpleITK"):
        left = residual_bias(num_phantoms, base, voxel_size).mean()
        lines += [
            "",
            "## N4",
            "",
            "Standard deviation of the logarithm of the field in the brain, mean over the phantoms: ",
        ]
        lines[-1] += (
            f"{left['before']:.3f} before; {left['after']:.3f} after N4 in the head, {left['after_masked']:.3f} after "
        )
        lines[-1] += f"N4 in the brain mask. A correction took {left['seconds']:.1f} s."
    return write_text(output / "framing.md", "\n".join(lines) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model folders, Hub names or converted files")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("--num_phantoms", type=int, default=12, help="phantoms to screen (default: 12)")
    parser.add_argument("--base", choices=("varied", "fixed"), default="varied", help="the unchanged field of view")
    parser.add_argument("--voxel_size", type=float, default=1.25, help="mm (default: 1.25)")
    options = parser.parse_args(argv)
    if options.num_phantoms < 1:
        parser.error(f"--num_phantoms is {options.num_phantoms}: give at least 1")

    def run() -> None:
        settings = (options.num_phantoms, options.base, options.voxel_size)
        print(write_framing(options.models, options.output, *settings).read_text(encoding="utf-8"))

    return run_program(PROGRAM, run, wrong_call=(ModelError, ValueError), failed=(OSError,))


if __name__ == "__main__":
    sys.exit(main())

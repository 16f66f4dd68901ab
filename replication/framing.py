"""Measure how a model's answers depend on the field of view, the slice thickness and the bias field.

    python -m replication.framing runs/A/fold-0/model runs/B/fold-0/model --output framing

Phantoms that no network was trained on are screened as they are, and again after each change. The output folder gets
`framing.md`, one table per model, and `framing.csv`, one row per model, phantom and change. The phantoms are those of a
cohort with varied fields of view, or with `--base fixed` those of the default cohort, which have no neck. `--mean` adds
a table for the mean of the models' answers. `--scans FOLDER` changes given scans in the same way (`scans.csv`).

If SimpleITK is installed, `framing.md` also says how much of the bias field N4 leaves, and how long it takes.

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
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "python -m replication.framing"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model folders, Hub names or converted files")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("--num_phantoms", type=int, default=12, help="phantoms to screen (default: 12)")
    parser.add_argument("--base", choices=("varied", "fixed"), default="varied", help="the unchanged field of view")
    parser.add_argument("--voxel_size", type=float, default=1.25, help="mm (default: 1.25)")
    parser.add_argument("--seed", type=int, help="of the phantoms (default: one that no phantom cohort uses)")
    parser.add_argument("--scans", type=Path, metavar="FOLDER", help="also change these scans of whole heads or brains")
    parser.add_argument("--mean", action="store_true", help="also the mean of the models, such as the folds of a run")
    parser.add_argument("--no_n4", action="store_true", help="do not measure what N4 leaves of a bias field")
    options = parser.parse_args(argv)
    if options.num_phantoms < 1:
        parser.error(f"--num_phantoms is {options.num_phantoms}: give at least 1")
    return options


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

import nibabel
import numpy as np
import pandas as pd
from tqdm import tqdm

from cohort.images import EXTENSIONS
from machine.cores import available_cores
from machine.programs import one_line, run_program
from machine.workers import in_workers
from preprocessing.bias_gloresnet import log_bias_field
from run_folder.files import write_text
from screening.errors import ModelError
from screening.loading import load_model
from screening.modalities import presence_arrays
from screening.one_scan import ScanInputs, all_warnings, local_arrays, read_inputs

from .changes import SEED, UNCHANGED, biased, changes, changes_of_scan, phantom, phantom_field

Case = tuple[int, int | str, int | None, list[tuple[str, nibabel.Nifti1Image]]]  # order, name, injured, images


def phantom_case(number: int, voxel_size: float, base: str, seed: int) -> Case:
    """A phantom after every change. Every second one is injured."""
    return number, number, number % 2, list(changes(number, voxel_size, base, seed))


def scan_case(numbered: tuple[int, Path]) -> Case:
    """A given scan after every change. Nothing is known of its health."""
    number, path = numbered
    image = nibabel.load(path)
    return number, path.name, None, list(changes_of_scan(nibabel.Nifti1Image(image.get_fdata(), image.affine)))


def scans_in(folder: Path) -> list[Path]:
    """The NIfTI files of a folder that are named T2w; without any, all of them.

    Raises:
        ValueError: there is none.
    """
    found = sorted(path for path in folder.glob("*") if path.name.endswith(EXTENSIONS))
    if not found:
        raise ValueError(f"{folder} has no file {' or '.join(EXTENSIONS)}: give a folder of scans")
    return [path for path in found if "T2w" in path.name] or found


def measure(models: Sequence[str], cases: Iterator[Case], total: int) -> pd.DataFrame:
    """Screen every case after every change with every model.

    Args:
        models: names of models.
        cases: in any order.
        total: how many there are.

    Returns:
        Columns `model`, `phantom` (its number, or the name of a scan), `injured`, `change`, `p_injury` (NaN if
        refused), `warnings`, `head_warnings` (those of the file and its framing), `refused` (the message).

    Raises:
        ModelError: a model cannot be loaded.
    """
    loaded = [(name, *load_model(name)) for name in models]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "phantom.nii")
        for order, subject, injured, images in tqdm(cases, desc="heads", total=total, unit="head", disable=None):
            rows = found[order] = []
            for change, image in images:
                nibabel.save(image, path)
                seen: dict[tuple[type, str], ScanInputs | str] = {}  # the folds of a run share it
                for name, model, processor in loaded:
                    row = {"model": name, "phantom": subject, "injured": injured, "change": change}
                    row |= {"p_injury": np.nan, "warnings": "", "head_warnings": "", "refused": ""}
                    settings = (
                        type(processor),
                        processor.to_json_string(),
                    )  # the class is that of the model folder's code
                    if settings not in seen:
                        try:
                            seen[settings] = read_inputs(processor, path)
                        except ValueError as error:  # a VolumeError, perhaps of the model folder's own code
                            seen[settings] = one_line(error).replace(path, "the scan")
                    read = seen[settings]
                    if isinstance(read, str):
                        rows.append(row | {"refused": read})
                        continue
                    volume, cube = read.volume, read.pixel_values
                    others = local_arrays([read.local]) | presence_arrays([read.presence])
                    p_injury = model.answer({"pixel_values": cube[None]} | others)["members"].mean(axis=(0, 1))[0, 1]
                    warned = all_warnings(volume, cube[0], model.config.training_appearance)
                    row["p_injury"] = float(p_injury)
                    rows.append(row | {"warnings": " ".join(warned), "head_warnings": " ".join(volume.warnings)})
    return pd.DataFrame([row for _, rows in sorted(found.items()) for row in rows])


def mean_of_models(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one more model: the mean of the probabilities. It warns and refuses if one of the models does."""
    joined = {"p_injury": lambda p: p.mean() if p.notna().all() else np.nan}
    joined |= dict.fromkeys(("warnings", "head_warnings", "refused"), lambda texts: " ".join(filter(None, texts)))
    mean = rows.groupby(["phantom", "change"], sort=False, as_index=False).agg({"injured": "first", **joined})
    return mean.assign(model=f"mean of {rows['model'].nunique()} models")[[*rows.columns]]


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


def residual_bias(num_phantoms: int, base: str, voxel_size: float, seed: int = SEED) -> pd.DataFrame:
    """How much of the field of `biased` is left after N4, inside each phantom's brain.

    A phantom may have a field of its own, so the field that N4 finds in it without `biased` does not count.

    Returns:
        Columns `before`, `after`, `after_masked` (N4 in the brain mask): standard deviation of the logarithm of the
        field; `seconds` of one correction in the head.
    """
    rows = []
    for number in tqdm(range(num_phantoms), desc="bias fields", unit="head", disable=None):
        scan = phantom(number, voxel_size, phantom_field(number, voxel_size, base, seed), seed)
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


def tables(rows: pd.DataFrame) -> list[str]:
    """A Markdown table per model, each under a heading."""
    lines = []
    for model, part in rows.groupby("model", sort=False):
        table = summary(part)
        lines += ["", f"### {model}", "", "| " + " | ".join(table.columns) + " |", "|" + "---|" * table.shape[1]]
        for row in table.itertuples(index=False):
            cells = [("-" if np.isnan(v) else f"{v:.3f}") if isinstance(v, float) else str(v) for v in row]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def write_framing(options: argparse.Namespace) -> Path:
    """Measure, and write `framing.csv`, with scans `scans.csv`, and `framing.md`. Returns the latter."""
    scans = scans_in(options.scans) if options.scans else []
    settings = {"voxel_size": options.voxel_size, "base": options.base, "seed": options.seed}
    parts = [("Phantoms", "framing.csv", partial(phantom_case, **settings), range(options.num_phantoms))]
    if scans:
        parts.append(("Scans", "scans.csv", scan_case, list(enumerate(scans))))
    lines = [
        "# Answers and the field of view",
        "",
        f"{options.num_phantoms} phantoms of {options.voxel_size:g} mm that no network was trained on, base: "
        f"{options.base} field of view. A phantom is never clinical evidence. The first row compares nothing: it "
        "counts warnings and refusals of unchanged scans.",
    ]
    if scans:
        lines[-1] += f" {len(scans)} given scans. Nothing is known of their health: only changes of the answer count."
    for title, file, make, items in parts:
        with in_workers(make, items, min(available_cores(), len(items))) as cases:
            rows = measure(options.models, cases, len(items))
        if options.mean:
            rows = pd.concat([rows, mean_of_models(rows)])
        write_text(options.output / file, rows.to_csv(index=False))
        lines += ["", f"## {title}", *tables(rows)]
    if find_spec("SimpleITK") and not options.no_n4:
        left = residual_bias(options.num_phantoms, options.base, options.voxel_size, options.seed).mean()
        lines += [
            "",
            "## N4",
            "",
            "Standard deviation of the logarithm of the field in the brain, mean over the phantoms: "
            f"{left['before']:.3f} before; {left['after']:.3f} after N4 in the head, {left['after_masked']:.3f} after "
            f"N4 in the brain mask. A correction took {left['seconds']:.1f} s.",
        ]
    return write_text(options.output / "framing.md", "\n".join(lines) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module docstring."""
    options = parse_arguments(argv)
    options.seed = SEED if options.seed is None else options.seed

    def run() -> None:
        print(write_framing(options).read_text(encoding="utf-8"))

    return run_program(PROGRAM, run, wrong_call=(ModelError, ValueError), failed=(OSError,))


if __name__ == "__main__":
    sys.exit(main())

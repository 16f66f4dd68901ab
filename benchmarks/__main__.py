"""Measure speed and memory compared with other libraries; write benchmarks.md and benchmarks.json.

    python -m benchmarks                        everything
    python -m benchmarks --quick                a first impression, with fewer turns
    python -m benchmarks network step           only these sections
    python -m benchmarks many --long            10,000 scans

Sections: bounds scan network many step epoch startup growth dicom. The other libraries are in
requirements-benchmarks.txt; the report names those that are not installed. Run this on an otherwise idle machine; the
report records the load. A missed target does not change the exit status.
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m benchmarks")

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from cohort.phantom import generate_phantom_cohort
from machine.cores import available_cores
from machine.programs import run_program
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model

from .report import to_markdown, write
from .sections import SECTIONS
from .setting import Setting


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    interrupted = f"interrupted; the sections that were finished are in {args.output}"
    return run_program("python -m benchmarks", lambda: measure(args), interrupted=interrupted)


def measure(args: argparse.Namespace) -> None:
    """Measure the sections one after another, write the report after each, and print it at the end."""
    scans = find_scans(args.scans)
    started, rows = time.perf_counter(), []
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="gloresnet-benchmarks-") as folder:
        folder = Path(folder)
        model = random_model(folder / "model", args.image_size)
        turns = 3 if args.quick else 9
        setting = Setting(folder, model, scans, args.image_size, turns, args.quick, args.long)
        for name in args.sections or SECTIONS:
            print(f"measuring: {name}", file=sys.stderr, flush=True)
            rows += SECTIONS[name](setting)
            machine["load at the end"] = load()
            machine["minutes"] = round((time.perf_counter() - started) / 60, 1)
            write(rows, machine, args.output)  # now, so that a later failure does not lose these rows
    print(to_markdown(rows, machine))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sections", nargs="*", metavar="SECTION", help=f"sections to measure (default: all): {', '.join(SECTIONS)}")
    add("--quick", action="store_true", help="use fewer turns and smaller samples")
    add("--long", action="store_true", help="screen 10,000 scans; takes hours")
    add("--output", type=Path, default=Path("runs/benchmarks"), help="output folder (default %(default)s)")
    add("--scans", type=Path, help="folder with full-size .nii.gz scans (default: four phantoms, generated once)")
    add(
        "--image_size",
        type=int,
        default=128,
        help="edge of the input cube (default %(default)s, which the targets are for)",
    )
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.sections) - set(SECTIONS)):
        parser.error(f"unknown section {', '.join(unknown)}; choose from {', '.join(SECTIONS)}")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file; give a folder")
    if args.scans and not any(args.scans.rglob("*_T2w.nii.gz")):
        parser.error(f"--scans {args.scans} contains no *_T2w.nii.gz files; give a folder of scans")
    return args


def find_scans(folder: Path | None) -> list[str]:
    """Paths of full-size scans: those in the folder, or phantoms with 0.5 mm voxels if none is given."""
    if folder is None:
        folder = Path("data/phantom-benchmarks")
        generate_phantom_cohort(folder, num_subjects=4, voxel_size=0.5, full_grid=True)
    return sorted(map(str, folder.rglob("*_desc-restore_T2w.nii.gz"))) or sorted(map(str, folder.rglob("*_T2w.nii.gz")))


def random_model(folder: Path, image_size: int) -> Path:
    """Write a model folder with seeded random weights whose probabilities differ between scans."""
    torch.manual_seed(0)
    model = GloResNetForImageClassification(GloResNetConfig(image_size=image_size, head_init_std=0.1)).eval()
    export_model(model, GloResNetImageProcessor(image_size=image_size), folder, "benchmark")
    return folder


def describe_machine() -> dict:
    """What a reader needs to judge the figures. It does not name the machine or its user."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    native = torch.cpu.get_capabilities()
    bfloat16 = "AMX" if native.get("amx_bf16") else "AVX-512" if native.get("avx512_bf16") else "none"
    return {
        "processor": model,
        "cores": available_cores(),
        "native bfloat16": bfloat16,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "load at the start": load(),
    }


def load() -> float:
    """The machine's load average over the last minute; NaN if the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else float("nan")


if __name__ == "__main__":
    sys.exit(main())

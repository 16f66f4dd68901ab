"""Measure speed and memory compared with other libraries; write benchmarks.md and benchmarks.json.

    python -m benchmarks                        everything
    python -m benchmarks --quick                a first impression, with fewer turns
    python -m benchmarks network step           only these sections
    python -m benchmarks many --long            10,000 scans
    python -m benchmarks gpu                    training and screening on a CUDA GPU (gpu --help)

Sections: bounds scan network many step epoch startup growth dicom shared. The other libraries are in
requirements-benchmarks.txt; the report names those that are not installed. Run this on an otherwise idle machine; the
report records the load. A missed target does not change the exit status.
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m benchmarks")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

SECTIONS = {  # the function that measures each
    "bounds": "sections.measure_bounds",
    "scan": "sections.measure_scan",
    "network": "sections.measure_network",
    "many": "sections.measure_many",
    "step": "sections.measure_step",
    "epoch": "sections.measure_epoch",
    "startup": "startup.measure_startup",
    "growth": "growth.measure_growth",
    "dicom": "dicom.measure_study",
    "shared": "shared.measure_shared",
}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    argv = sys.argv[1:] if argv is None else argv
    if list(argv[:1]) == ["gpu"]:
        from .gpu_arguments import parse_arguments as parse_gpu

        return parse_gpu(argv[1:])
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


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()

import tempfile
import time
from importlib import import_module

from machine.programs import run_program

from .report import to_markdown, write
from .setting import Setting, describe_machine, find_scans, load, random_model


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if list(argv[:1]) == ["gpu"]:
        from .gpu import main as measure_gpu

        return measure_gpu(argv[1:])
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
            module, function = SECTIONS[name].split(".")
            rows += getattr(import_module(f".{module}", __package__), function)(setting)
            machine["load at the end"] = load()
            machine["minutes"] = round((time.perf_counter() - started) / 60, 1)
            write(rows, machine, args.output)  # now, so that a later failure does not lose these rows
    print(to_markdown(rows, machine))


if __name__ == "__main__":
    sys.exit(main())

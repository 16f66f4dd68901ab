"""Measure training and screening on one CUDA GPU; write gpu.md and gpu.json.

    python -m benchmarks gpu                    everything
    python -m benchmarks gpu pair maps          only these sections
    python -m benchmarks gpu --dry              everything in tiny sizes on the CPU: it shows that the command works

The files are written after each row, so an interrupted run keeps its rows. A row or a section that fails holds its
error, the others go on, and the exit status is 1. A missed bound does not change the exit status.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

NAME = "python -m benchmarks gpu"
NAMES = ("pair", "maps", "steps", "predict", "resume", "epoch", "fold")  # of the sections


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=NAME, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("sections", nargs="*", metavar="SECTION", help=f"sections to measure (default: all): {', '.join(NAMES)}")
    add("--dry", action="store_true", help="run everything in tiny sizes on the CPU; needs no GPU")
    add("--output", type=Path, help="output folder (default runs/benchmarks-gpu, or runs/benchmarks-gpu-dry)")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.sections) - set(NAMES)):
        parser.error(f"unknown section {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    args.output = args.output or Path("runs/benchmarks-gpu-dry" if args.dry else "runs/benchmarks-gpu")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file; give a folder")
    if not args.dry and not _has_gpu():
        parser.error("torch finds no CUDA GPU here: run it on a machine with one, or add --dry for a run on the CPU")
    return args


def _has_gpu() -> bool:
    import torch  # it takes seconds, so the rest of the call is checked first

    return torch.cuda.is_available()

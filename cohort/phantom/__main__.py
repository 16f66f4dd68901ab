"""Generate a phantom cohort:  python -m cohort.phantom --output data/phantom-clear

If it is interrupted, run the same command again: it generates only what is missing. Exit status: 0 done, 1 failed,
2 wrong call, 130 interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m cohort.phantom")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .options import DEFAULT_MISSING, DEFAULT_VOXEL_SIZE, FIELDS_OF_VIEW, MODALITIES, PRESETS, SCANNERS

PROGRAM = "python -m cohort.phantom"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Generate a synthetic neonatal cohort in the layout of the dHCP. Never clinical evidence.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write; an unfinished cohort is completed")
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="clear",
        help="clear: macroscopic injury; dhcp: the scores of the paper; null: labels permuted over families; "
        "diffuse: white-matter injury that only diffusion shows",
    )
    parser.add_argument(
        "--num_subjects",
        type=int,
        default=None,
        metavar="N",
        help="infants with a labelled first session (None: 48; dhcp: 128)",
    )
    parser.add_argument("--seed", type=int, default=42, help="determines everything random")
    parser.add_argument(
        "--voxel_size", type=float, default=DEFAULT_VOXEL_SIZE, metavar="MM", help="edge of the cubic voxels, mm"
    )
    parser.add_argument(
        "--full_grid",
        action="store_true",
        help="use the 0.5 mm grids of the dHCP release, 290x290x203 and 217x290x290, in mixed axis orders",
    )
    parser.add_argument(
        "--motion_confounding",
        type=float,
        default=0.0,
        metavar="0..1",
        help="0: motion is independent of the label; 1: all injured scans have motion, all normal scans have none",
    )
    parser.add_argument(
        "--field_of_view",
        choices=FIELDS_OF_VIEW,
        default="fixed",
        help="varied: more or less air and neck, another place and tilt of the head in each scan",
    )
    parser.add_argument(
        "--scanner",
        choices=SCANNERS,
        default=None,
        help="b, c: coarser, blurred, noisy, uneven, another echo time and field of view; a: as without, but with the "
        "column site, which all three have",
    )
    parser.add_argument(
        "--modalities",
        type=lambda text: text.split(","),
        default=None,
        metavar="T2w,T1w,FA,MD",
        help=f"what to acquire, of {','.join(MODALITIES)} (None: T2w; diffuse: all)",
    )
    parser.add_argument(
        "--missing",
        type=float,
        default=DEFAULT_MISSING,
        metavar="0..0.9",
        help="share of the sessions without T1w, and of those without diffusion",
    )
    parser.add_argument("--num_workers", type=int, default=None, metavar="N", help="processes (None: one per core)")
    return parser.parse_args(argv)


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()

from machine.programs import explain, run_program

from .writer import generate_phantom_cohort


def main(argv: Sequence[str] | None = None) -> int:
    """Generate the cohort that the arguments ask for; returns the exit status."""
    options = vars(parse_arguments(argv))

    def generate() -> int:
        try:
            folder = generate_phantom_cohort(**options)
        except OSError as error:
            raise OSError(f"the cohort could not be written: {explain(error)}") from error
        print(f"{folder}: a synthetic phantom cohort, never clinical evidence")
        return 0

    return run_program(PROGRAM, generate, wrong_call=(ValueError,))


if __name__ == "__main__":
    sys.exit(main())

"""Paint injuries of known size and place into your own normal scans:

    python -m cohort.painted --data_dir BIDS --labels labels.tsv --output data/painted

The result is a labelled cohort with known truth, for `predict.py` and `train.py`: it shows what size of injury is found
on your scanner. Never clinical evidence. If it is interrupted, run the same command again: it makes only what is
missing. Exit status: 0 all copies made, 1 a copy could not be made or the job failed, 2 wrong call, 130 interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m cohort.painted")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .plan import KINDS, SettingError, Settings

PROGRAM = "python -m cohort.painted"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Paint injuries of known kind, size, contrast and place into the normal scans of a BIDS folder. "
        "Never clinical evidence.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data_dir", type=Path, required=True, help="BIDS folder; only its normal scans are painted")
    parser.add_argument("--labels", type=Path, default=None, help="TSV or CSV of labels, if not in the BIDS folder")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; an unfinished cohort is completed")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=KINDS,
        default=list(default.kinds),
        help="spot and streak are dark; bright is a bright spot or streak; cyst is as bright as CSF; ventricles widens",
    )
    parser.add_argument(
        "--diameters", nargs="+", type=float, default=list(default.diameters), metavar="MM",
        help="of the sphere of the same volume",
    )  # fmt: skip
    parser.add_argument(
        "--contrasts", nargs="+", type=float, default=list(default.contrasts), metavar="SHARE",
        help="share of the local background: 0.2 is 20 %% darker, or brighter; not used by cyst and ventricles",
    )  # fmt: skip
    parser.add_argument(
        "--factors", nargs="+", type=float, default=list(default.factors), metavar="TIMES",
        help="volume of widened ventricles, relative to before",
    )  # fmt: skip
    parser.add_argument("--copies", type=int, default=default.copies, metavar="N", help="painted copies of each scan")
    parser.add_argument("--lesions", type=int, default=default.lesions, metavar="N", help="injuries in a painted copy")
    parser.add_argument("--seed", type=int, default=default.seed, help="determines everything random")
    parser.add_argument("--acquisition", default=None, metavar="A", help="which image of sessions with several: acq-A")
    parser.add_argument("--run", default=None, metavar="N", help="which image of sessions with several: run-N")
    parser.add_argument("--num_workers", type=int, default=None, metavar="N", help="processes (None: one per core)")
    options = parser.parse_args(argv)
    if not options.data_dir.is_dir():
        parser.error(f"--data_dir {options.data_dir} is not a folder: give the BIDS folder of your cohort")
    if options.labels and not options.labels.is_file():
        parser.error(f"--labels {options.labels} is not a file: give a TSV or CSV of labels")
    return options


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()

from typing import Any

from cohort.scans import CohortError
from machine.programs import FAILED, explain, run_program

from .writer import PaintedFolderError, paint_cohort


def main(argv: Sequence[str] | None = None) -> int:
    """Make the cohort that the arguments ask for; returns the exit status."""
    options = vars(parse_arguments(argv))
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in ("kinds", "diameters", "contrasts", "factors", "copies", "lesions", "seed")
        for value in [options.pop(name)]
    }

    def generate() -> int:
        try:
            done = paint_cohort(**options, settings=Settings(**chosen))
        except OSError as error:
            raise OSError(f"the cohort could not be written: {explain(error)}") from error
        for participant, session, reason in done.failed[:5]:
            print(f"sub-{participant} ses-{session} could not be made: {reason}", file=sys.stderr)
        if len(done.failed) > 5:
            print(f"{len(done.failed)} copies could not be made, see {done.folder / 'failed.tsv'}", file=sys.stderr)
        skipped = "".join(f", {count} {reason}" for reason, count in sorted(done.left_out.items()))
        print(
            f"{done.folder}: {done.painted} painted and {done.unpainted} unpainted copies of {done.normal} normal "
            f"scans; {len(done.failed)} copies failed; scans left out: {skipped[2:] or 'none'}. Painted injuries are "
            "never clinical evidence."
        )
        return FAILED if done.failed else 0

    return run_program(PROGRAM, generate, wrong_call=(SettingError, PaintedFolderError), failed=(CohortError, OSError))


if __name__ == "__main__":
    sys.exit(main())

"""Print the cost of each architecture.

python -m architectures [--image_size 128] [--modalities T2w,T1w,FA,MD]
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("architectures")

import argparse
import sys
from collections.abc import Sequence


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m architectures",
        usage="python -m architectures [--image_size 128] [--modalities T2w,T1w,FA,MD]",
        description="Print a Markdown table: measured parameters and multiply-adds of each architecture next to the "
        "figures in the paper.",
    )
    parser.add_argument("--image_size", type=int, default=128, help="edge of the input volume in voxels (default 128)")
    parser.add_argument("--modalities", default="T2w", help="what the input channels show (default T2w)")
    args = parser.parse_args(argv)
    if not 16 <= args.image_size <= 512:
        parser.error(f"--image_size is {args.image_size}: choose 16 to 512 voxels")
    from preprocessing.modalities_gloresnet import check_modalities

    try:
        args.modalities = check_modalities(args.modalities.split(","))
    except ValueError as error:
        parser.error(f"--{error}")
    return args


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()

from machine.programs import run_program

from .cost import cost_table, markdown
from .networks import MissingPackageError


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    image_size, modalities = args.image_size, args.modalities
    return run_program(
        "architectures",
        lambda: print(markdown(cost_table(image_size, modalities=modalities), image_size, modalities)),
        failed=(OSError, MissingPackageError),
    )


if __name__ == "__main__":
    sys.exit(main())

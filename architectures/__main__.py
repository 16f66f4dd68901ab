"""Print the cost of each architecture.

python -m architectures [--image_size 128] [--modalities T2w,T1w,FA,MD]
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("architectures")

import argparse
import sys
from collections.abc import Sequence

from machine.programs import run_program
from preprocessing.modalities_gloresnet import check_modalities

from .cost import cost_table, markdown
from .networks import MissingPackageError


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m architectures",
        usage="python -m architectures [--image_size 128] [--modalities T2w,T1w,FA,MD]",
        description="Print a Markdown table: measured parameters and multiply-adds of each architecture next to the "
        "figures in the paper.",
    )
    parser.add_argument("--image_size", type=int, default=128, help="edge of the input volume in voxels (default 128)")
    parser.add_argument("--modalities", default="T2w", help="what the input channels show (default T2w)")
    args = parser.parse_args(argv)
    image_size = args.image_size
    try:
        modalities = check_modalities(args.modalities.split(","))
    except ValueError as error:
        parser.error(f"--{error}")
    if not 16 <= image_size <= 512:
        parser.error(f"--image_size is {image_size}: choose 16 to 512 voxels")
    return run_program(
        "architectures",
        lambda: print(markdown(cost_table(image_size, modalities=modalities), image_size, modalities)),
        failed=(OSError, MissingPackageError),
    )


if __name__ == "__main__":
    sys.exit(main())

"""Print what each architecture costs.

python -m architectures [--image_size 128]
"""

import argparse
import sys

from .cost import cost_table, markdown
from .networks import MissingPackageError


def main() -> int:
    parser = argparse.ArgumentParser(
        usage="python -m architectures [--image_size 128]",
        description="Parameters and multiply-adds of each architecture, measured, beside the paper's, as Markdown.",
    )
    parser.add_argument("--image_size", type=int, default=128, help="edge of the volume, voxels (default 128)")
    image_size = parser.parse_args().image_size
    if not 16 <= image_size <= 512:
        parser.error(f"--image_size is {image_size}: give 16 to 512 voxels")
    try:
        print(markdown(cost_table(image_size), image_size))
    except MissingPackageError as error:
        print(f"architectures: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

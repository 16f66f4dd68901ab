"""The former name of `python -m architectures`."""

import sys

from machine.programs import WRONG_CALL, complain

if __name__ == "__main__":
    sys.exit(complain("python -m baselines", "this command is now python -m architectures.", WRONG_CALL))

"""The former name of `python -m replication.consistency`."""

import sys

from machine.programs import WRONG_CALL, complain

if __name__ == "__main__":
    message = "this command is now python -m replication.consistency."
    sys.exit(complain("python -m evaluation.consistency", message, WRONG_CALL))

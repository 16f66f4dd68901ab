"""Publish what a run has trained on the Hugging Face Hub, and the page that serves it; private unless asked otherwise.

    hf auth login                                                          # once, or set HF_TOKEN
    python publish.py runs/NAME --hub_model_id ORG/NAME                    # the best fold: the highest honest AUC
    python publish.py runs/NAME --hub_model_id ORG/NAME --fold 2           # this one
    python publish.py runs/NAME --hub_model_id ORG/NAME --what all         # main: the best; branches fold-0, fold-1 ...
    python publish.py runs/NAME --hub_model_id ORG/NAME --what ensemble    # all folds as one model
    python publish.py runs/NAME --hub_model_id ORG/NAME --what refit       # trained on all scans by train.py --refit
    python publish.py runs/NAME --hub_model_id ORG/NAME --space ORG/PAGE   # the best fold, and the page that serves it
    python publish.py --hub_model_id ORG/NAME --space ORG/PAGE             # the page of a model that is there already

The same command run again updates the repository, and goes on where an interrupted one stopped. The card holds the
figures of all folds. Exit status: 0 published or unchanged, 1 it could not be, 2 the call was wrong, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cohort.hub_access import HubError, hub_name, require_token
from machine.memory import keep_imported_modules
from machine.programs import run_program
from publishing.hub import publish_run, publish_space
from publishing.leaks import LeakError
from publishing.release import WHAT
from run_folder.files import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Publish, and return the exit status."""
    options = parse_arguments(argv)
    return run_program(
        "publish.py",
        lambda: publish(options),
        wrong_call=(InputError,),
        failed=(HubError, LeakError, OSError),
    )


def publish(options: argparse.Namespace) -> None:
    if options.run is not None:
        publish_run(
            options.run,
            options.hub_model_id,
            options.what,
            options.fold,
            public=options.public,
            commit_message=options.commit_message,
        )
    if options.space is not None:
        publish_space(options.space, options.hub_model_id, public=options.public)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="folder of a run, runs/NAME")
    parser.add_argument("--hub_model_id", required=True, metavar="ORG/NAME", help="created if it does not exist")
    parser.add_argument("--what", choices=WHAT, help="which model of the run (default best)")
    parser.add_argument("--fold", type=int, metavar="K", help="this fold; the others need not be done")
    parser.add_argument("--space", metavar="ORG/NAME", help="also deploy app.py as a Space that loads this model")
    parser.add_argument("--public", action="store_true", help="create the repository for everybody to see")
    parser.add_argument("--commit_message", help="in place of one that names what is published")
    options = parser.parse_args(argv)
    if options.fold is not None and options.what is not None:
        parser.error("--fold names one model and --what another: give one of the two")
    if options.run is None and options.space is None:
        parser.error("there is nothing to publish: give a RUN, a --space, or both")
    for flag, name in (("--hub_model_id", options.hub_model_id), ("--space", options.space)):
        try:
            hub_name(name or options.hub_model_id)
        except ValueError as error:
            parser.error(f"{flag}: {error}")
    try:
        require_token()
    except HubError as error:
        parser.error(str(error))
    options.what = options.what or "best"
    return options


if __name__ == "__main__":
    keep_imported_modules()
    sys.exit(main())

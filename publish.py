"""Publish the models of a run on the Hugging Face Hub, and the web page as a Space. New repositories are private.

    hf auth login                                                          # once, or set HF_TOKEN
    python publish.py runs/NAME --hub_model_id ORG/NAME                    # the best fold: the highest unbiased AUC
    python publish.py runs/NAME --hub_model_id ORG/NAME --fold 2           # this fold
    python publish.py runs/NAME --hub_model_id ORG/NAME --what all         # main: the best; branches fold-0, fold-1 ...
    python publish.py runs/NAME --hub_model_id ORG/NAME --what ensemble    # all folds as one model
    python publish.py runs/NAME --hub_model_id ORG/NAME --what refit       # trained on all scans by train.py --refit
    python publish.py runs/NAME --hub_model_id ORG/NAME --space ORG/PAGE   # the best fold, and a page that serves it
    python publish.py --hub_model_id ORG/NAME --space ORG/PAGE             # a page for a model already on the Hub

Run the same command again to update a repository or to continue after an interruption. The model card holds the figures
of all folds. Exit status: 0 published or unchanged, 1 failed, 2 wrong call, 130 interrupted.
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("publish.py")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cohort.hub_access import HubError, hub_name, require_token
from machine.programs import WRONG_CALL, end_if_missing
from run_folder.layout import ENSEMBLE, REFIT
from screening.formats import SUFFIXES


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="the folder of a run, runs/NAME")
    parser.add_argument(
        "--hub_model_id", required=True, metavar="ORG/NAME", help="the model repository; created if missing"
    )
    parser.add_argument(
        "--what", choices=("best", "all", ENSEMBLE, REFIT), help="which model of the run to publish (default best)"
    )
    parser.add_argument("--fold", type=int, metavar="K", help="publish this fold; the others need not be done")
    parser.add_argument("--export", choices=tuple(SUFFIXES), help="also send the converted file of each model")
    parser.add_argument("--space", metavar="ORG/NAME", help="also publish app.py as a Space that loads this model")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    parser.add_argument("--commit_message", help="default: names what is published")
    options = parser.parse_args(argv)
    if options.fold is not None and options.what is not None:
        parser.error("--fold and --what each choose a model: give only one of them")
    if options.run is None and options.space is None:
        parser.error("nothing to publish: give RUN, --space, or both")
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


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    end_if_missing("publish.py", [parse_arguments().run], WRONG_CALL)

from machine.memory import keep_imported_modules
from machine.programs import run_program
from publishing.hub import publish_run, publish_space
from publishing.leaks import LeakError
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
    """Publish the models of a run, then the Space."""
    if options.run is not None:
        publish_run(
            options.run,
            options.hub_model_id,
            options.what,
            options.fold,
            public=options.public,
            commit_message=options.commit_message,
            converted=options.export,
        )
    if options.space is not None:
        publish_space(options.space, options.hub_model_id, public=options.public)


if __name__ == "__main__":
    keep_imported_modules()
    sys.exit(main())

"""Train one network over several hospitals whose scans stay where they are. docs/federated.md describes every step.

python -m federated kits sites.yaml --output kits/                    # the coordinator: a startup kit for everybody
python -m federated server kits/server --output_dir runs/NAME         # the coordinator's server
python -m federated site KIT --data_dir BIDS [--labels TSV]           # a hospital
python -m federated run kits/admin --recipe FILE [--fold K|all|refit] [--leave_out SITE|each]
python -m federated report runs/NAME                                  # what the joint model does at each hospital
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("federated")

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from machine.programs import run_program
from run_folder.files import InputError

from .messages import FederationError
from .sites import ADMIN, SERVER, read_kit, read_sites

INTERRUPTED = {
    "kits": "interrupted; run the same command again to make the missing kits",
    "server": "interrupted; run the same command again: the complete rounds are kept",
    "site": "interrupted; run the same command again to take part again",
    "run": "interrupted; run the same command again to continue from the newest complete round",
}


class WrongCallError(ValueError):
    """The arguments do not fit together."""


def kits(options: argparse.Namespace) -> None:
    """Make the startup kits."""
    sites = read_sites(options.sites)
    _require_nvflare()
    from .kits import make_kits

    made = make_kits(sites, options.output)
    print(f"{len(made)} new kit(s) in {options.output}: {', '.join(kit.name for kit in made) or 'all were there'}")
    if made:
        print("give each hospital its own folder over a private channel: it holds the hospital's key")


def server(options: argparse.Namespace) -> None:
    """Run the coordinator's server."""
    about = read_kit(options.kit, SERVER)
    _require_nvflare()
    from .parties import run_party

    settings = {"output_dir": str(options.output_dir.resolve()), "sites": about["sites"]}
    print(f"server of {', '.join(about['sites'])}; results go to {options.output_dir}; Ctrl-C ends it", flush=True)
    run_party("server", SERVER, options.kit, settings)


def site(options: argparse.Namespace) -> None:
    """Run a hospital's part."""
    about = read_kit(options.kit)
    _require_nvflare()
    from .parties import run_party

    name = about["party"]
    output = options.output_dir or Path(f"runs/{about['federation']}-{name}")
    settings = {
        "seed": about["seed"],
        "data_dir": str(options.data_dir.resolve()),
        "labels": options.labels and str(options.labels.resolve()),
        "output_dir": str(output.resolve()),
        "share_scores": options.share_scores,
    }
    print(f"{name}: waiting for {about['host']}; results go to {output}; Ctrl-C ends it", flush=True)
    run_party("client", name, options.kit, settings)


def run(options: argparse.Namespace) -> None:
    """Train with the sites that are connected to the server."""
    about = read_kit(options.kit, ADMIN)
    _require_nvflare()
    from training.recipe import RecipeError

    from .driver import drive
    from .plans import plans

    try:
        jobs = plans(options, about["sites"])
    except RecipeError as error:
        raise WrongCallError(str(error)) from error

    for plan, folds in jobs:
        if plan.left_out:
            print(f"without {plan.left_out}:", flush=True)
        drive(options.kit, plan, folds, options.round_timeout, lambda sentence: print(sentence, flush=True))
    print("done; the joint models are in the --output_dir of the server, and at every site")


def _require_nvflare() -> None:
    try:
        import nvflare  # noqa: F401
    except ImportError as error:
        raise WrongCallError(f"{error}: run pip install -r requirements-federated.txt") from error


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of one of the commands."""
    parser = argparse.ArgumentParser(
        prog="python -m federated", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="kits|server|site|run|report")
    add = commands.add_parser("kits", help="make a startup kit for the server, the coordinator and each hospital")
    add.add_argument("sites", type=Path, help="YAML file: the server's host and the sites with their seeds")
    add.add_argument("--output", type=Path, required=True, help="folder for the kits; it will hold private keys")
    add = commands.add_parser("server", help="the coordinator's server")
    add.add_argument("kit", type=Path, help="the kit of the server")
    add.add_argument("--output_dir", type=Path, required=True, help="run folder of the joint models, runs/NAME")
    add = commands.add_parser("site", help="a hospital")
    add.add_argument("kit", type=Path, help="the hospital's kit")
    add.add_argument("--data_dir", type=Path, required=True, help="BIDS folder")
    add.add_argument("--labels", type=Path, help="TSV or CSV file of labels, if the BIDS folder has none")
    add.add_argument("--output_dir", type=Path, help="run folder of this hospital (default: runs/FEDERATION-SITE)")
    add.add_argument(
        "--share_scores",
        action="store_true",
        help="let label and probability of held-out scans leave, without ids, if the coordinator asks for them",
    )
    add = commands.add_parser("run", help="train with the sites")
    add.add_argument("kit", type=Path, help="the kit `admin`")
    add.add_argument("--recipe", required=True, help="demo, paper or a YAML file")
    add.add_argument(
        "--fold", help="a fold, counted from 0; all (default); or refit: train on all scans (default with --leave_out)"
    )
    add.add_argument("--leave_out", metavar="SITE|each", help="train without a site; evaluate there")
    add.add_argument("--rounds", type=_positive, help="default: the recipe's epochs divided by --local_epochs")
    add.add_argument(
        "--local_epochs", type=_positive, default=1, help="epochs that a site trains in a round (default: 1)"
    )
    add.add_argument(
        "--round_timeout",
        type=_positive,
        default=6 * 3600,
        metavar="S",
        help="seconds that a round may take before it is started again (default: 21600)",
    )
    add.add_argument("--share_scores", action="store_true", help="ask the sites that allow it for scores")
    commands.add_parser("report", add_help=False, help="compare federation, single sites and pooled scans")
    options = parser.parse_args(argv)
    for name in ("data_dir", "labels"):
        given = getattr(options, name, None)
        if given and not (given.is_dir() if name == "data_dir" else given.is_file()):
            parser.error(f"--{name} {given} is not a {'folder' if name == 'data_dir' else 'file'}")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 done, 1 failed, 2 wrong call, 130 interrupted."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["report"]:
        from .report import main as report  # has its own arguments; slow to import

        return report(words[1:])
    options = parse_arguments(words)
    commands = {"kits": kits, "server": server, "site": site, "run": run}
    return run_program(
        f"federated {options.command}",
        lambda: commands[options.command](options),
        wrong_call=(WrongCallError, InputError),
        failed=(FederationError, OSError),
        interrupted=INTERRUPTED[options.command],
    )


if __name__ == "__main__":
    try:
        status = main()
    except Exception:  # a fault of ours: shown as Python shows it, since `os._exit` would hide it
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)  # NVFlare leaves threads behind

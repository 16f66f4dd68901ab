"""Reproduce the paper's tables and figures next to the paper's own numbers. Each table cell is one run of train.py.

    python reproduce.py --all --recipe reproduce                       # the phantom cohort, a small voxel grid
    python reproduce.py --table 2 --recipe paper --data_dir BIDS --labels labels.csv
    python reproduce.py --figure roc                                   # uses the same runs; nothing is trained twice
    python reproduce.py --plan --recipe paper --data_dir BIDS          # lists the runs and their cost

Run the same command again to continue where it stopped. Results are written to reproduction/; docs/reproduce.md
describes them. Exit status: 0 written (an empty cell gives its reason), 1 failed, 2 wrong call, 130 interrupted.
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("reproduce.py")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cohort.hub_access import is_hub_name
from training.recipe import RecipeError, add_recipe_flags

TABLES = range(1, 7)
FIGURES = ("roc", "tsne", "gradcam")
DECIDED = ("architecture", "init")  # set by the tables, so not flags here


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, dict]:
    """Read the command line.

    Returns:
        The options of this program, and the settings that override the recipe.
    """
    parser = argparse.ArgumentParser(
        prog="reproduce.py",
        usage="python reproduce.py --all | --table N | --figure NAME | --compact | --errors | --plan [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--all", action="store_true", help="every table and figure, and the error analysis")
    parser.add_argument("--table", type=int, choices=TABLES, action="append", default=[], help="one table; repeatable")
    parser.add_argument("--figure", choices=FIGURES, action="append", default=[], help="one figure; repeatable")
    parser.add_argument("--compact", action="store_true", help="compare the compact preset with the full network")
    parser.add_argument("--errors", action="store_true", help="missed lesions and motion, on 0.5 mm phantoms")
    parser.add_argument("--plan", action="store_true", help="list the runs and their computed cost; train nothing")
    parser.add_argument("--recipe", help="reproduce, paper or a YAML file (default reproduce for phantoms, else paper)")
    parser.add_argument("--data_dir", help="a BIDS folder, or ORG/NAME of a dataset on the Hub; default: a phantom")
    parser.add_argument("--labels", type=Path, help="TSV or CSV of labels, if they are not in the BIDS folder")
    parser.add_argument("--phantom", choices=("clear", "dhcp", "null"), help="which phantom cohort (default clear)")
    parser.add_argument("--output", type=Path, default=Path("reproduction"), help="folder for the results and runs")
    parser.add_argument("--medicalnet", type=Path, help="folder with resnet_10_23dataset.pth, and those of 18 and 50")
    parser.add_argument("--patches_per_axis", type=int, default=2, help="native patches per axis, setting I of Table 3")
    parser.add_argument("--phantoms_per_kind", type=int, default=2, help="0.5 mm phantoms per lesion type (default 2)")
    parser.add_argument("--launcher", default="", help="command that starts train.py, e.g. 'accelerate launch'")
    add_recipe_flags(parser)
    arguments = vars(parser.parse_args(argv))
    run_options = (
        *("all", "table", "figure", "compact", "errors", "plan", "recipe", "data_dir", "labels", "phantom"),
        *("output", "medicalnet", "patches_per_axis", "phantoms_per_kind", "launcher"),
    )
    options = argparse.Namespace(**{name: arguments.pop(name) for name in run_options})

    if not (options.all or options.table or options.figure or options.compact or options.errors or options.plan):
        parser.error("nothing to do: give --all, --table N, --figure NAME, --compact, --errors or --plan")
    for name in DECIDED:
        if name in arguments:
            parser.error(f"--{name} is decided by the tables: leave it out, or start a separate run with train.py")
    if arguments.get("split") == "site":
        parser.error(
            "--split site leaves out sites, and the paper's tables have five folds: run train.py with it instead"
        )
    if options.data_dir and options.phantom:
        parser.error("--phantom generates a cohort and --data_dir names one: give only one of them")
    if options.data_dir and not Path(options.data_dir).is_dir() and not is_hub_name(options.data_dir):
        parser.error(f"--data_dir {options.data_dir} is not a folder: give the BIDS folder of your cohort")
    if options.labels and not options.labels.is_file():
        parser.error(f"--labels {options.labels} is not a file: give a TSV or CSV of labels")
    if options.medicalnet and not options.medicalnet.is_dir():
        parser.error(f"--medicalnet {options.medicalnet} is not a folder: give the one that holds the .pth files")
    if not 1 <= options.patches_per_axis <= 8:
        parser.error(f"--patches_per_axis is {options.patches_per_axis}: give 1 to 8")
    if not 1 <= options.phantoms_per_kind <= 1000:
        parser.error(f"--phantoms_per_kind is {options.phantoms_per_kind}: give 1 to 1000")
    return options, arguments


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()

from cohort.from_hub import open_cohort
from cohort.phantom import PhantomFolderError, generate_phantom_cohort, is_phantom
from cohort.scans import CohortError
from machine.memory import keep_imported_modules
from machine.programs import run_program
from replication.cells import Bench
from replication.failure_modes import write_errors
from replication.figures import write_figure
from replication.overview import write_overview, write_plan
from replication.tables import write_compact, write_table
from run_folder.files import InputError
from screening.loading import ModelError


def reproduce(options: argparse.Namespace, settings: dict) -> None:
    """Write the requested parts, and print each path as soon as it is written."""
    if options.data_dir:
        data_dir, _ = open_cohort(options.data_dir)
    else:
        data_dir = Path(f"data/phantom-{options.phantom or 'clear'}")
        generate_phantom_cohort(data_dir, preset=options.phantom or "clear")
    recipe = options.recipe or ("reproduce" if is_phantom(data_dir) else "paper")
    bench = Bench(
        recipe, settings, data_dir, options.labels, options.output,
        options.medicalnet, options.patches_per_axis, options.launcher, dry=options.plan,
    )  # fmt: skip
    if options.plan:
        print(write_plan(bench).read_text(encoding="utf-8"))
        return
    for number in TABLES if options.all else options.table:
        print(write_table(bench, number), flush=True)
    if options.all or options.compact:
        print(write_compact(bench), flush=True)
    for name in FIGURES if options.all else options.figure:
        print(write_figure(bench, name), flush=True)
    if options.all or options.errors:
        print(write_errors(bench, options.phantoms_per_kind), flush=True)
    print(write_overview(bench))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module docstring."""
    options, settings = parse_arguments(argv)
    return run_program(
        "reproduce.py",
        lambda: reproduce(options, settings),
        wrong_call=(RecipeError, PhantomFolderError),
        failed=(CohortError, InputError, ModelError, OSError),
    )


if __name__ == "__main__":
    keep_imported_modules()
    sys.exit(main())

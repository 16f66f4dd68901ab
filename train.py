"""Train GloResNet fold by fold and write models that are ready for the Hub.

    accelerate launch train.py --fold 4                                    # the phantom cohort, one fold
    accelerate launch train.py --fold all                                  # all five, then cv_metrics.json
    accelerate launch train.py --data_dir BIDS --labels labels.csv         # the paper's recipe on your cohort
    accelerate launch train.py --refit --push_to_hub --hub_model_id ORG/NAME   # then one on all scans, to the Hub
    accelerate launch --multi_gpu train.py --data_dir BIDS --mixed_precision bf16

The same command continues a run that was stopped. docs/train.md describes the output.
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("train.py")

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cohort.hub_access import HubError, hub_name, is_hub_name, require_token
from screening.formats import SUFFIXES, missing_packages
from training.recipe import Recipe, RecipeError, add_recipe_flags, load_recipe


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, dict]:
    """Return the options of the run, and the settings that override the recipe."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        usage="accelerate launch train.py [--fold K|all] [--data_dir BIDS] [--recipe NAME|FILE] [settings]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--fold", default="all", help="the fold to train, counted from 0, or all (default)")
    add("--data_dir", help="BIDS folder, or ORG/NAME of a Hub dataset (default: a phantom cohort)")
    add("--labels", help="TSV or CSV file of labels, if the BIDS folder has none")
    add("--acquisition", metavar="A", help="which image to use in sessions with several: the one with acq-A")
    add("--run", metavar="N", help="the same for run-N")
    add(
        "--also",
        action="extend",
        nargs="+",
        default=[],
        metavar="ROOT",
        help="further BIDS folders of the same scans, for --modalities",
    )
    add("--phantom", choices=("clear", "dhcp", "null", "diffuse"), help="which phantom cohort (default: clear)")
    add("--recipe", help="demo, paper, clinical or a YAML file (default: demo for phantoms, else paper)")
    add("--output_dir", help="folder of the run (default: runs/<cohort>-<recipe>)")
    trackers = ("none", "tensorboard", "trackio", "wandb")
    add("--report_to", default="none", choices=trackers, help="where to log training (default: none)")
    add("--refit", action="store_true", help="after all folds, train one more model on all scans")
    add("--push_to_hub", action="store_true", help="publish the given fold, else the refit, else the best fold")
    add("--hub_model_id", metavar="ORG/NAME", help="Hub repository; a new one is private")
    add("--export", choices=tuple(SUFFIXES), help="also convert each model to one file that runs without torch")
    memory = "keep freed memory for the next step, or return it: less memory, more time (default: keep; "
    memory += "return with --gradient_checkpointing)"
    add("--freed_memory", choices=("keep", "return"), help=memory)
    add("--overwrite", action="store_true", help="first remove the run in --output_dir")
    add_recipe_flags(parser)
    arguments = vars(parser.parse_args(argv))
    run_options = (
        *("fold", "data_dir", "labels", "acquisition", "run", "also", "phantom", "recipe", "output_dir", "report_to"),
        *("refit", "push_to_hub", "hub_model_id", "export", "freed_memory", "overwrite"),
    )
    options = argparse.Namespace(**{name: arguments.pop(name) for name in run_options})

    if options.fold != "all" and not options.fold.isdecimal():
        parser.error(f"--fold is {options.fold}: give a number, counted from 0, or all")
    if options.data_dir and options.phantom:
        parser.error("--phantom generates a cohort and --data_dir names one: give only one of them")
    if options.data_dir and not Path(options.data_dir).is_dir() and not is_hub_name(options.data_dir):
        parser.error(f"--data_dir {options.data_dir} is not a folder: give the BIDS folder of your cohort")
    if options.also and not options.data_dir:
        parser.error("--also adds folders to --data_dir: give both")
    if missing := [root for root in options.also if not Path(root).is_dir()]:
        parser.error(f"--also {missing[0]} is not a folder: give the BIDS folder of the further modalities")
    if options.labels and not Path(options.labels).is_file():
        parser.error(f"--labels {options.labels} is not a file: give a TSV or CSV of labels")
    tracker = None if options.report_to == "none" else find_spec(options.report_to)
    if options.report_to != "none" and (tracker is None or tracker.origin is None):  # without origin: some folder
        parser.error(f"--report_to {options.report_to} needs its package: pip install {options.report_to}")
    if options.recipe or not options.data_dir:  # otherwise the data decides which recipe it is
        try:
            load_recipe(options.recipe or "demo", **arguments)
        except RecipeError as error:
            parser.error(str(error))
    if options.export and (missing := missing_packages(options.export)):
        parser.error(f"--export {options.export} needs {' and '.join(missing)}: pip install -r requirements-export.txt")
    if options.refit and options.fold != "all":
        parser.error("--refit needs a complete cross-validation: leave out --fold")
    if options.push_to_hub != bool(options.hub_model_id):
        parser.error("--push_to_hub and --hub_model_id ORG/NAME are needed together: give both")
    if options.push_to_hub:
        try:
            hub_name(options.hub_model_id)
            require_token()  # fail now, not after hours of training
        except (ValueError, HubError) as error:
            parser.error(f"--push_to_hub: {error}")
    return options, arguments


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()

from dataclasses import asdict, replace

import torch

from architectures.networks import NAMES as BASELINES
from cohort.from_hub import open_cohort
from cohort.phantom import PhantomFolderError, generate_phantom_cohort, is_phantom
from cohort.phantom.modalities import MODALITIES
from cohort.phantom.session import DIFFUSION_ROOT
from cohort.scans import CohortError
from evaluation.metrics import write_cv_metrics
from evaluation.records import read_pooled
from machine.memory import keep_freed_memory, keep_imported_modules
from machine.programs import run_program
from modeling_gloresnet import MedicalNetImportError
from publishing.card import render_card
from publishing.export import export_model
from publishing.hub import publish_trained
from publishing.release import write_cards
from run_folder.files import InputError, write_json
from run_folder.layout import REFIT, ModelFolder, RunFolder
from training.build import new_model, new_processor
from training.data import TrainingData, prepare_data
from training.fold import open_fold
from training.launch import overridden_settings, start_accelerator
from training.loop import NonFiniteLossError
from training.outcome import fold_summary, summary
from training.run import RunError, open_run


def train(options: argparse.Namespace, settings: dict) -> None:
    """Do the whole run: recipe, cohort, folds, report and, on request, the refit and the upload to the Hub."""
    data_dir = Path(f"data/phantom-{options.phantom or 'clear'}")
    origin = str(data_dir.resolve())
    if options.data_dir:
        data_dir, origin = open_cohort(options.data_dir)
    recipe_name = options.recipe or ("paper" if options.data_dir and not is_phantom(data_dir) else "demo")
    recipe = load_recipe(recipe_name, **settings)
    check_options(options, recipe, settings)
    several = len(recipe.channels) > 1
    if several and options.data_dir and data_dir.resolve() != Path(options.data_dir).resolve():
        raise RecipeError(
            f"{options.data_dir} is a dataset, which holds T2w only: give BIDS folders, or --modalities T2w."
        )
    also = [str(Path(root).resolve()) for root in options.also]
    if several and not options.data_dir:
        data_dir = data_dir if options.phantom == "diffuse" else data_dir.with_name(f"{data_dir.name}-modalities")
        origin, also = str(data_dir.resolve()), [str(data_dir.resolve() / DIFFUSION_ROOT)]
    run = RunFolder(options.output_dir or f"runs/{data_dir.resolve().name}-{Path(recipe_name).stem}")
    accelerator = start_accelerator(recipe, run.path, options.report_to)
    for sentence in overridden_settings(recipe):
        accelerator.print(f"train.py: {sentence}", file=sys.stderr)

    images = {"acquisition": options.acquisition, "run": options.run, "also": also}
    # the main process does what is done once; the others wait and then find it done
    with accelerator.main_process_first():
        source = {"data_dir": origin, "labels": options.labels and str(Path(options.labels).resolve())}
        source |= images | {"also": os.pathsep.join(also) or None}
        overwrite = options.overwrite and accelerator.is_main_process
        recipe = open_run(run, recipe, source, accelerator.num_processes, overwrite=overwrite)
        torch.set_num_threads(recipe.num_threads)  # `accelerate launch` sets one thread, which nearly halves the speed
        if keeps_freed_memory(options.freed_memory, recipe):
            keep_freed_memory()
        new_model(recipe)  # stop now, not after reading the cohort, if the initial weights are unavailable
        if not options.data_dir:
            modalities = MODALITIES if several else None
            generate_phantom_cohort(data_dir, preset=options.phantom or "clear", modalities=modalities)
    data = prepare_data(data_dir, options.labels, recipe, run, accelerator, images)
    if recipe.split == "site":
        recipe = replace(recipe, num_folds=data.splits["num_folds"])
        check_fold(options.fold, recipe.num_folds)

    folds = run.folds(recipe.num_folds)
    for number in range(recipe.num_folds) if options.fold == "all" else [int(options.fold)]:
        if not folds[number].metrics.is_file():
            train_fold(number, data, recipe, run, options.report_to)
            if accelerator.is_main_process:
                run.report.unlink(missing_ok=True)  # it does not contain this fold
        accelerator.print(fold_summary(folds[number]))

    if accelerator.is_main_process and all(fold.metrics.is_file() for fold in folds):
        if not run.report.is_file():
            from evaluation.report import write_report  # importing the plotting takes a second; no fold waits for it

            write_cv_metrics(run.path)  # first, so that an error while drawing loses no figures
            write_cards(run.path)
            write_report(run.path)
        pooled = read_pooled(run)
        print(f"all {recipe.num_folds} folds, pooled out-of-fold: {summary(pooled)}; read {run.report}")
    if options.refit:
        if not run.refit.config.is_file():
            train_fold(REFIT, data, recipe, run, options.report_to)
            if accelerator.is_main_process:
                write_cards(run.path)
        accelerator.print(f"refit on all {len(data.rows)} scans; model in {run.refit.model}")
    if options.export and accelerator.is_main_process:
        trained = folds if options.fold == "all" else [folds[int(options.fold)]]
        convert_models([*trained, *([run.refit] if options.refit else [])], options.export)
    if options.push_to_hub and accelerator.is_main_process:
        what, fold = REFIT if options.refit else "best", None if options.fold == "all" else int(options.fold)
        publish_trained(run.path, options.hub_model_id, what, fold)


def keeps_freed_memory(asked: str | None, recipe: Recipe) -> bool:
    """Whether freed memory is kept for the next step; `asked` is `--freed_memory`."""
    return asked == "keep" or (asked is None and not recipe.gradient_checkpointing)  # which is chosen to save memory


def train_fold(which: int | str, data: TrainingData, recipe: Recipe, run: RunFolder, report_to: str) -> None:
    """Train one fold, or the refit on all scans, from its initial weights or its newest checkpoint to a model folder.

    `metrics.json` is written last: it marks the fold as finished.
    """
    with open_fold(which, data, recipe, run, report_to=report_to) as fold:
        for epoch in range(1, recipe.num_train_epochs + 1):
            fold.epoch(epoch)
        result = fold.finish()
        if result is not None:  # this is the main process
            card = render_card(result.network.config, asdict(recipe), result.metrics)
            export_model(result.network, new_processor(recipe), fold.folder.model, card)
            if result.metrics is not None:
                write_json(fold.folder.metrics, result.metrics)


def convert_models(folders: Sequence[ModelFolder], format: str) -> None:
    """Convert models, each to a file next to its folder, unless its file is newer than the model.

    Raises:
        OSError: a conversion failed. The run is complete; the message says how to repeat it.
    """
    from publishing.convert import ConversionError, ModelError, WrongCall, convert_folder

    for folder in folders:
        file = folder.converted(SUFFIXES[format])
        if file.is_file() and file.stat().st_mtime >= folder.config.stat().st_mtime:
            continue
        try:
            print(convert_folder(str(folder.model), format, output=file))
        except (ConversionError, ModelError, WrongCall) as error:
            command = f"python -m publishing.convert {folder.model} --format {format}"
            raise OSError(f"{error} The trained run is kept. To convert it later: {command}") from error


def check_fold(fold: str, num_folds: int) -> None:
    """Refuse the number of a fold that does not exist. Raises RecipeError."""
    if fold != "all" and int(fold) >= num_folds:
        raise RecipeError(f"There is no fold {fold} of {num_folds}: fold numbers start at 0.")


def check_options(options: argparse.Namespace, recipe: Recipe, settings: dict) -> None:
    """Refuse options that this recipe or this machine cannot follow.

    Raises:
        RecipeError: the message names the option.
    """
    if recipe.split == "site" and "num_folds" in settings:
        raise RecipeError("--split site makes one fold per site: leave out --num_folds.")
    if recipe.split != "site":  # the number of sites is known once the cohort is read
        check_fold(options.fold, recipe.num_folds)
    if options.also and len(recipe.channels) == 1:
        raise RecipeError(
            "--also names folders of further modalities: add --modalities T2w,T1w,FA,MD, or leave it out."
        )
    if (precision := recipe.mixed_precision) in ("tf32", "fp16") and not torch.cuda.is_available():
        raise RecipeError(f"mixed_precision {precision} needs a CUDA GPU, and this machine has none: use no or bf16.")
    if options.export and recipe.architecture in BASELINES:
        raise RecipeError(
            f"--export converts ResNets only, and the architecture is {recipe.architecture}: leave it out."
        )
    if options.refit and recipe.selection != "last":
        raise RecipeError(
            f"--refit trains on all scans, so --selection {recipe.selection} has none left to choose the epoch on: "
            "leave out one of the two."
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Train. Returns the exit status: 0 done, 1 failed, 2 wrong call, 130 interrupted."""
    return run_program(
        "train.py",
        lambda: train(*parse_arguments(argv)),
        wrong_call=(RecipeError, RunError, PhantomFolderError),
        failed=(CohortError, OSError, InputError, MedicalNetImportError, NonFiniteLossError, HubError),
        interrupted="interrupted; run the same command again to continue from the last epoch",
    )


if __name__ == "__main__":
    keep_imported_modules()
    sys.exit(main())

"""Train GloResNet fold by fold and leave Hub-ready models.

    accelerate launch train.py --fold 4                                    # the phantom cohort, one fold
    accelerate launch train.py --fold all                                  # all five, then cv_metrics.json
    accelerate launch train.py --data_dir BIDS --labels labels.csv         # the paper's recipe on your cohort
    accelerate launch train.py --refit --push_to_hub --hub_model_id ORG/NAME   # then one on all scans, to the Hub
    accelerate launch --multi_gpu train.py --data_dir BIDS --mixed_precision bf16

The same command run again goes on where it stopped. README.md describes what comes out.
"""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed
from filelock import FileLock
from tqdm import tqdm

from cohort.cache import standardised_volumes
from cohort.folds import check_splits, fold_scans, inner_split, make_splits, read_splits, write_splits
from cohort.from_hub import is_hub_name, open_cohort
from cohort.hub_access import HubError, hub_name, require_token
from cohort.phantom import PhantomFolderError, generate_phantom_cohort, is_phantom
from cohort.scans import CohortError, Scan, find_scans, flow, write_cohort
from evaluation.metrics import screening_metrics, write_cv_metrics
from machine.memory import keep_freed_memory, keep_imported_modules
from modeling_gloresnet import GloResNetForImageClassification, MedicalNetImportError
from publishing.card import render_card
from publishing.export import export_model
from publishing.hub import publish_trained
from publishing.release import write_cards
from run_folder.files import InputError, read_json, write_json, write_text
from screening.out_of_distribution import training_appearance
from training.build import ScanDataset, new_loader, new_model, new_processor, start_accelerator
from training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from training.loop import NonFiniteLossError, check_finite, mean_log_loss, predict_fold, train_one_epoch
from training.loss import class_weights
from training.outcome import check_weights, epoch_metrics, fold_summary, labels_and_means, prediction_table, summary
from training.recipe import Recipe, RecipeError, add_recipe_flags, load_recipe
from training.run import RunError, claim_fold, open_run
from training.selection import fit_on_inner, select_epoch


class Cohort(NamedTuple):
    """The scans in use, the row of each among the standardised volumes, and the folds they are in."""

    name: str
    synthetic: bool
    rows: dict[Scan, int]
    volumes: datasets.Dataset
    splits: dict


def train(options: argparse.Namespace, settings: dict) -> None:
    """The whole run: cohort, folds, and what they add up to."""
    data_dir = Path(f"data/phantom-{options.phantom or 'clear'}")
    origin = str(data_dir.resolve())
    if options.data_dir:
        data_dir, origin = open_cohort(options.data_dir)
    recipe_name = options.recipe or ("paper" if options.data_dir and not is_phantom(data_dir) else "demo")
    recipe = load_recipe(recipe_name, **settings)
    if options.fold != "all" and int(options.fold) >= recipe.num_folds:
        raise RecipeError(f"There is no fold {options.fold} of {recipe.num_folds}: they count from 0.")
    if recipe.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise RecipeError("mixed_precision fp16 needs a CUDA GPU, and none is here: use no or bf16.")
    if options.refit and recipe.selection != "last":
        raise RecipeError(
            f"--refit repeats a schedule that chooses nothing, and --selection {recipe.selection} chooses epochs on "
            "scans that a refit trains on: leave one of the two out."
        )
    run = Path(options.output_dir or f"runs/{data_dir.resolve().name}-{Path(recipe_name).stem}")
    accelerator = start_accelerator(recipe, run, options.report_to)

    # what is done once is done by the main process; the others wait, then find it done
    with accelerator.main_process_first():
        source = {"data_dir": origin, "labels": options.labels and str(Path(options.labels).resolve())}
        overwrite = options.overwrite and accelerator.is_main_process
        recipe = open_run(run, recipe, source, accelerator.num_processes, overwrite=overwrite)
        torch.set_num_threads(recipe.num_threads)  # `accelerate launch` leaves one, which nearly halves the speed
        if not recipe.gradient_checkpointing:  # which is there to save memory
            keep_freed_memory()
        new_model(recipe)  # weights that cannot be had stop the run now, not after the cohort is read
        if not options.data_dir:
            generate_phantom_cohort(data_dir, preset=options.phantom or "clear")
    cohort = read_cohort(data_dir, options.labels, recipe, run, accelerator)

    for fold in range(recipe.num_folds) if options.fold == "all" else [int(options.fold)]:
        if not (run / f"fold-{fold}" / "metrics.json").is_file():
            train_fold(fold, cohort, recipe, run, options.report_to)
            if accelerator.is_main_process:
                (run / "report.html").unlink(missing_ok=True)  # of before this fold was trained
        accelerator.print(fold_summary(run / f"fold-{fold}"))

    finished = [(run / f"fold-{fold}" / "metrics.json").is_file() for fold in range(recipe.num_folds)]
    if accelerator.is_main_process and all(finished):
        if not (run / "report.html").is_file():
            from evaluation.report import write_report  # drawing takes a second to import, which no fold waits for

            write_cv_metrics(run)  # figures that no trouble with a picture can take away
            write_cards(run)
            write_report(run)
        pooled = read_json(run / "cv_metrics.json")["pooled"]
        print(f"all {recipe.num_folds} folds, pooled out-of-fold: {summary(pooled)}; read {run / 'report.html'}")
    if options.refit:
        if not (run / "refit" / "model" / "config.json").is_file():
            train_fold("refit", cohort, recipe, run, options.report_to)
            if accelerator.is_main_process:
                write_cards(run)
        accelerator.print(f"refit on all {len(cohort.rows)} scans; model in {run / 'refit' / 'model'}")
    if options.push_to_hub and accelerator.is_main_process:
        what, fold = "refit" if options.refit else "best", None if options.fold == "all" else int(options.fold)
        publish_trained(run, options.hub_model_id, what, fold)


def read_cohort(data_dir: Path, labels: str | None, recipe: Recipe, run: Path, accelerator: Accelerator) -> Cohort:
    """Find and standardise the scans; write the folds of a new run, obey and re-check those of an old one."""
    processor = new_processor(recipe)
    with accelerator.main_process_first():
        scans = find_scans(data_dir, labels, brain_mask=recipe.brain_mask, max_birth_age=recipe.max_birth_age)
        volumes, scans = standardised_volumes(scans, processor)
    used = [scan for scan in scans if scan.status == "used"]
    hashes = dict(zip([scan.image for scan in used], volumes["sha256"], strict=True))
    accelerator.print(f"{data_dir}: " + ", ".join(f"{count} {status}" for status, count in flow(scans).items()))

    with accelerator.main_process_first(), FileLock(run / ".lock"):
        if not (run / "splits.json").is_file():
            splits = make_splits(
                used, num_folds=recipe.num_folds, seed=recipe.seed, split=recipe.split, file_hashes=hashes
            )
            write_cohort(scans, run / "cohort.csv")
            write_splits(splits, run / "splits.json")
    splits = read_splits(run / "splits.json")
    check_splits(splits, used, hashes)
    rows = {scan: row for row, scan in enumerate(used)}
    return Cohort(data_dir.resolve().name, is_phantom(data_dir), rows, volumes, splits)


def train_fold(fold: int | str, cohort: Cohort, recipe: Recipe, run: Path, report_to: str) -> None:
    """One fold, from initial weights or its newest checkpoint to predictions, metrics and a model folder.

    The fold named `refit` trains on all scans; its random numbers are those of one fold more.
    """
    refit = fold == "refit"
    folder = run / ("refit" if refit else f"fold-{fold}")
    number = recipe.num_folds if refit else fold
    accelerator = start_accelerator(recipe, folder, report_to)
    with claim_fold(folder, accelerator.is_main_process):
        train, scored = (list(cohort.rows), []) if refit else fold_scans(cohort.splits, list(cohort.rows), fold)
        train, inner = inner_split(train, seed=recipe.seed) if recipe.selection == "inner" else (train, [])

        set_seed(recipe.seed + 1000 * number)
        model = new_model(recipe)
        if accelerator.device.type == "cpu":  # the same sums in another order, in half the time; untried on a GPU
            model = model.to(memory_format=torch.channels_last_3d)
        if recipe.gradient_checkpointing:
            model.activation_checkpointing_enable()
        if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=recipe.num_train_epochs, eta_min=recipe.min_learning_rate
        )
        # not prepared: a prepared schedule would advance once a process
        accelerator.register_for_checkpointing(schedule)
        model, optimizer, train_loader, scored_loader, inner_loader = accelerator.prepare(
            model,
            optimizer,
            new_loader(scan_dataset(train, cohort), recipe, accelerator, shuffle=True),
            new_loader(scan_dataset(scored, cohort), recipe, accelerator),
            new_loader(scan_dataset(inner, cohort), recipe, accelerator),
        )
        weights = class_weights([scan.label for scan in train]).to(accelerator.device)

        history, selected = [], None
        if (checkpoint := newest_checkpoint(folder / "checkpoints")) is not None:
            history, selected = load_checkpoint(accelerator, checkpoint)
        accelerator.init_trackers("gloresnet", config={k: str(v) for k, v in asdict(recipe).items()})
        with tqdm(
            desc="refit" if refit else f"fold {fold}",
            initial=len(history) * len(train_loader),
            total=recipe.num_train_epochs * len(train_loader),
            disable=not accelerator.is_main_process,
            unit="step",
        ) as progress:
            for epoch in range(len(history) + 1, recipe.num_train_epochs + 1):
                started = time.perf_counter()
                row = {"epoch": epoch, "learning_rate": schedule.get_last_lr()[0]}
                row["train_loss"] = train_one_epoch(
                    model, train_loader, optimizer, weights, recipe, accelerator,
                    epoch=epoch, fold=number, progress=progress,
                )  # fmt: skip
                schedule.step()

                network = accelerator.unwrap_model(model)
                views = predict_fold(network, scored_loader, accelerator) | predict_fold(
                    network, inner_loader, accelerator
                )
                check_finite(views, epoch, recipe)
                row |= epoch_metrics(*labels_and_means(cohort.rows, scored, views))
                if inner:
                    row["inner_loss"] = mean_log_loss(*labels_and_means(cohort.rows, inner, views))
                row["seconds"] = round(time.perf_counter() - started, 3)
                history.append(row)
                if recipe.selection != "last" and select_epoch(history, recipe.selection) == epoch:
                    selected = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
                save_checkpoint(accelerator, folder / "checkpoints", history, selected)
                accelerator.log({k: v for k, v in row.items() if v is not None and k != "epoch"}, step=epoch)
        for tracker in accelerator.trackers:
            tracker.finish()

        # a new model in float32, so that these predictions are those that the exported folder will make
        network = new_model(recipe, pretrained=False)
        network.load_state_dict(selected or accelerator.unwrap_model(model).state_dict())
        check_weights(network, recipe)
        network.to(accelerator.device).eval()
        metrics = {"fold": fold, "selection": recipe.selection, "inner": None}
        if inner:
            views = predict_fold(network, inner_loader, accelerator)
            rows = [cohort.rows[scan] for scan in inner]
            metrics["inner"] = fit_on_inner([s.label for s in inner], np.stack([views[row] for row in rows], axis=1))
            network.config.temperature = metrics["inner"]["temperature"]
        views = predict_fold(network, scored_loader, accelerator)
        if accelerator.is_main_process:
            history = pd.DataFrame(history)
            metrics["selected_epoch"] = select_epoch(history.to_dict("records"), recipe.selection)
            history["selected"] = (history["epoch"] == metrics["selected_epoch"]).astype(int)
            write_text(folder / "history.csv", history.to_csv(index=False))
            finish_fold(folder, cohort, recipe, network, metrics, train, scored, views)
        accelerator.wait_for_everyone()
        accelerator.free_memory()


def finish_fold(
    folder: Path,
    cohort: Cohort,
    recipe: Recipe,
    network: GloResNetForImageClassification,
    metrics: dict,
    train: list[Scan],
    scored: list[Scan],
    views: dict[int, np.ndarray],
) -> None:
    """Predictions first, then their figures, then the model folder; metrics.json, written last, marks the fold done."""
    if scored:
        predictions = prediction_table(cohort.rows, scored, views, metrics["fold"])
        write_text(folder / "predictions.csv", predictions.to_csv(index=False))
        metrics |= screening_metrics(predictions["label"], predictions["p_injury"], network.config.threshold)
    metrics["train_scans"] = len(train)
    network.config.provenance = {
        "cohort": cohort.name,
        "synthetic": cohort.synthetic,
        "run": folder.parent.resolve().name,
        "fold": metrics["fold"],
        "train_scans": len(train),
        "architecture": recipe.architecture,
    }
    volumes = cohort.volumes.with_format("numpy", columns=["pixel_values"])
    network.config.training_appearance = training_appearance(
        volumes[cohort.rows[scan]]["pixel_values"][0] for scan in train
    )
    card = render_card(network.config, asdict(recipe), metrics if scored else None)
    export_model(network, new_processor(recipe), folder / "model", card)
    if scored:
        write_json(folder / "metrics.json", metrics)


def scan_dataset(part: list[Scan], cohort: Cohort) -> ScanDataset:
    return ScanDataset(cohort.volumes, [cohort.rows[scan] for scan in part], [scan.label for scan in part])


def parse_arguments() -> tuple[argparse.Namespace, dict]:
    """What to run, and the settings that override the recipe's."""
    parser = argparse.ArgumentParser(
        usage="accelerate launch train.py [--fold K|all] [--data_dir BIDS] [--recipe demo|paper|FILE] [settings]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fold", default="all", help="which fold to train, from 0, or all (default)")
    parser.add_argument("--data_dir", help="a BIDS folder, or ORG/NAME of a dataset on the Hub; default: a phantom")
    parser.add_argument("--labels", help="TSV or CSV of labels, if they are not in the BIDS folder")
    parser.add_argument("--phantom", choices=("clear", "dhcp", "null"), help="which phantom cohort (default clear)")
    parser.add_argument("--recipe", help="demo, paper or a YAML file (default demo for phantoms, else paper)")
    parser.add_argument("--output_dir", help="folder of the run (default runs/<cohort>-<recipe>)")
    parser.add_argument("--report_to", default="none", choices=("none", "tensorboard", "trackio", "wandb"))
    parser.add_argument("--refit", action="store_true", help="after all folds, train once more on all scans")
    parser.add_argument("--push_to_hub", action="store_true", help="publish fold K, the best of all, or the refit")
    parser.add_argument("--hub_model_id", metavar="ORG/NAME", help="repository on the Hub, private if new")
    parser.add_argument("--overwrite", action="store_true", help="remove the run that is in --output_dir")
    add_recipe_flags(parser)
    arguments = vars(parser.parse_args())
    run_options = ("fold", "data_dir", "labels", "phantom", "recipe", "output_dir", "report_to", "overwrite")
    run_options += ("refit", "push_to_hub", "hub_model_id")
    options = argparse.Namespace(**{name: arguments.pop(name) for name in run_options})

    if options.fold != "all" and not options.fold.isdecimal():
        parser.error(f"--fold is {options.fold}: give a number from 0, or all")
    if options.data_dir and options.phantom:
        parser.error("--phantom generates a cohort and --data_dir names one: give one of the two")
    if options.data_dir and not Path(options.data_dir).is_dir() and not is_hub_name(options.data_dir):
        parser.error(f"--data_dir {options.data_dir} is not a folder: give the BIDS folder of your cohort")
    if options.labels and not Path(options.labels).is_file():
        parser.error(f"--labels {options.labels} is not a file: give a TSV or CSV of labels")
    if options.report_to != "none" and options.report_to not in map(str, get_available_trackers()):
        parser.error(f"--report_to {options.report_to} needs its package: pip install {options.report_to}")
    if options.refit and options.fold != "all":
        parser.error("--refit follows a whole cross-validation: leave --fold out")
    if options.push_to_hub != bool(options.hub_model_id):
        parser.error("--push_to_hub and --hub_model_id ORG/NAME belong together: give both")
    if options.push_to_hub:
        try:
            hub_name(options.hub_model_id)
            require_token()  # before hours of training, not after
        except (ValueError, HubError) as error:
            parser.error(f"--push_to_hub: {error}")
    return options, arguments


def main() -> None:
    """Train; an expected failure is one sentence, with exit status 2 for a wrong call and 1 for a failed job."""
    failures = (CohortError, OSError, InputError, MedicalNetImportError, NonFiniteLossError, HubError)
    try:
        train(*parse_arguments())
    except (RecipeError, RunError, PhantomFolderError) as error:
        sys.exit(complain(error, status=2))
    except failures as error:
        sys.exit(complain(error, status=1))
    except KeyboardInterrupt:
        sys.exit(complain("interrupted; run the same command again to go on from the last epoch", status=130))


def complain(error: Exception | str, status: int) -> int:
    print(f"train.py: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    keep_imported_modules()
    main()

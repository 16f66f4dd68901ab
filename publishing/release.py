"""Which models of a run are published, on which branch, and with which card."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from architectures.networks import is_resnet
from evaluation import records
from evaluation.records import read_metrics
from machine.programs import one_line
from modeling_gloresnet import (
    BaselineConfig,
    GloResNetConfig,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
)
from preprocessing import GloResNetImageProcessor
from publishing.card import render_card
from publishing.evidence import Evidence, gather_evidence
from publishing.export import export_model
from run_folder.files import InputError, read_json, write_text
from run_folder.layout import ENSEMBLE, REFIT, ModelFolder, RunFolder
from screening.loading import ModelError, load_pytorch_model

PROVENANCE = {"cohort": str, "synthetic": bool, "fold": int | str, "train_scans": int}  # what a card states


@dataclass(frozen=True)
class Release:
    """One model folder to be uploaded to one branch of a repository.

    Attributes:
        folder: a complete model folder of the run.
        branch: the branch it goes to.
        title: a short description, for the commit message and the user.
        card: the text of its README.md.
    """

    folder: Path
    branch: str
    title: str
    card: str


def prepare_releases(
    run_folder: str | os.PathLike[str], hub_model_id: str, what: str, fold: int | None = None
) -> list[Release]:
    """The models to publish. Also updates the cards in the model folders, if all folds are done.

    Args:
        run_folder: `runs/NAME`.
        hub_model_id: ORG/NAME; the cards tell the reader to load this.
        what: `best` (the fold with the highest AUC), `all` (the best fold on `main`, and every fold on a branch
            `fold-K`), `ensemble` or `refit`. Ignored if `fold` is given.
        fold: publish this fold, whether the others are done or not.

    Raises:
        InputError: the model to publish does not exist or cannot be used, or the run is incomplete or damaged.
    """
    run = RunFolder(run_folder)
    recipe = read_recipe(run.path)
    folds = run.folds(recipe["num_folds"])
    evidence = None
    if fold is None or all(each.metrics.is_file() for each in folds):
        evidence = gather_evidence(run.path)
        write_cards(run.path, evidence)

    def release(trained: ModelFolder, title: str, branch: str = "main", metrics: dict | None = None) -> Release:
        revision = None if branch == "main" else branch
        _require_sound(trained)
        config = _read_config(trained)
        card = render_card(config, recipe, metrics, evidence, name=hub_model_id, revision=revision)
        return Release(trained.model, branch, title, card)

    def release_fold(number: int, branch: str = "main", remark: str = "") -> Release:
        metrics = _finished_metrics(run, number)
        return release(run.fold(number), f"fold {number} of {len(folds)}{remark}", branch, metrics)

    if fold is not None:
        return [release_fold(fold)]
    if what == REFIT:
        if not run.refit.config.is_file():
            raise InputError(f"{run} has no refit: run its train.py command again with --refit, then publish.")
        return [release(run.refit, "the network trained on all scans")]
    if what == ENSEMBLE:
        export_ensemble(run.path, recipe, evidence)
        return [release(run.ensemble, f"the ensemble of {len(folds)} folds")]
    best = release_fold(evidence.best, remark=", the best")
    if what == "best":
        return [best]
    return [best, *(release_fold(number, branch=each.path.name) for number, each in enumerate(folds))]


def write_cards(run_folder: str | os.PathLike[str], evidence: Evidence | None = None) -> None:
    """Rewrite the card of every model folder of a finished run, with the figures of all folds."""
    run = RunFolder(run_folder)
    evidence = evidence or gather_evidence(run.path)
    recipe = read_recipe(run.path)
    folds = run.folds(recipe["num_folds"])
    for trained in [*folds, run.refit, run.ensemble]:
        if trained.config.is_file():
            metrics = read_metrics(trained) if trained in folds else None
            write_text(trained.card, render_card(_read_config(trained), recipe, metrics, evidence))


def export_ensemble(run_folder: str | os.PathLike[str], recipe: dict[str, Any], evidence: Evidence) -> Path:
    """Write `ensemble/model`: the networks of all folds as one model. Each network keeps its own temperature.

    One that was written after its members is kept, so that a converted file of it stays valid.

    Returns:
        The model folder.

    Raises:
        InputError: a fold is not finished or its model cannot be used, or the networks are not ResNets.
    """
    run = RunFolder(run_folder)
    folds = run.folds(recipe["num_folds"])
    for number, fold in enumerate(folds):
        _finished_metrics(run, number)
        if not is_resnet(_read_config(fold)):
            architecture = recipe["architecture"]
            raise InputError(f"{run} trained {architecture}, and only ResNets make an ensemble: publish a fold.")
    for fold in folds:
        _require_sound(fold)
    if _is_current(run.ensemble, folds):
        return run.ensemble.model
    ensemble = GloResNetEnsembleForImageClassification.from_members(
        [GloResNetForImageClassification.from_pretrained(fold.model) for fold in folds]
    )
    ensemble.config.provenance |= {"fold": ENSEMBLE, "train_scans": evidence.counts["pooled"][0]}
    processor = GloResNetImageProcessor.from_pretrained(folds[0].model)
    export_model(ensemble, processor, run.ensemble.model, render_card(ensemble.config, recipe, None, evidence))
    return run.ensemble.model


def read_recipe(run_folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of a run.

    Raises:
        InputError: the folder does not exist or is not the folder of a run.
    """
    run = RunFolder(run_folder)
    if not run.recipe.is_file():
        what = "is not the folder of a run" if run.path.is_dir() else "does not exist"
        raise InputError(f"{run} {what}: give the folder of a run written by train.py, runs/NAME.")
    return records.read_recipe(run, required=records.CARD)


def _is_current(ensemble: ModelFolder, folds: list[ModelFolder]) -> bool:
    """Whether the ensemble was written after its members."""
    if not ensemble.config.is_file():
        return False
    written = ensemble.config.stat().st_mtime
    files = [fold.model / name for fold in folds for name in ("config.json", "model.safetensors")]
    return all(file.is_file() and file.stat().st_mtime <= written for file in files)


def _require_sound(trained: ModelFolder) -> None:
    """Raise InputError if screening would refuse the model."""
    try:
        load_pytorch_model(str(trained.model))
    except ModelError as error:
        raise InputError(str(error)) from error


def _read_config(trained: ModelFolder) -> GloResNetConfig | BaselineConfig:
    """The configuration of a model folder, as one of this project's own classes."""
    model_type = read_json(trained.config).get("model_type")
    for config_class in (GloResNetConfig, BaselineConfig):
        if config_class.model_type == model_type:
            try:
                config = config_class.from_pretrained(trained.model)
                for name, kind in PROVENANCE.items():
                    if not isinstance(config.provenance[name], kind):
                        raise TypeError(f"its provenance has no {name}")
                return config
            except (StrictDataclassError, ValueError, TypeError, LookupError, AttributeError, OSError) as error:
                raise InputError(f"{trained.config} is damaged ({one_line(error)}): train this fold again.") from error
    raise InputError(f"{trained.config} has the model_type {model_type!r}, which is not one of this project's.")


def _finished_metrics(run: RunFolder, fold: int) -> dict[str, Any]:
    """The figures of a fold. Raises InputError if it is not finished."""
    trained = run.fold(fold)
    if not trained.metrics.is_file() or not trained.config.is_file():
        raise InputError(f"{run} has no finished fold {fold}: run its train.py command again with --fold {fold}.")
    return read_metrics(trained)

"""Which models of a run are published, under which branch, and with which card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig

from architectures.networks import is_resnet
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

WHAT = ("best", "all", "ensemble", "refit")


@dataclass(frozen=True)
class Release:
    """One model folder on its way to one branch of a repository.

    Attributes:
        folder: a finished model folder of the run.
        branch: where it goes.
        title: what it is, for the commit and for the user.
        card: its README.md.
    """

    folder: Path
    branch: str
    title: str
    card: str


def prepare_releases(run: Path, hub_model_id: str, what: str, fold: int | None = None) -> list[Release]:
    """The models to publish, the cards in their folders brought up to date on the way.

    Args:
        run: `runs/NAME`.
        hub_model_id: ORG/NAME, which the cards tell the reader to load.
        what: `best`, the fold of the highest AUC; `all`, that one and every fold on a branch `fold-K`; `ensemble`;
            `refit`. Without meaning where a fold is given.
        fold: publish this one, whether or not the others are done.

    Raises:
        InputError: what is to be published is not there, or the run is partial or broken.
    """
    recipe = read_recipe(run)
    evidence = gather_evidence(run) if fold is None or _all_done(run, recipe) else None
    if evidence:
        write_cards(run, evidence)

    def release(part: str, title: str, branch: str = "main", metrics: dict | None = None) -> Release:
        folder = run / part / "model"
        revision = None if branch == "main" else branch
        config = _read_config(folder)
        card = render_card(config, recipe, metrics, evidence, name=hub_model_id, revision=revision)
        return Release(folder, branch, title, card)

    def release_fold(number: int, branch: str = "main", remark: str = "") -> Release:
        metrics = _fold_metrics(run, number)
        return release(f"fold-{number}", f"fold {number} of {recipe['num_folds']}{remark}", branch, metrics)

    if fold is not None:
        return [release_fold(fold)]
    if what == "refit":
        if not (run / "refit" / "model" / "config.json").is_file():
            raise InputError(f"{run} has no refit: run its train.py command again with --refit, then publish.")
        return [release("refit", "the network trained on all scans")]
    if what == "ensemble":
        export_ensemble(run, recipe, evidence)
        return [release("ensemble", f"the ensemble of {recipe['num_folds']} folds")]
    best = release_fold(evidence.best, remark=", the best")
    if what == "best":
        return [best]
    return [best, *(release_fold(number, f"fold-{number}") for number in range(recipe["num_folds"]))]


def write_cards(run: Path, evidence: Evidence | None = None) -> None:
    """Put the figures of all folds into the card of every model folder of a finished run."""
    evidence = evidence or gather_evidence(run)
    recipe = read_recipe(run)
    parts = [f"fold-{number}" for number in range(recipe["num_folds"])]
    for part in [*parts, "refit", "ensemble"]:
        folder = run / part / "model"
        if (folder / "config.json").is_file():
            metrics = read_json(run / part / "metrics.json") if part.startswith("fold-") else None
            card = render_card(_read_config(folder), recipe, metrics, evidence)
            write_text(folder / "README.md", card)


def export_ensemble(run: Path, recipe: dict[str, Any], evidence: Evidence) -> Path:
    """Write `ensemble/model`: the networks of all folds as one, each with its own temperature.

    Raises:
        InputError: a fold is missing, or the networks are none of the ResNets.
    """
    folders = [run / f"fold-{number}" / "model" for number in range(recipe["num_folds"])]
    for number in range(recipe["num_folds"]):
        _fold_metrics(run, number)
    if not is_resnet(_read_config(folders[0])):
        raise InputError(f"{run} trained {recipe['architecture']}, and only ResNets make an ensemble: publish a fold.")
    ensemble = GloResNetEnsembleForImageClassification.from_members(
        [GloResNetForImageClassification.from_pretrained(folder) for folder in folders]
    )
    ensemble.config.provenance |= {"fold": "ensemble", "train_scans": evidence.counts["pooled"][0]}
    processor = GloResNetImageProcessor.from_pretrained(folders[0])
    export_model(ensemble, processor, run / "ensemble" / "model", render_card(ensemble.config, recipe, None, evidence))
    return run / "ensemble" / "model"


def _read_config(folder: Path) -> GloResNetConfig | BaselineConfig:
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)  # this project's own classes


def read_recipe(run: Path) -> dict[str, Any]:
    """The settings of a run.

    Raises:
        InputError: there is no run in the folder.
    """
    path = run / "recipe.yaml"
    if not path.is_file():
        what = "holds no run of train.py" if run.is_dir() else "does not exist"
        raise InputError(f"{run} {what}: give the folder of a run, runs/NAME.")
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(recipe, dict) or "num_folds" not in recipe:
        raise InputError(f"{path} holds no settings of a run: the folder is broken.")
    return recipe


def _fold_metrics(run: Path, fold: int) -> dict[str, Any]:
    folder = run / f"fold-{fold}"
    if not (folder / "metrics.json").is_file() or not (folder / "model" / "config.json").is_file():
        raise InputError(f"{run} has no finished fold {fold}: run its train.py command again with --fold {fold}.")
    return read_json(folder / "metrics.json")


def _all_done(run: Path, recipe: dict[str, Any]) -> bool:
    return all((run / f"fold-{number}" / "metrics.json").is_file() for number in range(recipe["num_folds"]))

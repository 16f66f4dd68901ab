"""Where every file of a run is. No other module spells these paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import InputError

MOST_FOLDS = 100
REFIT, ENSEMBLE = "refit", "ensemble"


@dataclass(frozen=True)
class ModelFolder:
    """The files of one trained model of a run: `fold-K/`, `refit/` or `ensemble/`."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def model(self) -> Path:
        """The Hub-ready folder: weights, configuration, processor, code and model card."""
        return self.path / "model"

    @property
    def config(self) -> Path:
        """The model's configuration. It exists if and only if the model folder is complete."""
        return self.model / "config.json"

    @property
    def card(self) -> Path:
        return self.model / "README.md"

    @property
    def predictions(self) -> Path:
        """Probabilities of the held-out scans; in `fold-K/`, and where a federated model was trained without a site."""
        return self.path / "predictions.csv"

    @property
    def modality_subsets(self) -> Path:
        """Probabilities of the held-out scans for every subset of the modalities; only if there are several."""
        return self.path / "modality_subsets.csv"

    @property
    def metrics(self) -> Path:
        """Metrics of the held-out scans. Written last: it marks a fold as finished."""
        return self.path / "metrics.json"

    @property
    def history(self) -> Path:
        """One row per epoch."""
        return self.path / "history.csv"

    def converted(self, suffix: str) -> Path:
        """The model converted to one file, `.onnx` or `.xml` with its `.bin` (`train.py --export`)."""
        return self.path / f"model{suffix}"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def rounds(self) -> Path:
        """The newest joint weights of a federation; at the coordinator only, as the next three."""
        return self.path / "rounds"

    @property
    def round_history(self) -> Path:
        """One row per round and site: training scans, loss, seconds."""
        return self.path / "rounds.csv"

    @property
    def site_metrics(self) -> Path:
        """Metrics of each site. Written last: it marks a federated fold as finished."""
        return self.path / "sites.json"

    @property
    def scores(self) -> Path:
        """Label and probability of each held-out scan, without ids, of the sites that share them."""
        return self.path / "scores.csv"

    @property
    def local(self) -> Path:
        """The finished networks of the local stream (`--local_stream on`)."""
        return self.path / "local"

    @property
    def lock(self) -> Path:
        """Held by the process that trains here."""
        return self.path / ".lock"

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.path.parent)


@dataclass(frozen=True)
class RunFolder:
    """The folder that `train.py` writes, `runs/NAME`."""

    path: Path

    def __init__(self, path: str | os.PathLike[str]):
        object.__setattr__(self, "path", Path(path))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The run's name, also for a path such as `.`."""
        return self.path.resolve().name

    @property
    def cohort(self) -> Path:
        """Every scan found, and why it was left out if it was."""
        return self.path / "cohort.csv"

    @property
    def splits(self) -> Path:
        """The fold of each infant."""
        return self.path / "splits.json"

    @property
    def recipe(self) -> Path:
        """Every setting of the run."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """The cohort's source, versions and hardware. Its presence marks the folder as a run."""
        return self.path / "environment.json"

    @property
    def cv_metrics(self) -> Path:
        """Metrics over all folds."""
        return self.path / "cv_metrics.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """The report's figures, each with its data."""
        return self.path / "figures"

    @property
    def intensity_shares(self) -> Path:
        """Nine numbers of each scan's interior, a control of the report; only in a run with a local stream."""
        return self.path / "intensity_shares.csv"

    @property
    def places(self) -> Path:
        """The highest place of the local stream in each scan with lesions (`explanation.places`)."""
        return self.path / "places.csv"

    @property
    def localisation(self) -> Path:
        """Heat maps compared with the known injuries of a phantom cohort (`explanation.localisation`)."""
        return self.path / "localisation.csv"

    @property
    def train_predictions(self) -> Path:
        """Probabilities of each fold's training scans (`reproduce.py`)."""
        return self.path / "train_predictions.csv"

    @property
    def federation(self) -> Path:
        """Which federation the run belongs to: at the coordinator its sites, at a site the run's identity."""
        return self.path / "federation.json"

    def without(self, site: str) -> RunFolder:
        """The run folder next to this one, for a federation that leaves one site out."""
        return RunFolder(self.path.resolve().with_name(f"{self.name}-without-{site}"))

    @property
    def cell(self) -> Path:
        """The settings that `reproduce.py` trained this run for. Written last: it marks the run as finished."""
        return self.path / "cell.json"

    @property
    def lock(self) -> Path:
        """Held while the files of the run itself are created."""
        return self.path / ".lock"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the run itself, without those of its models."""
        own = (self.splits, self.recipe, self.environment, self.cohort, self.cv_metrics, self.report)
        return (*own, self.intensity_shares)

    def fold(self, number: int) -> ModelFolder:
        return ModelFolder(self.path / f"fold-{number}")

    def folds(self, count: Any) -> list[ModelFolder]:
        """The folders of folds 0 to `count - 1`, whether they exist or not.

        Raises:
            InputError: `count`, which a file of the run states, is not a number of folds.
        """
        if type(count) is not int or not 2 <= count <= MOST_FOLDS:
            raise InputError(
                f"{self} is damaged: its number of folds (num_folds) is {str(count)[:50]}, not 2 to {MOST_FOLDS}. "
                "Restore the run folder, or start the run again in another --output_dir."
            )
        return [self.fold(number) for number in range(count)]

    def existing_folds(self) -> list[ModelFolder]:
        """The folders of the folds that exist, sorted by name."""
        return [ModelFolder(path) for path in sorted(self.path.glob("fold-[0-9]*"))]

    @property
    def refit(self) -> ModelFolder:
        """The model trained on all scans (`train.py --refit`)."""
        return ModelFolder(self.path / REFIT)

    @property
    def ensemble(self) -> ModelFolder:
        """All folds as one model (`publish.py --what ensemble`)."""
        return ModelFolder(self.path / ENSEMBLE)

    def trained(self, what: int | str) -> ModelFolder:
        """The folder of a fold by its number, or of `refit` or `ensemble`."""
        return self.fold(what) if isinstance(what, int) else ModelFolder(self.path / what)

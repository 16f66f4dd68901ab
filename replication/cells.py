"""Cells: the training runs behind the tables and figures. Each is trained once, however many of them use it."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import pandas as pd
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from architectures.networks import DEPTHS, new_config
from cohort.painted import is_painted
from cohort.phantom import phantom_description
from machine.interruption import STARTED_BY
from modeling_gloresnet import medicalnet_repository
from replication.patches import patch_cohort, whole_scans
from run_folder.files import ADVICE, InputError, WriteError, write_text
from run_folder.layout import RunFolder
from run_folder.predictions import read_predictions
from training.recipe import Recipe, RecipeError, load_recipe

TRAIN = Path(__file__).parent.parent / "train.py"


@dataclass(frozen=True)
class Cell:
    """One cross-validation run, given as its differences from the recipe.

    Attributes:
        architecture: see `architectures.networks`.
        medicalnet: start from MedicalNet's weights instead of random weights.
        mixup: use the recipe's mixup; False turns it off.
        patches: train on patches at native voxel spacing instead of whole scans.
    """

    architecture: str = "resnet10"
    medicalnet: bool = False
    mixup: bool = True
    patches: bool = False


@dataclass
class Bench:
    """Trains cells on one cohort with one recipe, and records the outcome of each.

    Attributes:
        recipe_name, overrides: the recipe of all cells, and the settings that override it.
        data_dir, labels: the cohort.
        output: folder for the results; runs are in `output/runs`.
        weights: folder with MedicalNet's `resnet_<depth>_23dataset.pth`; None downloads them from the Hub.
        patches_per_axis: patches per axis of a scan, for the setting without the global resize.
        launcher: command that starts train.py, such as `accelerate launch --multi_gpu`; empty for Python itself.
        dry: train nothing and use only finished cells.
        trained: run names of the cells trained by this process.
        problems: for each cell without a run, the reason.
    """

    recipe_name: str
    overrides: dict
    data_dir: Path
    labels: Path | None
    output: Path
    weights: Path | None = None
    patches_per_axis: int = 2
    launcher: str = ""
    dry: bool = False
    trained: list[str] = field(default_factory=list)
    problems: dict[Cell, str] = field(default_factory=dict)

    @property
    def phantom(self) -> str | None:
        """Preset of the phantom cohort, or None for real scans."""
        description = phantom_description(self.data_dir)
        return str(description.get("preset")) if description else None

    @property
    def cohort(self) -> str:
        """The cohort as titles name it, such as `on the phantom cohort X`."""
        name = self.data_dir.resolve().name
        if is_painted(self.data_dir):
            return f"on the painted cohort {name}, never clinical evidence"
        return f"on the phantom cohort {name}" if self.phantom else f"on {name}"

    def settings(self, cell: Cell) -> dict:
        """The recipe settings that the cell determines."""
        settings: dict[str, object] = {"architecture": cell.architecture, "init": "random"}
        if cell.medicalnet:
            file = self.weights and self.weights / f"resnet_{DEPTHS[cell.architecture]}_23dataset.pth"
            settings["init"] = str(file) if file else "medicalnet"
        if not cell.mixup:
            settings["mixup_prob"] = 0.0
        if cell.patches:
            # fewer epochs, so that training sees as many patches as it sees volumes in the other cells
            epochs = load_recipe(self.recipe_name, **self.overrides, architecture="resnet10").num_train_epochs
            settings["num_train_epochs"] = max(2, round(epochs / self.patches_per_axis**3))
            settings["brain_mask"] = "none"  # already applied before the patches are cut
            settings["framing"] = "field_of_view"  # a patch is no head
            settings["bias_correction"] = "none"  # already applied before the patches are cut
            settings["local_stream"] = "off"  # a patch is no head
        return settings

    def recipe(self, cell: Cell) -> Recipe:
        """All settings of the cell's run.

        Raises:
            RecipeError: the settings cannot be combined.
        """
        recipe = load_recipe(self.recipe_name, **(self.overrides | self.settings(cell)))
        if recipe.split == "site":
            raise RecipeError(
                "split site leaves out sites, and the paper's tables have five folds: run train.py with it."
            )
        return recipe

    def folder(self, cell: Cell) -> RunFolder:
        """The cell's run folder. Its name is derived from the settings, so equal settings share one run."""
        settings = {k: v for k, v in asdict(self.recipe(cell)).items() if k != "num_threads"}
        if settings["framing"] == "field_of_view":
            del settings["framing"]  # runs from before this setting keep their names
        if settings["bias_correction"] == "none":
            del settings["bias_correction"]
        if settings["local_stream"] == "off":
            del settings["local_stream"]
        settings["source"] = [str(self.data_dir.resolve()), self.labels and str(self.labels.resolve())]
        if cell.patches:
            settings["patches_per_axis"] = self.patches_per_axis
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        words = [cell.architecture, "medicalnet" if cell.medicalnet else "random"]
        words += [word for word, on in (("nomixup", settings["mixup_prob"] == 0), ("patches", cell.patches)) if on]
        return RunFolder(self.output / "runs" / "-".join([*words, digest]))

    def run(self, cell: Cell) -> RunFolder | None:
        """Return the cell's finished run, and train it first if needed. None if that fails; see `problems`."""
        try:
            folder = self.folder(cell)
        except ValueError as error:  # settings that cannot be combined
            self.problems[cell] = str(error)
            return None
        if folder.cell.is_file():
            return folder
        if cell in self.problems:
            return None
        problem = self.weights_problem(cell)
        if problem is None and self.dry:
            problem = "not trained yet"
        if problem is None:
            print(f"reproduce.py: training {folder.name}", flush=True)
            problem = self._train(cell, folder)
        if problem is not None:
            self.problems[cell] = problem
            print(f"reproduce.py: {folder.name}: {problem}", flush=True)
            return None
        return folder

    def weights_problem(self, cell: Cell) -> str | None:
        """Why MedicalNet's weights for this cell are unavailable; None if they are available or not needed."""
        return medicalnet_problem(cell.architecture, self.weights) if cell.medicalnet else None

    def _train(self, cell: Cell, folder: RunFolder) -> str | None:
        """Run train.py. Returns its error message, or None."""
        data_dir, labels = self.data_dir, self.labels
        if cell.patches:
            try:
                data_dir, labels = patch_cohort(
                    self.data_dir,
                    self.labels,
                    self.recipe(Cell(cell.architecture)),
                    self.output / "patches",
                    self.patches_per_axis,
                )
            except WriteError:  # an empty cell would hide that the disk is full
                raise
            except (InputError, ValueError, OSError) as error:
                return f"no patches could be cut: {error}"
        call = [*(shlex.split(self.launcher) or [sys.executable]), str(TRAIN), "--data_dir", str(data_dir)]
        call += ["--labels", str(labels)] if labels else []
        call += ["--recipe", self.recipe_name, "--output_dir", str(folder)]
        for name, value in (self.overrides | self.settings(cell)).items():
            if isinstance(value, bool):
                call.append(f"--{name}" if value else f"--no-{name}")
            else:
                call += [f"--{name}", str(value)]
        environment = os.environ | {"PYTHONWARNINGS": "ignore", STARTED_BY: str(os.getpid())}
        ended = subprocess.run(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
        if ended.returncode == 130:
            raise KeyboardInterrupt
        if ended.returncode:
            lines = [line for line in ended.stderr.strip().splitlines() if line.strip()] or ["no error message"]
            reason = lines[-1].removeprefix("train.py: ")
            if ADVICE in reason:
                raise WriteError(reason)
            return f"train.py ended with status {ended.returncode}: {reason}"
        for fold in folder.existing_folds():
            if fold.checkpoints.is_dir():  # three times the model's size, and no longer needed
                shutil.rmtree(fold.checkpoints)
        self.trained.append(folder.name)
        write_text(folder.cell, json.dumps(asdict(cell)) + "\n")
        return None

    def predictions(self, cell: Cell) -> pd.DataFrame | None:
        """Out-of-fold predictions, one row per scan (the mean over its patches, if any). None without a run."""
        folder = self.run(cell)
        if folder is None:
            return None
        table = read_predictions(folder.path)
        return whole_scans(table) if cell.patches else table


@cache
def medicalnet_problem(architecture: str, folder: Path | None) -> str | None:
    """Why MedicalNet's weights for this depth are unavailable, found within seconds; None if they are available."""
    name = f"resnet_{DEPTHS[architecture]}_23dataset.pth"
    if folder is not None:
        return None if (folder / name).is_file() else f"needs weights: {name} is not in {folder}"
    repository = medicalnet_repository(new_config(architecture, medicalnet=True))
    try:
        hf_hub_download(repository, name, local_files_only=True)
        return None
    except LocalEntryNotFoundError:
        pass
    problem = f"needs weights: {name} of {repository} is not in the local cache"
    if constants.HF_HUB_OFFLINE:
        return f"{problem}, and HF_HUB_OFFLINE is set"
    if not hub_answers():
        return f"{problem}, and the Hub cannot be reached"
    return None


@cache
def hub_answers() -> bool:
    """Whether the Hub can be reached. Asked only once, because its client retries for half a minute per file."""
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5)
    except urllib.error.HTTPError:
        return True  # an error status is an answer too
    except (OSError, ValueError):
        return False
    return True

"""A site of a federation: it answers the coordinator's questions with the code that `train.py` trains with.

The site keeps an ordinary run folder. Its scans, ids, probabilities and log stay there.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cohort.scans import CohortError
from evaluation.metrics import screening_metrics
from machine.memory import keep_freed_memory
from modeling_gloresnet import MedicalNetImportError
from run_folder.files import InputError, read_json, write_json, write_text
from run_folder.layout import RunFolder
from run_folder.tables import csv_text
from training.build import Network, new_loader, new_model
from training.data import FoldScans, TrainingData, prepare_data, split_scans
from training.fold import Fold, open_fold
from training.launch import start_accelerator
from training.loop import NonFiniteLossError, predict_fold
from training.loss import class_weights
from training.outcome import check_weights, prediction_table
from training.recipe import Recipe, RecipeError
from training.run import RunError, open_run

from .appearance import site_appearance
from .checks import read_question
from .greeting import greeting
from .joint import write_joint_model
from .messages import FINISH, HELLO, TRAIN, FederationError, Message, Plan
from .rounds import numpy_state, torch_state

# error -> what the coordinator hears. The error itself, which may name a path or an infant, is said at the site only
HEARD: dict[type[Exception], str] = {
    CohortError: "its scans or labels cannot be used",
    RunError: "its run folder belongs to another run, or another process uses it",
    InputError: "a file of its run folder is damaged",
    RecipeError: "its machine cannot follow the recipe",
    MedicalNetImportError: "the initial weights do not fit",
    NonFiniteLossError: "training diverged there",
    OSError: "a file cannot be read or written there",
}


class Site:
    """One site. Use it in a `with` block, which releases its run folder.

    Args:
        name: as in `sites.yaml`.
        seed: of its scan order, augmentation and folds; another one at each site.
        data_dir: its BIDS folder.
        labels: its table of labels, if the BIDS folder has none.
        run: its run folder. A federation that leaves a site out has one next to it.
        share_scores: allow label and probability of held-out scans to leave, if the coordinator asks.
        patience: seconds to wait for another process that trains the same fold, such as a job that is just ending.
        say: prints what stays here, such as the reason of a refusal.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        data_dir: Path,
        labels: Path | None,
        run: RunFolder,
        *,
        share_scores: bool = False,
        patience: float = 0.0,
        say: Callable[[str], object] = print,
    ):
        self.name, self.seed, self.data_dir, self.labels, self.run = name, seed, data_dir, labels, run
        self.share_scores, self.patience, self.say = share_scores, patience, say
        self._data: dict[RunFolder, tuple[Recipe, TrainingData]] = {}
        self._open = ExitStack()
        self._fold: tuple[object, Fold] | None = None  # with what it was opened for
        self._network: Network | None = None

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def answer(self, question: str, message: Message) -> Message:
        """Answer a question of the coordinator.

        Raises:
            FederationError: the site cannot. The message says why in words that may leave the site.
        """
        try:
            return self._answer(question, message)
        except tuple(HEARD) as error:
            self.say(f"{self.name}: {error}")
            heard = next(words for kind, words in HEARD.items() if isinstance(error, kind))
            raise FederationError(f"{self.name} cannot take part: {heard}. Its own screen says more.") from error

    def _answer(self, question: str, message: Message) -> Message:
        facts = message.facts
        plan, which = read_question(question, facts)
        recipe, data = self._prepared(plan)
        torch.set_num_threads(recipe.num_threads or 1)
        evaluates_only = self.name == plan.left_out
        if question == HELLO:
            scans = FoldScans([], list(data.rows), []) if evaluates_only else split_scans(which, data, recipe)
            return Message(greeting(plan, data, scans))
        if question == TRAIN:
            return self._train(plan, self._fold_of(plan, which, facts["train"]), facts["round"], message)
        if question == FINISH and message.weights is not None:
            if evaluates_only:
                return self._evaluate(plan, which, message)
            return self._finish(plan, self._fold_of(plan, which, facts["train"]), message)
        if self._network is None:
            raise FederationError(f"{self.name} was asked to keep a model before it had finished one.")
        folder = self._run_of(plan).trained(which).model
        write_joint_model(self._network, Recipe(**plan.recipe), folder, facts["description"])
        return Message({})

    def _run_of(self, plan: Plan) -> RunFolder:
        return self.run.without(plan.left_out) if plan.left_out else self.run

    def _prepared(self, plan: Plan) -> tuple[Recipe, TrainingData]:
        """The scans of the plan's run folder, which is started if it does not exist."""
        run = self._run_of(plan)
        if run not in self._data:
            recipe = Recipe(**{**plan.recipe, "seed": self.seed})
            if not recipe.gradient_checkpointing:
                keep_freed_memory()
            accelerator = start_accelerator(recipe, run.path, "none")
            labels = str(self.labels.resolve()) if self.labels else None
            source = {"data_dir": str(self.data_dir.resolve()), "labels": labels}
            recipe = open_run(run, recipe, source, 1)
            self._claim(run, plan)
            data = prepare_data(self.data_dir, labels, recipe, run, accelerator, complete_folds=False)
            self._data[run] = recipe, data
        return self._data[run]

    def _claim(self, run: RunFolder, plan: Plan) -> None:
        """Check that the run folder is of this federated run, or note that it is from now on."""
        ours = {"identity": plan.identity, "site": self.name}
        if not run.federation.is_file() and not run.existing_folds() and not run.refit.path.exists():
            write_json(run.federation, ours)
        found = read_json(run.federation) if run.federation.is_file() else {}
        if found != ours:
            raise FederationError(
                f"The run folder of {self.name} is of another run: give it another --output_dir there, or continue the "
                "federated run that it belongs to."
            )

    def _fold_of(self, plan: Plan, which: int | str, train: list[int]) -> Fold:
        """The open fold. `train` is the number of training scans per class in the whole federation."""
        recipe, data = self._prepared(plan)
        key = (plan.left_out, which)
        if self._fold is None or self._fold[0] != key:
            self._open.close()
            self._fold = None
            weights = class_weights([0] * train[0] + [1] * train[1])
            deadline = time.monotonic() + self.patience
            while self._fold is None:
                opened = open_fold(which, data, recipe, self._run_of(plan), loss_weights=weights, pretrained=False)
                try:
                    self._fold = key, self._open.enter_context(opened)
                except RunError:  # another process trains it
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(1)
        return self._fold[1]

    def _train(self, plan: Plan, fold: Fold, number: int, message: Message) -> Message:
        """Train the epochs of a round. Those in the checkpoint are not trained again."""
        last = number * plan.local_epochs
        epochs = range(last - plan.local_epochs + 1, last + 1)
        if not epochs[0] - 1 <= len(fold.history) <= last or message.weights is None:
            raise FederationError(
                f"{self.name} has trained {len(fold.history)} epochs and was asked for round {number}, epochs "
                f"{epochs[0]} to {last}: its run folder or the coordinator's is older than the other. Restore it, "
                "start a new federated run, or leave the site out."
            )
        rows = []
        for epoch in epochs:
            weights = torch_state(message.weights) if epoch == epochs[0] else None
            rows.append(fold.epoch(epoch, weights))
        facts = {
            "scans": len(fold.scans.train),
            "train_loss": sum(row["train_loss"] for row in rows) / len(rows),
            "seconds": round(sum(row["seconds"] for row in rows), 3),
        }
        return Message(facts, numpy_state(fold.state()))

    def _finish(self, plan: Plan, fold: Fold, message: Message) -> Message:
        """Predict the held-out scans with the joint weights, and write the fold's predictions and metrics."""
        fold.network.load_state_dict(torch_state(message.weights or {}))
        fold.selected = None
        result = fold.finish()
        assert result is not None  # there is one process
        self._network = result.network
        if result.metrics is not None:
            write_json(fold.folder.metrics, result.metrics)
        return self._result(plan, result.metrics, fold, fold.folder.predictions)

    def _evaluate(self, plan: Plan, which: int | str, message: Message) -> Message:
        """Predict every scan of this site, which has not trained, with the joint weights."""
        recipe, data = self._prepared(plan)
        folder = self._run_of(plan).trained(which)
        accelerator = start_accelerator(recipe, folder.path, "none")
        network = new_model(recipe, pretrained=False)
        network.load_state_dict(torch_state(message.weights or {}))
        check_weights(network, recipe)
        network.to(accelerator.device).eval()
        scans = list(data.rows)
        loader = accelerator.prepare(new_loader(data.dataset(scans), recipe, accelerator))
        views = predict_fold(network, loader, accelerator)
        table = prediction_table(data.rows, scans, views, recipe.num_folds if which == "refit" else int(which))
        write_text(folder.predictions, csv_text(table))
        metrics = screening_metrics(table["label"], table["p_injury"], network.config.threshold)
        self._network = network
        return self._result(plan, metrics, None, folder.predictions)

    def _result(self, plan: Plan, metrics: dict | None, fold: Fold | None, predictions: Path) -> Message:
        """What the coordinator hears of a finished fold."""
        facts: dict[str, Any] = {"metrics": None, "appearance": None, "scores": None}
        if metrics is not None:
            facts["metrics"] = {name: metrics[name] for name in ("n", "confusion_matrix", "auc")}
            if plan.share_scores and self.share_scores:
                facts["scores"] = anonymous_scores(predictions)
        if fold is not None and self._network is not None:
            train, held_out = len(fold.scans.train), len(fold.scans.held_out)
            facts["appearance"] = site_appearance(self._network.config.training_appearance, train, held_out)
        return Message(facts)


def anonymous_scores(predictions: Path) -> list[dict[str, Any]]:
    """Label and probability of each scan, sorted by both, so that the order says nothing about the infants.

    Siblings, and the sessions of one infant, share a number, which counts the families in that order: intervals need to
    know which scans belong together.
    """
    table = pd.read_csv(predictions).sort_values(["p_injury", "label"], kind="stable")
    families = pd.factorize(table["family"])[0]
    columns = zip(table["label"], table["p_injury"], families, strict=True)
    return [{"label": int(y), "p_injury": float(p), "family": int(f)} for y, p, f in columns]

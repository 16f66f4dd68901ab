"""One fold of a run: `open_fold` builds it or resumes it, `Fold.epoch` trains an epoch, `Fold.finish` predicts."""

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from tqdm import tqdm

from cohort.scans import Scan
from evaluation.metrics import screening_metrics
from modeling_gloresnet import GloResNetForImageClassification
from preprocessing.appearance_gloresnet import LONGEST_EDGE
from preprocessing.preparation_gloresnet import SETTINGS
from run_folder.files import write_text
from run_folder.layout import REFIT, ModelFolder, RunFolder
from run_folder.tables import csv_text
from screening.out_of_distribution import training_appearance
from screening.pytorch import allow_tf32

from .build import Network, new_loader, new_model, new_processor
from .checkpoint import load_checkpoint, save_checkpoint
from .data import TrainingData, labels_of, split_scans
from .launch import compiling, start_accelerator
from .local.answers import Answer, answers_for, thresholds_with
from .local.stream import attach, train_local_stream
from .loop import check_finite, mean_log_loss, predict_fold, train_one_epoch
from .loss import class_weights
from .modalities import subsets
from .outcome import check_weights, epoch_metrics, prediction_table, subset_table
from .recipe import Recipe
from .run import claim_fold
from .selection import at_temperature, fit_on_inner, select_epoch


class FoldResult(NamedTuple):
    """A finished fold, ready to be exported."""

    network: Network
    """In evaluation mode; its configuration holds the temperature, provenance and appearance of the training scans"""
    metrics: dict[str, Any] | None
    """The content of `metrics.json`; None for the refit, which holds out no scan"""


class Fold:
    """One fold while it trains: network, optimizer, schedule, loaders, class weights and history.

    Make it with `open_fold`. Every epoch ends in a checkpoint, and a fold starts from the newest one that is whole, so
    training that was stopped at any moment continues to the same weights.

    Args:
        which: the fold's number, or `refit`.
        data: the scans of the run.
        recipe: the settings of the run.
        folder: for checkpoints, history and predictions; no other process may write to it.
        accelerator: started for this fold.
        loss_weights: (2,) weight of each class in the loss; None computes them from the training scans.
        pretrained: False skips reading MedicalNet's weights, where the first epoch is given weights.
    """

    def __init__(
        self,
        which: int | str,
        data: TrainingData,
        recipe: Recipe,
        folder: ModelFolder,
        accelerator: Accelerator,
        loss_weights: Tensor | None = None,
        pretrained: bool = True,
    ):
        self.which, self.data, self.recipe, self.folder, self.accelerator = which, data, recipe, folder, accelerator
        self.number = recipe.num_folds if which == REFIT else int(which)  # the refit draws as one more fold would
        self.scans = split_scans(which, data, recipe)

        set_seed(recipe.seed + 1000 * self.number)
        model = new_model(recipe, pretrained)
        # half the time on a CPU, up to a quarter less on a GPU; sums in another order. Not tried on several GPUs
        if accelerator.device.type == "cpu" or accelerator.num_processes == 1:
            model = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-arg]  # transformers wraps `to`
        if recipe.gradient_checkpointing:
            model.activation_checkpointing_enable()
        if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=recipe.num_train_epochs, eta_min=recipe.min_learning_rate
        )
        parts = (  # without the schedule: a prepared one would advance once per process
            model,
            optimizer,
            new_loader(data.dataset(self.scans.train), recipe, accelerator, shuffle=True),
            new_loader(data.dataset(self.scans.held_out), recipe, accelerator),
            new_loader(data.dataset(self.scans.inner), recipe, accelerator),
        )
        with compiling():
            parts = accelerator.prepare(*parts)
        self.model, self.optimizer, self.train_loader, self.held_out_loader, self.inner_loader = parts
        if loss_weights is None:
            loss_weights = class_weights(labels_of(self.scans.train))
        self.loss_weights = loss_weights.to(accelerator.device)

        # selected: the best weights so far, unless the last epoch counts
        self.history, self.selected = load_checkpoint(
            accelerator, folder.checkpoints, which, self.model, self.optimizer
        )
        with warnings.catch_warnings():  # torch expects a step of the optimizer before one of the schedule
            warnings.simplefilter("ignore")
            for _ in self.history:
                self.schedule.step()
        accelerator.init_trackers("gloresnet", config={k: str(v) for k, v in asdict(recipe).items()})
        self.progress = tqdm(
            desc=which if which == REFIT else f"fold {which}",
            initial=len(self.history) * len(self.train_loader),
            total=recipe.num_train_epochs * len(self.train_loader),
            disable=not accelerator.is_main_process,
            unit="step",
        )

    @property
    def network(self) -> Network:
        """The network in training, without the wrappers for several processes and of `torch.compile`."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def state(self) -> dict[str, Tensor]:
        """The current weights and buffers by name. Copy them to keep them: training changes them in place."""
        return self.network.state_dict()

    def epoch(self, number: int, weights: Mapping[str, Tensor] | None = None) -> dict:
        """Train one epoch, predict the scans held out, and save a checkpoint.

        An epoch that the checkpoint already contains is not trained again.

        Args:
            number: counts from 1.
            weights: load these into the network before training, such as those of a federated server.

        Returns:
            The epoch's row of `history.csv`.

        Raises:
            ValueError: the epoch before this one has not been trained.
            NonFiniteLossError: training has diverged; the checkpoint of the epoch before is kept.
        """
        if not 1 <= number <= len(self.history) + 1:
            raise ValueError(f"{len(self.history)} epochs are trained, so the next is not epoch {number}.")
        if number <= len(self.history):
            return self.history[number - 1]
        if weights is not None:
            self.network.load_state_dict(weights)

        started = time.perf_counter()
        row = {"epoch": number, "learning_rate": self.schedule.get_last_lr()[0]}
        with compiling():
            row["train_loss"] = train_one_epoch(
                self.model, self.train_loader, self.optimizer, self.loss_weights, self.recipe, self.accelerator,
                epoch=number, fold=self.number, progress=self.progress,
            )  # fmt: skip
        self.schedule.step()

        network, rule = self.network, self.recipe.selection
        views = self._predict(network, self.held_out_loader) | self._predict(network, self.inner_loader)
        check_finite(views, number, self.recipe)
        row |= epoch_metrics(*self.data.labels_and_means(self.scans.held_out, views))
        if self.scans.inner:
            row["inner_loss"] = mean_log_loss(*self.data.labels_and_means(self.scans.inner, views))
        row["seconds"] = round(time.perf_counter() - started, 3)
        self.history.append(row)
        if rule != "last" and select_epoch(self.history, rule) == number:
            self.selected = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        accelerator, folder = self.accelerator, self.folder.checkpoints
        save_checkpoint(accelerator, folder, self.which, self.model, self.optimizer, self.history, self.selected)
        self.accelerator.log({k: v for k, v in row.items() if v is not None and k != "epoch"}, step=number)
        return row

    def finish(self) -> FoldResult | None:
        """Predict the held-out scans with the selected weights; write `history.csv` and `predictions.csv`.

        Returns:
            The network and its metrics. On processes other than the main one, None.

        Raises:
            NonFiniteLossError: a weight is not a finite number.
        """
        self.progress.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()

        # a new model in float32, so that these predictions are the ones that the exported folder will make
        allow_tf32(False)
        network = new_model(self.recipe, pretrained=False)
        network.load_state_dict(self.selected or self.state())
        check_weights(network, self.recipe)
        network.to(self.accelerator.device).eval()
        metrics: dict[str, Any] = {"fold": self.which, "selection": self.recipe.selection, "inner": None}
        inner_views = np.empty((1, 0))
        if self.scans.inner:
            views = self._predict(network, self.inner_loader)
            inner_views = np.stack([views[self.data.rows[scan]] for scan in self.scans.inner], axis=1)
            metrics["inner"] = fit_on_inner(labels_of(self.scans.inner), inner_views)
            network.config.temperature = metrics["inner"]["temperature"]
        views = self._predict(network, self.held_out_loader)
        shown = {}
        if len(self.recipe.channels) > 1:
            *smaller, whole = subsets(self.recipe.channels)
            for subset in smaller:
                kept = [modality in subset for modality in self.recipe.channels]
                shown[subset] = predict_fold(network, self.held_out_loader, self.accelerator, kept)
            shown[whole] = views
        if not self.accelerator.is_main_process:
            return None

        answers: dict[Scan, Answer] | None = None
        if self.recipe.local_stream == "on":
            answers = self._add_local_stream(network, metrics["inner"], inner_views)
        metrics["selected_epoch"] = select_epoch(self.history, self.recipe.selection)
        history = pd.DataFrame(self.history)
        history["selected"] = (history["epoch"] == metrics["selected_epoch"]).astype(int)
        write_text(self.folder.history, history.to_csv(index=False))
        if self.scans.held_out:
            predictions = prediction_table(self.data.rows, self.scans.held_out, views, self.number, answers)
            write_text(self.folder.predictions, csv_text(predictions))
            if shown:
                table = subset_table(self.data.rows, self.scans.held_out, shown, self.number)
                write_text(self.folder.modality_subsets, csv_text(table))
            metrics |= screening_metrics(predictions["label"], predictions["p_injury"], network.config.threshold)
        metrics["train_scans"] = len(self.scans.train)
        self._describe(network)
        return FoldResult(network, metrics if self.scans.held_out else None)

    def _add_local_stream(self, network: Network, inner: dict | None, inner_views: np.ndarray) -> dict[Scan, Answer]:
        """Train the local stream, put it into the network, and return its answers for the held-out scans.

        It is trained by the main process alone, while the others wait. The thresholds of `inner` become those of the
        fused probability.
        """
        assert self.data.bank is not None and isinstance(network, GloResNetForImageClassification)  # see the recipe
        scans, device = [*self.scans.train, *self.scans.inner], self.accelerator.device
        seed = [self.recipe.seed, self.number]
        bf16 = self.recipe.mixed_precision == "bf16"
        stream = train_local_stream(scans, self.data.bank, seed, device, self.folder.local, bf16=bf16)
        attach(network, stream)
        if inner:
            own = at_temperature(inner_views, inner["temperature"])
            answers = stream.answers[len(self.scans.train) :]
            inner |= thresholds_with(labels_of(self.scans.inner), own, answers)
        processor = new_processor(self.recipe)
        return answers_for(
            self.scans.held_out, stream.networks, stream.voices, processor, device, self.recipe.num_threads or 1
        )

    def _predict(self, network: Network, loader: torch.utils.data.DataLoader) -> dict[int, np.ndarray]:
        return predict_fold(network, loader, self.accelerator)

    def _describe(self, network: Network) -> None:
        """Record in the network's configuration what it was trained on. No participant is named."""
        processor = new_processor(self.recipe)
        network.config.provenance = {
            "cohort": self.data.name,
            "synthetic": self.data.synthetic,
            **({"painted": True} if self.data.painted else {}),
            "run": self.folder.run.name,
            "fold": self.which,
            "train_scans": len(self.scans.train),
            "architecture": self.recipe.architecture,
            # so that screening notices a processor with other settings
            "preprocessing": {name: getattr(processor, name) for name in SETTINGS},
        }
        volumes = self.data.volumes.with_format("numpy", columns=["pixel_values"])
        network.config.training_appearance = training_appearance(
            volumes[self.data.rows[scan]]["pixel_values"][0] for scan in self.scans.train
        )
        if edges := self.data.longest_edges:
            seen = [round(edges[scan], 3) for scan in self.scans.train]
            network.config.training_appearance[LONGEST_EDGE] = [min(seen), max(seen)]


@contextmanager
def open_fold(
    which: int | str,
    data: TrainingData,
    recipe: Recipe,
    run: RunFolder,
    *,
    report_to: str = "none",
    loss_weights: Tensor | None = None,
    seed: int | None = None,
    pretrained: bool = True,
) -> Iterator[Fold]:
    """A fold to train, new or from its newest checkpoint. Its folder is locked until the `with` block ends.

    Args:
        which: the fold's number, or `refit` to train on all scans.
        data: the scans of the run.
        recipe: the settings of the run.
        run: the folder of the run.
        report_to: an experiment tracker that Accelerate knows, or `none`.
        loss_weights: (2,) weight of each class in the loss; None computes them from the training scans.
        seed: of the initial weights, the order of the scans, the augmentation and the inner split; None takes the
            recipe's.
        pretrained: False skips reading MedicalNet's weights, where the first epoch is given weights.

    Raises:
        RunError: another process is training this fold.
        InputError: the fold has checkpoints, and none of them can be used.
    """
    recipe = recipe if seed is None else replace(recipe, seed=seed)
    folder = run.trained(which)
    accelerator = start_accelerator(recipe, folder.path, report_to)
    with claim_fold(folder, accelerator.is_main_process):
        fold = Fold(which, data, recipe, folder, accelerator, loss_weights, pretrained)
        with fold.progress:
            yield fold
        accelerator.wait_for_everyone()
        accelerator.free_memory()

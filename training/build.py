"""The parts of a fold: network, image processor and data loaders."""

from typing import Any, cast

import datasets
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

from architectures.networks import MissingPackageError, build, new_config
from machine.workers import leave_signals_to_the_parent
from modeling_gloresnet import (
    BaselineForImageClassification,
    GloResNetConfig,
    GloResNetForImageClassification,
    medicalnet_repository,
)
from preprocessing import GloResNetImageProcessor, VolumeError
from preprocessing.bias_gloresnet import import_simpleitk

from .recipe import Recipe, RecipeError

Network = GloResNetForImageClassification | BaselineForImageClassification


class ScanDataset(Dataset):
    """Standardised volumes and labels of some scans.

    Each item also holds its `row`, which identifies the scan after predictions are gathered from several processes.

    Args:
        volumes: all standardised volumes of the cohort, column `pixel_values`; with several channels also `presence`.
        rows: the rows of `volumes` to use.
        labels: 0 or 1 for each of `rows`.
    """

    def __init__(self, volumes: datasets.Dataset, rows: list[int], labels: list[int]):
        self.columns = [name for name in ("pixel_values", "presence") if name in volumes.column_names]
        self.volumes, self.rows, self.labels = volumes.with_format("torch", columns=self.columns), rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        volume = self.volumes[self.rows[index]]
        inputs = {name: volume[name] for name in self.columns}
        return {**inputs, "labels": self.labels[index], "row": self.rows[index]}


def new_model(recipe: Recipe, pretrained: bool = True) -> Network:
    """Build the recipe's network with its initial weights.

    Args:
        recipe: names the architecture and the initial weights.
        pretrained: False skips reading MedicalNet's weights, for a network whose weights will be replaced.

    Raises:
        RecipeError: this machine cannot build or train the network.
        FileNotFoundError, MedicalNetImportError: the MedicalNet weights are unavailable or do not fit.
    """
    config = new_config(recipe.architecture, recipe.image_size, recipe.init != "random", recipe.channels)
    source = None
    if recipe.init != "random" and pretrained:
        # a recipe with a baseline has random initial weights
        source = medicalnet_repository(cast(GloResNetConfig, config)) if recipe.init == "medicalnet" else recipe.init
    # torch's bfloat16 gradients are wrong on maps of 1 or 2 voxels (see GloResNetConv3d); MONAI has no guard against it
    if recipe.architecture == "densenet121" and recipe.mixed_precision == "bf16" and recipe.image_size <= 92:
        if not torch.cuda.is_available():
            raise RecipeError(
                f"densenet121 cannot be trained in bf16 on a CPU at image_size {recipe.image_size}, because torch "
                "computes wrong gradients: use --mixed_precision no, or an image_size of 93 or more."
            )
    try:
        return build(config, source)
    except MissingPackageError as error:
        raise RecipeError(str(error)) from error


def new_processor(recipe: Recipe, *, local_stream: bool = True) -> GloResNetImageProcessor:
    """Make the processor with the recipe's geometry, brain mask, framing, bias correction and local stream.

    Without `local_stream` it makes the volumes of the global stream only.

    Raises:
        RecipeError: this machine lacks the package that the bias correction needs.
    """
    if recipe.bias_correction == "n4":  # now, and not as the reason why every single scan is unreadable
        try:
            import_simpleitk("The cohort")
        except VolumeError as error:
            raise RecipeError(str(error)) from error
    return GloResNetImageProcessor(
        image_size=recipe.image_size,
        brain_mask=recipe.brain_mask,
        framing=recipe.framing,
        bias_correction=recipe.bias_correction,
        local_stream=local_stream and recipe.local_stream == "on",
        modalities=recipe.channels,
    )


def new_loader(scans: ScanDataset, recipe: Recipe, accelerator: Accelerator, *, shuffle: bool = False) -> DataLoader:
    """Make a loader of batches. `shuffle` is for training; it may drop a last batch of one scan."""
    batch_size = recipe.per_device_train_batch_size
    on_gpu = accelerator.device.type == "cuda"
    # reading is slower than a GPU; on a CPU, workers would take cores from the network
    workers = 4 if on_gpu and len(scans) else 0
    return DataLoader(
        scans,
        batch_size=batch_size,
        shuffle=shuffle,
        # BatchNorm and mixup need two scans; the scan that is dropped changes from epoch to epoch
        drop_last=shuffle and accelerator.num_processes == 1 and len(scans) % batch_size == 1,
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_parent,
        persistent_workers=workers > 0,
        pin_memory=on_gpu,
    )

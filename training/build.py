"""What a fold is built of: the accelerator, the network, the processor and the loaders."""

from datetime import timedelta
from pathlib import Path

import datasets
import torch
from accelerate import Accelerator, DataLoaderConfiguration, InitProcessGroupKwargs
from torch.utils.data import DataLoader, Dataset

from architectures.networks import MissingPackageError, build, new_config
from modeling_gloresnet import (
    BaselineForImageClassification,
    GloResNetForImageClassification,
    medicalnet_repository,
)
from preprocessing import GloResNetImageProcessor

from .recipe import Recipe, RecipeError


class ScanDataset(Dataset):
    """Standardised volumes of some scans with their labels; `row` tells them apart after a trip over processes."""

    def __init__(self, volumes: datasets.Dataset, rows: list[int], labels: list[int]):
        self.volumes, self.rows, self.labels = volumes.with_format("torch", columns=["pixel_values"]), rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        volume = self.volumes[self.rows[index]]["pixel_values"]
        return {"pixel_values": volume, "labels": self.labels[index], "row": self.rows[index]}


def start_accelerator(recipe: Recipe, folder: Path, report_to: str) -> Accelerator:
    return Accelerator(
        mixed_precision=recipe.mixed_precision,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        log_with=None if report_to == "none" else report_to,
        project_dir=str(folder),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=recipe.seed),
        # others wait while the main process generates or standardises a large cohort
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
    )


def new_model(
    recipe: Recipe, pretrained: bool = True
) -> GloResNetForImageClassification | BaselineForImageClassification:
    """The recipe's network with its initial weights; random ones if they are to be replaced (`pretrained=False`).

    Raises:
        RecipeError: the network cannot be built here.
        FileNotFoundError, MedicalNetImportError: the initial weights cannot be had.
    """
    config = new_config(recipe.architecture, recipe.image_size, medicalnet=recipe.init != "random")
    if recipe.init != "random" and pretrained:
        source = medicalnet_repository(config) if recipe.init == "medicalnet" else recipe.init
        return GloResNetForImageClassification.from_medicalnet(source, config)
    # torch's wrong bfloat16 gradients (see GloResNetConv3d) would meet MONAI's convolutions on maps of 1 and 2 voxels
    if recipe.architecture == "densenet121" and recipe.mixed_precision == "bf16" and recipe.image_size <= 92:
        if not torch.cuda.is_available():
            raise RecipeError(
                f"densenet121 cannot be trained in bf16 on a CPU at image_size {recipe.image_size}: torch gets its "
                "gradients wrong; use --mixed_precision no, or an image_size of 93 or more."
            )
    try:
        return build(config)
    except MissingPackageError as error:
        raise RecipeError(str(error)) from error


def new_processor(recipe: Recipe) -> GloResNetImageProcessor:
    return GloResNetImageProcessor(image_size=recipe.image_size, brain_mask=recipe.brain_mask)


def new_loader(scans: ScanDataset, recipe: Recipe, accelerator: Accelerator, *, shuffle: bool = False) -> DataLoader:
    """Batches of some scans, shuffled for training."""
    batch_size = recipe.per_device_train_batch_size
    on_gpu = accelerator.device.type == "cuda"
    return DataLoader(
        scans,
        batch_size=batch_size,
        shuffle=shuffle,
        # a last batch of one can be neither normalised nor mixed; which scan is left out changes every epoch
        drop_last=shuffle and accelerator.num_processes == 1 and len(scans) % batch_size == 1,
        # a GPU outruns reading; on a CPU, workers would only take the network's cores
        num_workers=4 if on_gpu else 0,
        persistent_workers=on_gpu,
        pin_memory=on_gpu,
    )

"""Ways to run a training step and an epoch, and an epoch over cohorts of different sizes."""

import os
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Array4D, Features
from datasets.arrow_writer import ArrowWriter
from tqdm import tqdm

from machine.cores import available_cores
from machine.memory import keep_freed_memory
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from training.build import ScanDataset, new_loader
from training.launch import start_accelerator
from training.loop import train_one_epoch
from training.recipe import load_recipe

from .screening import reference_read, resident_bytes


def step(way: str, image_size: int, batch_size: int, checkpointing: bool = False, returning: bool = False):
    """A turn is one AdamW step on one batch; the answer is its loss. `returning` is `--freed_memory return`."""
    torch.manual_seed(0)
    model = GloResNetForImageClassification(GloResNetConfig(image_size=image_size)).train()
    if way != "reference":
        torch.set_num_threads(available_cores())
        model = model.to(memory_format=torch.channels_last_3d)  # this and the memory setting as in train.py
    if checkpointing:
        model.activation_checkpointing_enable()
    elif way != "reference" and not returning:
        keep_freed_memory()
    optimizer = torch.optim.AdamW(model.parameters())
    volumes, labels = torch.randn(batch_size, 1, *[image_size] * 3), torch.arange(batch_size) % 2
    return lambda _: one_step(model, optimizer, volumes, labels, rounded=way == "bfloat16")


def one_step(model, optimizer, volumes, labels, rounded: bool = False) -> float:
    """Forward, backward and optimizer step. Returns the loss; `rounded` computes in bfloat16 autocast."""
    with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
        logits = model(volumes).logits
    loss = torch.nn.functional.cross_entropy(logits.float(), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def epoch(way: str, image_size: int, batch_size: int, paths: list[str], folder: str):
    """A turn is an epoch over the scans, read from their files (reference) or from the cache with augmentation."""
    if way == "reference":
        model = GloResNetForImageClassification(GloResNetConfig(image_size=image_size)).train()
        optimizer, read = torch.optim.AdamW(model.parameters()), reference_read(image_size)

        def turn(_):
            for start in range(0, len(paths), batch_size):
                volumes = torch.cat([read(path) for path in paths[start : start + batch_size]])
                one_step(model, optimizer, volumes, torch.arange(len(volumes)) % 2)

        return turn
    from preprocessing import GloResNetImageProcessor

    processor = GloResNetImageProcessor(image_size=image_size)
    read = {path: processor(path, return_tensors="np").pixel_values[0] for path in set(paths)}
    return _our_epoch(way, image_size, batch_size, (read[path] for path in paths), folder)


def growth(image_size: int, subjects: int, folder: str):
    """A turn is an epoch over `subjects` cached noise volumes; the answer is the memory in bytes held after it."""
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal((1, *[image_size] * 3), np.float32) for _ in range(subjects))
    do = _our_epoch("float32", image_size, 8, noise, folder)
    return lambda turn: do(turn) or resident_bytes()


def _our_epoch(way: str, image_size: int, batch_size: int, volumes, folder: str):
    """A turn is `train_one_epoch`, called as in train.py, over volumes in a memory-mapped file."""
    torch.set_num_threads(available_cores())
    keep_freed_memory()
    precision = "bf16" if way == "bfloat16" else "no"
    settings = {"per_device_train_batch_size": batch_size, "image_size": image_size, "mixed_precision": precision}
    recipe = load_recipe("demo", **settings)
    features = Features(pixel_values=Array4D((1, *[image_size] * 3), "float32"))
    file = str(Path(folder) / f"{way}-{os.getpid()}.arrow")
    with ArrowWriter(features=features, path=file, writer_batch_size=8) as writer:
        for volume in volumes:
            writer.write({"pixel_values": volume})
        writer.finalize()
    cached = datasets.Dataset.from_file(file)
    accelerator = start_accelerator(recipe, Path(folder), "none")
    model = GloResNetForImageClassification(GloResNetConfig(image_size=image_size))
    model = model.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(model.parameters())
    rows = list(range(len(cached)))
    loader = new_loader(ScanDataset(cached, rows, [row % 2 for row in rows]), recipe, accelerator, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    numbers = iter(range(1, 10**6))

    def turn(_):
        with tqdm(disable=True) as progress:
            train_one_epoch(
                model, loader, optimizer, torch.ones(2), recipe, accelerator,
                epoch=next(numbers), fold=0, progress=progress,
            )  # fmt: skip

    return turn

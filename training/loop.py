"""One epoch of training, and the prediction of a set of scans. Accelerate handles several processes."""

import math
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .augmentation import augment, draw_augmentation
from .build import Network, ScanDataset
from .loss import weighted_soft_cross_entropy
from .mixup import draw_mixing, mix, mix_presence
from .modalities import drop_modalities
from .recipe import Recipe


class NonFiniteLossError(RuntimeError):
    """Training has diverged. The message says at which epoch and what to change."""


def train_one_epoch(
    model: nn.Module,
    loader: DataLoaderShard,
    optimizer: torch.optim.Optimizer,
    weights: Tensor,
    recipe: Recipe,
    accelerator: Accelerator,
    *,
    epoch: int,
    fold: int,
    progress: tqdm,
) -> float:
    """Train on every batch once, with augmentation and mixup.

    The random numbers of an epoch depend only on (seed, fold, epoch, process), so a resumed run repeats them.

    Args:
        model: prepared by the accelerator.
        loader: shuffled, over a `ScanDataset`, prepared by the accelerator.
        optimizer: prepared by the accelerator.
        weights: (2,) weight of each class in the loss.
        recipe: the settings of the run.
        accelerator: of this fold.
        epoch: counts from 1.
        fold: number of the fold, for the random numbers.
        progress: advances by one per batch.

    Returns:
        The mean loss over the samples of all processes.

    Raises:
        NonFiniteLossError: the loss is infinite or NaN. The optimizer makes no step with it.
    """
    model.train()
    loader.set_epoch(epoch)
    rng = np.random.default_rng([recipe.seed, fold, epoch, accelerator.process_index])
    total, count = 0.0, 0
    for step, batch in enumerate(loader, start=1):
        volumes, targets = batch["pixel_values"], F.one_hot(batch["labels"], 2).float()
        drawn = draw_augmentation(
            rng, len(volumes), rotation_degrees=recipe.rotation_degrees, flip_prob=recipe.flip_prob
        )
        volumes = augment(volumes, drawn)
        presence = batch.get("presence")  # with several modalities only: T2w alone draws nothing more
        if presence is not None:
            presence = drop_modalities(rng, presence, recipe.modality_dropout)
        mixing = draw_mixing(rng, len(volumes), mixup_prob=recipe.mixup_prob, mixup_alpha=recipe.mixup_alpha)
        if mixing is not None:
            volumes, targets = mix(volumes, targets, mixing)
            presence = presence if presence is None else mix_presence(presence, mixing)

        with accelerator.accumulate(model):
            loss = weighted_soft_cross_entropy(model(volumes, **_given(presence)).logits, targets, weights)
            losses = accelerator.gather(loss.detach().repeat(len(volumes)))
            # checked on all processes together, so that they stop at the same step
            if not torch.isfinite(losses).all():
                raise NonFiniteLossError(_diverged(f"the loss became {losses.mean().item()}", epoch, step, recipe))
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        total, count = total + losses.sum().item(), count + len(losses)
        progress.update()
        progress.set_postfix(epoch=epoch, loss=f"{total / count:.3f}")
    return total / count


def predict_fold(
    model: Network, loader: DataLoader, accelerator: Accelerator, kept: list[bool] | None = None
) -> dict[int, np.ndarray]:
    """Predict the probability of injury of every scan in the loader, exactly once for any number of processes.

    Args:
        model: without the wrapper for several processes.
        loader: over a `ScanDataset`, prepared by the accelerator.
        accelerator: of this fold.
        kept: (C,) which modalities the network is shown, as far as a scan has them; None for all.

    Returns:
        row -> (V,) float64 probabilities of the test-time views, the plain view first; the same on every process.

    Raises:
        RuntimeError: a scan is missing from the predictions.
    """
    if accelerator.num_processes > 1:
        for buffer in model.buffers():  # BatchNorm statistics: use those of the main process, which are the ones saved
            torch.distributed.broadcast(buffer, 0)
    predictions: dict[int, np.ndarray] = {}
    for batch in loader:
        presence = batch.get("presence")
        if presence is not None and kept is not None:
            presence = presence & torch.as_tensor(kept, device=presence.device)
        views = model.predict_views(batch["pixel_values"], **_given(presence))[:, :, 1].T.contiguous()
        # gather_for_metrics drops the samples that were added to fill the last batch
        rows, views = accelerator.gather_for_metrics((batch["row"], views))
        predictions.update(zip(rows.tolist(), views.double().cpu().numpy(), strict=True))
    expected = cast(ScanDataset, loader.dataset).rows
    if sorted(predictions) != sorted(expected):
        raise RuntimeError(f"{len(predictions)} of {len(expected)} scans were predicted.")
    return predictions


def _given(presence: Tensor | None) -> dict[str, Any]:
    return {} if presence is None else {"presence": presence}


def check_finite(predictions: dict[int, np.ndarray], epoch: int, recipe: Recipe) -> None:
    """Check predictions before a checkpoint is saved, so that the last good checkpoint is kept.

    Raises:
        NonFiniteLossError: a probability is NaN or infinite.
    """
    if not all(np.isfinite(views).all() for views in predictions.values()):
        raise NonFiniteLossError(_diverged("a predicted probability is not a finite number", epoch, None, recipe))


def mean_log_loss(labels: list[int], probabilities: list[float]) -> float:
    """Return -(1/n) sum log p of the true class. Probabilities are clipped to [1e-7, 1 - 1e-7]."""
    truth = [p if label == 1 else 1 - p for label, p in zip(labels, probabilities, strict=True)]
    return -sum(math.log(min(max(p, 1e-7), 1 - 1e-7)) for p in truth) / len(truth)


def _diverged(what: str, epoch: int, step: int | None, recipe: Recipe) -> str:
    place = f"epoch {epoch}" + (f", step {step}" if step else "")
    precision = "" if recipe.mixed_precision == "no" else " or --mixed_precision no"
    return (
        f"Training diverged: {what} at {place}. The checkpoint of the epoch before is kept; start a new run with a "
        f"--learning_rate below {recipe.learning_rate:g}{precision}, in another --output_dir or with --overwrite."
    )

"""Train one patch network to tell painted injuries from the dark spots of normal scans."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_gloresnet.local_gloresnet import PatchNetwork

EPOCHS, BATCH = 14, 512
LEARNING_RATE, PEAK_RATE, WEIGHT_DECAY = 3e-3, 4e-3, 0.02
GAMMA = 1.5  # of the focal loss (Lin et al. 2017, arXiv 1708.02002)
RANDOM, HARD = 150, 60  # negatives of a normal scan in each epoch
RANDOM_MOVED, HARD_MOVED = 50, 20  # of its copy with motion
MINED_AT = (2, 5, 8, 11)  # epochs, counted from 0, before which the hardest negatives are chosen again
MANY = 48  # normal scans; of fewer, each gives more negatives, so that an epoch holds as many
POOL = 10  # times as many are kept for the next choice
GAIN, NOISE = 0.03, 0.04  # SD of the augmentation; the noise is 0.01 of white matter
STEPS = 127 / 4  # of the 8-bit patches per unit; patches lie between -4 and 4
_CHUNK = 4096


class Normal(NamedTuple):
    """The candidates of one normal scan as 8-bit patches (N, 2, 11, 11, 11), see `packed`."""

    as_acquired: np.ndarray
    moved: np.ndarray
    painted: list[np.ndarray]
    """Those within a painted injury, of each painted copy"""


def packed(patches: np.ndarray) -> np.ndarray:
    """Patches between -4 and 4 as 8-bit integers; the step of 0.03 is below the noise of a scan."""
    return np.rint(np.clip(patches, -4, 4) * STEPS).astype(np.int8)


def unpacked(patches: Tensor) -> Tensor:
    """The inverse of `packed`, as float32."""
    return patches.float() / STEPS


def train_scorer(
    normals: Sequence[Normal], seed: Sequence[int], device: torch.device, *, bf16: bool = False
) -> PatchNetwork:
    """Train one patch network. The last epoch counts; nothing is chosen on any scan.

    Args:
        normals: at least one, with at least one painted candidate among them.
        seed: determines the initial weights, the sampling and the augmentation.
        device: where to train.
        bf16: train in bfloat16. Weights and scores stay in float32.

    Returns:
        The network in evaluation mode, on that device.
    """
    rng = np.random.default_rng(list(seed))
    on_gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_gpu):
        torch.manual_seed(int(rng.integers(2**62)))
        network = PatchNetwork().to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        positives = np.concatenate([copy for scan in normals for copy in scan.painted])
        sources = _sources(normals)
        sizes = [_sample_size(sources, len(positives), mined=epoch >= MINED_AT[0]) for epoch in range(EPOCHS)]
        steps = sum(-(-size // BATCH) for size in sizes)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK_RATE, total_steps=steps)
        symmetries = torch.from_numpy(cube_symmetries(positives.shape[-1])).to(device)
        hard: list[np.ndarray] = []
        for epoch in range(EPOCHS):
            if epoch in MINED_AT:
                for source in sources:
                    source.mine(network, device)
                hard = [source.patches[source.pool[: source.hard]] for source in sources]
            chosen = [source.draw(rng) for source in sources]
            patches = torch.from_numpy(np.concatenate([positives, *chosen, *hard])).to(device)
            targets = torch.zeros(len(patches), device=device)
            targets[: len(positives)] = 1
            network.train()
            for batch in torch.from_numpy(rng.permutation(len(patches))).to(device).split(BATCH):
                if len(batch) == 1:  # BatchNorm needs two
                    continue
                inputs = augmented(unpacked(patches[batch]), symmetries)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    logits = network(inputs)
                loss = focal_loss(logits.float(), targets[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return network.eval()


@torch.no_grad()
def scores(network: PatchNetwork, patches: np.ndarray, device: torch.device) -> np.ndarray:
    """The network's logit (N,) float32 of each 8-bit patch."""
    network.eval()
    parts = [network(unpacked(torch.tensor(part, device=device))).cpu() for part in _chunks(patches)]
    return torch.cat(parts).numpy() if parts else np.empty(0, np.float32)


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -(1 - p)^1.5 log p, where p is the probability of the true class."""
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((1 - torch.exp(-loss)) ** GAMMA * loss).mean()


def augmented(patches: Tensor, symmetries: Tensor) -> Tensor:
    """Turn and mirror each patch at random, change its gain and add noise.

    Args:
        patches: (B, 2, E, E, E), (x - 1) * 4 of the brightness x, where white matter is 1.
        symmetries: (48, E^3), from `cube_symmetries`.
    """
    device, (batch, scales) = patches.device, patches.shape[:2]
    order = symmetries[torch.randint(len(symmetries), (batch,), device=device)]
    turned = patches.reshape(batch, scales, -1).gather(2, order[:, None].expand(-1, scales, -1)).reshape(patches.shape)
    gain = GAIN * torch.randn(batch, 1, 1, 1, 1, device=device)
    noisy = turned * (1 + gain) + 4 * gain + NOISE * torch.randn_like(turned)
    return noisy.clamp(-4, 4)


def cube_symmetries(edge: int) -> np.ndarray:
    """The 48 ways to permute and mirror the axes of a cube, as orders of its flat voxels: (48, edge^3) int64."""
    voxels = np.arange(edge**3).reshape((edge,) * 3)
    orders = []
    for axes in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        for mirrored in range(8):
            flips = tuple(axis for axis in range(3) if mirrored >> axis & 1)
            orders.append(np.flip(voxels.transpose(axes), flips).ravel())
    return np.array(orders)


def _chunks(patches: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(patches), _CHUNK):
        yield np.asarray(patches[start : start + _CHUNK])


class _Source:
    """Where negatives come from: the candidates of a normal scan, or of its copy with motion."""

    def __init__(self, patches: np.ndarray, random: int, hard: int):
        self.patches, self.random, self.hard = patches, random, hard
        self.pool = np.arange(len(patches))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Negatives at random."""
        count = min(self.random, len(self.patches))
        return self.patches[np.sort(rng.choice(len(self.patches), count, replace=False))]

    def mine(self, network: PatchNetwork, device: torch.device) -> None:
        """Put the hardest first in the pool, and keep ten times as many as are used.

        Ranking all of them each time would take longer than the training.
        """
        order = np.argsort(-scores(network, self.patches[self.pool], device), kind="stable")
        self.pool = self.pool[order[: POOL * self.hard]]


def _sources(normals: Sequence[Normal]) -> list[_Source]:
    """Where the negatives come from. How many hard ones there are grows more slowly, or they would not be hard."""
    more = max(1.0, MANY / len(normals))
    sources = []
    for scan in normals:
        sources.append(_Source(scan.as_acquired, round(RANDOM * more), round(HARD * more**0.5)))
        sources.append(_Source(scan.moved, round(RANDOM_MOVED * more), round(HARD_MOVED * more**0.5)))
    return sources


def _sample_size(sources: Sequence[_Source], positives: int, mined: bool) -> int:
    return positives + sum(min(len(x.patches), x.random) + mined * min(len(x.patches), x.hard) for x in sources)

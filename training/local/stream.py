"""The local stream of one fold.

The training part is split into four parts. Each of the four networks that ship is trained on the normal scans of three
parts. The scans of the fourth are new to it, so its scores of them, as acquired and painted, say what a score is worth
(cross-fitting).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.special import expit
from sklearn.model_selection import StratifiedGroupKFold

from cohort.scans import CohortError, Scan
from modeling_gloresnet import GloResNetForImageClassification
from modeling_gloresnet.local_gloresnet import PatchNetwork
from run_folder.files import replacing, write_text
from run_folder.tables import csv_text

from .answers import Answer, local_module
from .bank import Bank
from .calibration import Voices, fit_local, fit_shares, on_one_scale
from .scorer import Normal, scores, train_scorer

PARTS = 4  # of the training part, and networks
DRAWS, SPOTS = 20, (1, 6)  # how often a normal scan counts with painted candidates, and with how many
TOO_FEW = (
    "The local stream needs at least two families of each class in the training part of a fold, with scans of 1.2 mm "
    "or finer that show the brain: use a larger cohort, or --local_stream off."
)


class TrainedStream(NamedTuple):
    """A trained local stream.

    Attributes:
        networks: the patch networks that ship; the mean of their logits counts.
        voices: what scores and intensity shares are worth.
        answers: for the training scans, from networks that have not seen them; NaN where the stream is silent.
    """

    networks: list[PatchNetwork]
    voices: Voices
    answers: list[Answer]


def train_local_stream(
    scans: Sequence[Scan], bank: Bank, seed: Sequence[int], device: torch.device, folder: Path, *, bf16: bool = False
) -> TrainedStream:
    """Train the networks on the normal scans of a training part, and fit what their scores are worth.

    No weight of a network depends on an injured scan. The injured scans, which no network has seen, put the scores of
    one network on the scale of all four; their labels are used for the intensity shares only.

    Args:
        scans: the training part, with both classes.
        bank: has all of them.
        seed: of all draws.
        device: where to train.
        folder: keeps every finished network, and the scores of the training scans (`scores.csv`). A network that was
            interrupted is trained again from its start.
        bf16: see `train_scorer`.

    Raises:
        CohortError: the training part has too few families, or too few normal scans that can be searched.
    """
    labels, shares, part_of = (
        np.array([scan.label for scan in scans]),
        bank.shares(scans),
        parts_of(scans, bank, seed[0]),
    )
    audible = part_of >= 0
    normal, injured = (np.flatnonzero(audible & (labels == label)).tolist() for label in (0, 1))
    networks = []
    for part in range(part_of.max() + 1):
        path, own = folder / f"network-{part}.safetensors", [scans[i] for i in normal if part_of[i] != part]
        networks.append(_trained(path, [bank.normal(scan) for scan in own], [*seed, part], device, bf16))
    # an injured scan is new to all networks, a normal one to that of its part
    alone = np.full((len(scans), len(networks)), np.nan)
    score = np.full(len(scans), np.nan)
    for i in np.flatnonzero(audible).tolist():
        logits = np.array([scores(network, bank.candidates(scans[i]), device) for network in networks])
        alone[i], score[i] = logits.max(axis=1), logits.mean(axis=0).max()
    lifts = [on_one_scale(score[injured], alone[injured, part]) for part in range(len(networks))]
    rng = np.random.default_rng([*seed, PARTS])
    painted = np.empty((len(normal), DRAWS))
    for row, i in enumerate(normal):
        part = part_of[i]
        spots = np.concatenate(bank.normal(scans[i]).painted)
        found = scores(networks[part], spots, device) + lifts[part]
        score[i] = alone[i, part] + lifts[part]
        painted[row] = with_injuries(score[i], found, rng)
    share = float(labels[audible].mean())
    calibration = fit_local(score[normal], painted, share)
    p_local = expit(calibration[0] * score + calibration[1])
    voices = Voices(calibration, *fit_shares(labels[audible].tolist(), p_local[audible], shares[audible]))
    answers = [Answer(*pair) for pair in zip(p_local, voices.shares(shares), strict=True)]
    keys = [[scan.participant_id, scan.session_id, scan.label, scan.radiology_score] for scan in scans]
    table = pd.DataFrame(keys, columns=["participant_id", "session_id", "label", "radiology_score"])
    write_text(folder / "scores.csv", csv_text(table.assign(score=score)))
    return TrainedStream(networks, voices, answers)


def with_injuries(score: float, found: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The highest logit (20,) of a normal scan of this score if some of its painted candidates were in it.

    Args:
        score: of the scan as acquired.
        found: (n,) logits of the candidates in its painted copies; if there are none, the scan keeps its score.
        rng: draws which, and how many.
    """
    if not len(found):
        return np.full(DRAWS, score)
    highest = [rng.choice(found, rng.integers(*SPOTS, endpoint=True)).max() for _ in range(DRAWS)]
    return np.maximum(score, highest)


def attach(network: GloResNetForImageClassification, stream: TrainedStream) -> None:
    """Put the stream into the network of its fold, in evaluation mode, and its settings into the configuration."""
    network.config.local_stream, network.config.local_scorers = True, len(stream.networks)
    network.config.local_calibration = stream.voices.calibration
    network.config.local_share_weights = stream.voices.share_weights
    network.local = local_module(stream.networks, stream.voices).to(network.device)


def parts_of(scans: Sequence[Scan], bank: Bank, seed: int) -> np.ndarray:
    """The inner part (n,) of each scan of a training part, see `inner_parts`; -1 for a scan that cannot be searched.

    Raises:
        CohortError: the training part has too few families, or a network would have nothing to be trained on.
    """
    audible = np.isfinite(bank.shares(scans)).all(axis=1)
    part_of = np.full(len(scans), -1)
    part_of[audible] = inner_parts([scan for scan, heard in zip(scans, audible, strict=True) if heard], seed)
    for part in range(part_of.max() + 1):
        own = [scan for scan, its in zip(scans, part_of, strict=True) if scan.label == 0 and its not in (-1, part)]
        if not own:
            raise CohortError(TOO_FEW)
        if not any(len(copy) for scan in own for copy in bank.normal(scan).painted):
            raise CohortError(
                "No injury could be painted into the normal scans of the training part: they show no white matter that "
                "the local stream could be trained in. Use --local_stream off."
            )
    return part_of


def inner_parts(scans: Sequence[Scan], seed: int) -> np.ndarray:
    """The inner part (n,) of each scan, 0 to 3: families together, stratified by label.

    Raises:
        CohortError: there are fewer than two families of a class.
    """
    labels, families = np.array([scan.label for scan in scans]), np.array([scan.family for scan in scans])
    parts = min(PARTS, *(len(set(families[labels == label])) for label in (0, 1)))
    if parts < 2:
        raise CohortError(TOO_FEW)
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    part_of = np.empty(len(scans), int)
    for part, (_, held_out) in enumerate(splitter.split(labels, labels, families)):
        part_of[held_out] = part
    return part_of


def _trained(
    path: Path, normals: Sequence[Normal], seed: Sequence[int], device: torch.device, bf16: bool
) -> PatchNetwork:
    """A network from its file, or trained and saved."""
    network = PatchNetwork().to(device).eval()
    if path.is_file():
        try:
            network.load_state_dict(load_file(path))
            return network
        except (SafetensorError, RuntimeError, OSError):  # damaged: the same network is trained again
            path.unlink()
    network = train_scorer(normals, seed, device, bf16=bf16)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        save_file({name: value.cpu().contiguous() for name, value in network.state_dict().items()}, unfinished)
    return network

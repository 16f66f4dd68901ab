"""What a trained local stream answers for scans, and how that changes the answer of the global stream."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from cohort.scans import CohortError, Scan
from evaluation.thresholds import sensitivity_threshold, youden_threshold
from machine.workers import in_workers
from modeling_gloresnet.local_gloresnet import LocalStream, PatchNetwork
from preprocessing import GloResNetImageProcessor, VolumeError
from preprocessing.candidates_gloresnet import LocalInputs, no_local_inputs

from .bank import local_inputs_of
from .calibration import Voices


class Answer(NamedTuple):
    """The probabilities of one scan; both are NaN where the local stream is silent."""

    p_local: float
    p_shares: float


def fused(p_global: np.ndarray, answer: Answer) -> np.ndarray:
    """The probability of both streams, see `fuse`."""
    q = np.maximum(0, 2 * p_global - 1)
    return q if np.isnan(answer.p_local) else 1 - (1 - q) * (1 - answer.p_local) * (1 - answer.p_shares)


def answers_for(
    scans: Sequence[Scan],
    networks: Sequence[PatchNetwork],
    voices: Voices,
    processor: GloResNetImageProcessor,
    device: torch.device,
    num_workers: int,
) -> dict[Scan, Answer]:
    """Answer for scans that the networks were not trained on, from their files, as screening does.

    Args:
        scans: of any label.
        networks, voices: of one training part.
        processor: of the model.
        device: where the networks compute.
        num_workers: processes that read and search the scans.

    Raises:
        CohortError: a scan can no longer be read.
    """
    stream = local_module(networks, voices).to(device)
    rows = [(number, scan.image, scan.mask) for number, scan in enumerate(scans)]
    answers: dict[int, Answer] = {}
    with in_workers(partial(_prepare, processor=processor), rows, min(num_workers, len(rows))) as prepared:
        for number, inputs, problem in prepared:  # in the order in which they are ready
            if problem:
                raise CohortError(problem)
            answers[number] = _answer(inputs, stream, device)
    return {scan: answers[number] for number, scan in enumerate(scans)}


def local_module(networks: Sequence[PatchNetwork], voices: Voices) -> LocalStream:
    """The part of a model that holds these networks, on the CPU."""
    stream = LocalStream(len(networks), voices.calibration, voices.share_weights)
    for scorer, network in zip(stream.scorers, networks, strict=True):
        scorer.load_state_dict(network.state_dict())
    return stream


def thresholds_with(labels: list[int], views: np.ndarray, answers: Sequence[Answer]) -> Mapping[str, float]:
    """The thresholds on the inner scans, for the fused probability; `views` (V, n) are those of the global stream."""
    p = np.array([fused(own, answer).mean() for own, answer in zip(views.T, answers, strict=True)])
    return {
        "threshold_youden": youden_threshold(labels, p),
        "threshold_sensitivity_90": sensitivity_threshold(labels, p),
    }


@torch.no_grad()
def _answer(inputs: LocalInputs, stream: LocalStream, device: torch.device) -> Answer:
    if not len(inputs.patches):
        return Answer(np.nan, np.nan)
    arrays = (inputs.patches, inputs.valid, inputs.shares)
    said = stream.judge(*(torch.from_numpy(array)[None].to(device) for array in arrays))
    return Answer(said.p_local.item(), said.p_shares.item())


def _prepare(row: tuple, processor: GloResNetImageProcessor) -> tuple[int, LocalInputs, str]:
    number, image, mask = row
    try:
        return number, local_inputs_of(image, mask, processor), ""
    except (VolumeError, OSError) as error:
        return number, no_local_inputs(), " ".join(str(error).split())

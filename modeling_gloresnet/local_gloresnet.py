"""The local stream: small networks that judge candidates for small lesions at (near) native resolution.

Candidates and their cubes come from the processor (`candidates_gloresnet.py`). A scan is as suspicious as its highest
candidate: p_local is the calibrated probability of that one. Together with the global stream,
p = 1 - (1 - q) (1 - p_local), q = max(0, 2 p_global - 1): each stream alone can call a scan suspicious (see `fuse`).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EDGE = 11  # voxels per edge of a cube
SCALES = 2  # cubes per candidate: on the grid, and at twice its spacing
CHANNELS = (16, 24, 32)
HIDDEN = 32
DROPOUT = 0.1
RARE = -2.0  # bias of an untrained network's logit: few candidates are lesions
INVALID = -1e4  # logit of padding


class PatchNetwork(nn.Module):
    """One scorer: two cubes around a candidate -> the logit that a lesion is there. 65,473 parameters."""

    def __init__(self):
        super().__init__()
        self.scales = nn.ModuleList(_encoder() for _ in range(SCALES))
        self.head = nn.Sequential(
            nn.Dropout(DROPOUT),
            nn.Linear(SCALES * CHANNELS[-1], HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, 1),
        )
        nn.init.constant_(self.head[-1].bias, RARE)

    def forward(self, patches: Tensor) -> Tensor:
        """(n, 2, 11, 11, 11) -> (n,) logits.

        Args:
            patches: see `candidates_gloresnet.cut_patches`.
        """
        features = [scale(patches[:, index : index + 1]) for index, scale in enumerate(self.scales)]
        return self.head(torch.cat(features, dim=1)).squeeze(1)


class Judgement(NamedTuple):
    """What the local stream says about a batch of scans.

    Attributes:
        candidates: (B, N) the probability of each candidate; NaN for padding.
        p_local: (B,) the probability of the highest candidate; NaN where there are no candidates.
        p_shares: (B,) the probability from the intensity shares; NaN where there are none or no weights for them.
        log_silence, log_alarm: (B,) the logarithms of q = (1 - p_local) (1 - p_shares) and of 1 - q, where NaN counts
            as 0; log_alarm is -10000 where q is 1.
    """

    candidates: Tensor
    p_local: Tensor
    p_shares: Tensor
    log_silence: Tensor
    log_alarm: Tensor


class LocalStream(nn.Module):
    """Several scorers, whose logits are averaged, and what the highest candidate of a scan means.

    It is always in evaluation mode and needs no gradients: each scorer is trained alone, as a `PatchNetwork`, before
    its weights come here.

    Args:
        scorers: how many.
        calibration: a and b of p_local = sigmoid(a s + b), where s is the scan's highest logit.
        share_weights: `mean`, `scale` and `weights`, nine numbers each, and `intercept` of
            p_shares = sigmoid(weights * (shares - mean) / scale + intercept); None leaves the shares out.
    """

    def __init__(
        self,
        scorers: int = 3,
        calibration: Sequence[float] = (1.0, 0.0),
        share_weights: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.scorers = nn.ModuleList(PatchNetwork() for _ in range(scorers))
        self.slope, self.offset = float(calibration[0]), float(calibration[1])
        self.share_weights = share_weights
        self.requires_grad_(False).train(False)

    def train(self, mode: bool = True) -> "LocalStream":
        return super().train(False)

    def forward(self, patches: Tensor, valid: Tensor) -> Tensor:
        """Return the logit of each candidate, averaged over the scorers: (B, N) float32; -10000 where not valid.

        Args:
            patches: (B, N, 2, 11, 11, 11), see `candidates_gloresnet.cut_patches`.
            valid: (B, N) bool, False for padding.

        Raises:
            ValueError: for other shapes.
        """
        if tuple(patches.shape[2:]) != (SCALES, EDGE, EDGE, EDGE) or tuple(patches.shape[:2]) != tuple(valid.shape):
            raise ValueError(
                f"local_patches must be (batch, N, {SCALES}, {EDGE}, {EDGE}, {EDGE}) and local_valid (batch, N), not "
                f"{tuple(patches.shape)} and {tuple(valid.shape)}; use the image processor to make them."
            )
        flat = patches.flatten(0, 1).to(next(self.parameters()).dtype)
        logits = torch.stack([scorer(flat) for scorer in self.scorers]).float().mean(dim=0)
        return torch.where(valid, logits.reshape(valid.shape), INVALID)

    def judge(self, patches: Tensor, valid: Tensor, shares: Tensor | None = None) -> Judgement:
        """Judge the candidates of each scan, and its intensity shares if there are weights for them.

        Args:
            patches, valid: see `forward`.
            shares: (B, 9), see `interior_gloresnet.intensity_shares`; NaN where unknown.
        """
        logits = self.slope * self(patches, valid) + self.offset
        highest, found = logits.amax(dim=1), valid.any(dim=1)
        silence = torch.where(found, -F.softplus(highest), 0.0)
        alarm = torch.where(found, -F.softplus(-highest), INVALID)
        p_local = torch.where(found, highest.sigmoid(), torch.nan)
        p_shares = torch.full_like(p_local, torch.nan)
        if self.share_weights is not None and shares is not None:
            mean, scale, weights = (shares.new_tensor(self.share_weights[n]) for n in ("mean", "scale", "weights"))
            logit = ((shares - mean) / scale * weights).sum(dim=1).float() + self.share_weights["intercept"]
            p_shares = logit.sigmoid()
            known = ~logit.isnan()
            # 1 - (1 - p) (1 - p_shares) = p + (1 - p) p_shares, without the difference of two numbers near 1
            more = torch.where(known, silence - F.softplus(-logit), INVALID)
            alarm = _log_sum(alarm, more)
            silence = silence + torch.where(known, -F.softplus(logit), 0.0)
        return Judgement(torch.where(valid, logits.sigmoid(), torch.nan), p_local, p_shares, silence, alarm)


def fuse(log_probabilities: Tensor, judged: Judgement) -> Tensor:
    """Return log(1 - p) and log p of both streams together: (..., B, 2) float32.

    p = 1 - (1 - q) (1 - p_local) (1 - p_shares), where q = max(0, 2 p_global - 1), a leaky noisy-or (Henrion 1987). The
    global stream is trained with balanced class weights, so p_global is 1/2 where it has seen nothing: that half is the
    leak, and q is what the evidence adds to it, p_global = 1 - (1 - 1/2) (1 - q). Where the local stream is silent,
    p = q, so that one threshold serves all scans.

    Args:
        log_probabilities: (..., B, 2), log(1 - p_global) and log p_global.
        judged: what the local stream says.
    """
    no, yes = log_probabilities.float().unbind(dim=-1)
    excess = 1 - (no - yes).clamp_max(0).exp()  # (2 p_global - 1) / p_global
    seen = ~(excess <= 0)  # NaN too, so that it is not lost
    alarm = torch.where(seen, yes + torch.where(seen, excess, 1.0).log(), INVALID)  # log q
    silence = torch.where(seen, no + math.log(2), 0.0)  # log(1 - q)
    return torch.stack([silence + judged.log_silence, _log_sum(alarm, silence + judged.log_alarm)], dim=-1)


def _log_sum(one: Tensor, other: Tensor) -> Tensor:
    """log(exp(one) + exp(other)), in operations that every runtime of converted files has."""
    return torch.maximum(one, other) + F.softplus(-(one - other).abs())


def _encoder() -> nn.Sequential:
    """(n, 1, 11, 11, 11) -> (n, 32): convolutions without padding leave 5, 3 and 1 voxels per edge."""
    layers: list[nn.Module] = []
    before = 1
    for index, channels in enumerate(CHANNELS):
        layers += [nn.Conv3d(before, channels, 3, stride=2 if index == 0 else 1, bias=False)]
        layers += [nn.BatchNorm3d(channels), nn.ReLU(inplace=True)]
        before = channels
    return nn.Sequential(*layers, nn.Flatten())

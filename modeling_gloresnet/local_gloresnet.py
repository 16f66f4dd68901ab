"""The local stream: small networks that judge candidates for small lesions at (near) native resolution.

Candidates and their cubes come from the processor (`candidates_gloresnet.py`). A scan is as suspicious as its highest
candidate.
"""

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


class LocalStream(nn.Module):
    """Several scorers, whose logits are averaged, and the calibration of the scan's highest candidate.

    Args:
        scorers: how many.
        calibration: a and b of p_local = sigmoid(a s + b), where s is the scan's highest logit.
    """

    def __init__(self, scorers: int = 3, calibration: tuple[float, float] | list[float] = (1.0, 0.0)):
        super().__init__()
        self.scorers = nn.ModuleList(PatchNetwork() for _ in range(scorers))
        self.slope, self.offset = float(calibration[0]), float(calibration[1])

    def forward(self, patches: Tensor, valid: Tensor) -> Tensor:
        """Return the logit of each candidate, averaged over the scorers: (B, N) float32; -10000 where not valid.

        Args:
            patches: (B, N, 2, 11, 11, 11).
            valid: (B, N) bool.
        """
        flat = patches.flatten(0, 1).to(self.scorers[0].head[-1].weight.dtype)
        logits = torch.stack([scorer(flat) for scorer in self.scorers]).float().mean(dim=0)
        return torch.where(valid, logits.reshape(valid.shape), INVALID)

    def calibrated(self, logits: Tensor) -> Tensor:
        """Return the logit a s + b of each candidate."""
        return self.slope * logits + self.offset

    def log_silence(self, logits: Tensor, valid: Tensor) -> Tensor:
        """Return log(1 - p_local) of each scan: (B,) float32; 0, so p_local = 0, for a scan without candidates.

        Args:
            logits: (B, N), as `forward` returns them.
            valid: (B, N) bool.
        """
        if logits.shape[1] == 0:
            return logits.new_zeros(len(logits))
        highest = self.calibrated(logits.amax(dim=1))
        return torch.where(valid.any(dim=1), F.logsigmoid(-highest), 0.0)


def _encoder() -> nn.Sequential:
    """(n, 1, 11, 11, 11) -> (n, 32): convolutions without padding leave 5, 3 and 1 voxels per edge."""
    layers: list[nn.Module] = []
    before = 1
    for index, channels in enumerate(CHANNELS):
        layers += [nn.Conv3d(before, channels, 3, stride=2 if index == 0 else 1, bias=False)]
        layers += [nn.BatchNorm3d(channels), nn.ReLU(inplace=True)]
        before = channels
    return nn.Sequential(*layers, nn.Flatten())

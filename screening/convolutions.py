"""Convolutions with fewer multiplications, for screening with a trained network on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling_gloresnet.inference_gloresnet import TENSOR_LEFT_RIGHT_AXIS


class MirroredStem(nn.Module):
    """A one-channel stem of stride 2 for a volume and its mirror image, at little more than the cost of one volume.

    If the number of voxels from left to right is even, output t of a kernel of radius p reads voxels 2t - p to 2t + p
    of the volume. The mirror image reads voxels 2t + 1 - p to 2t + 1 + p. Together this is one window of 2p + 2 voxels,
    read from both ends. For two voxels a, b at the same distance from the centre of the window, with weights u, v:

        u a + v b = (u + v)/2 (a + b) + (u - v)/2 (a - b),    v a + u b = (u + v)/2 (a + b) - (u - v)/2 (a - b)

    So the two views are the sum and the difference of two convolutions, one over p + 1 sums of planes and one over
    p + 1 differences. Pairs of voxels along S become channels, because CPUs are slow at convolutions with few channels.
    Max pooling comes before bias and ReLU, which do not change the position of a maximum.

    Args:
        stem: the stem of a GloResNet with its BatchNorm folded (`screening.fast.fold_batchnorm`).
    """

    PLANES = 8  # planes of the first feature map at a time; they fit into the CPU cache

    def __init__(self, stem: Any):
        super().__init__()
        kernel = stem.conv1.weight.detach()[:, 0]
        self.pooled = not isinstance(stem.maxpool, nn.Identity)
        self.radius = kernel.shape[-1] // 2
        self.pairs = self.radius + 1
        window = F.pad(kernel, (0, 0, 0, 0, 0, 1))
        left, right = window[:, : self.pairs].flip(1), window[:, self.pairs :]
        self.even, self.odd = (self._as_channels((right + sign * left) / 2) for sign in (1, -1))
        self.bias = nn.Parameter(stem.conv1.bias.detach(), requires_grad=False)

    def _as_channels(self, kernel: Tensor) -> nn.Parameter:
        """(C, pairs, edge, edge) -> (C, 2 pairs, edge, pairs): the kernel over cells of two voxels along S."""
        front = self.radius % 2  # pad on this side, so that the kernel starts at the first voxel of a cell
        cells = F.pad(kernel, (front, 1 - front)).unflatten(-1, (self.pairs, 2))
        weight = cells.permute(0, 4, 1, 2, 3).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        return nn.Parameter(weight, requires_grad=False)

    def forward(self, volumes: Tensor, mirrored: bool) -> Tensor:
        """(B, 1, R, A, S) -> feature maps of the volumes, then, if `mirrored`, those of their mirror images."""
        if mirrored and volumes.shape[2] % 2:  # odd: both views read the same voxels, so the trick does not apply
            return self(torch.cat([volumes, volumes.flip(TENSOR_LEFT_RIGHT_AXIS)]), False)
        before = [self.radius, self.radius, self.radius + self.radius % 2]
        lengths = [(length + 1) // 2 for length in volumes.shape[2:]]
        ends: list[int] = []
        for length, n, front in zip(volumes.shape[2:], lengths, before, strict=True):
            ends = [front, 2 * (n + self.radius) - length - front, *ends]
        padded = F.pad(volumes[:, 0], ends).unflatten(-1, (-1, 2))  # (B, R, A, cells, 2)

        size = [(n + 1) // 2 if self.pooled else n for n in lengths[1:]]
        planes = self.bias.new_empty(1 + mirrored, len(volumes), lengths[0] + 2, *size, len(self.bias))
        planes[:, :, 0] = planes[:, :, -1] = -torch.inf  # padding for max pooling
        for start in range(0, lengths[0], self.PLANES):
            stop = min(start + self.PLANES, lengths[0])
            even, odd = self._convolved(padded, start, stop)
            maps = [even + odd, even.sub_(odd)] if mirrored else [even.add_(odd)]
            if self.pooled:
                maps = [F.max_pool2d(view, 3, 2, 1) for view in maps]
            maps = [view.permute(0, 2, 3, 1).unflatten(0, (-1, stop - start)) for view in maps]  # (B, r, a, s, C)
            planes[0, :, 1 + start : 1 + stop] = maps[0]
            if mirrored:
                planes[1, :, 1 + lengths[0] - stop : 1 + lengths[0] - start] = maps[1].flip(1)
        planes = planes.flatten(0, 1)
        if self.pooled:
            last = 2 * ((lengths[0] + 1) // 2) - 1
            below, hidden, above = (planes[:, first : first + last : 2] for first in range(3))
            hidden = hidden.maximum(below)
            torch.maximum(hidden, above, out=hidden)
        else:
            hidden = planes[:, 1:-1].contiguous()
        return hidden.add_(self.bias).relu_().permute(0, 4, 1, 2, 3)

    def _convolved(self, padded: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The convolutions over sums and over differences, for planes `start` to `stop` of the feature map."""
        planes = 2 * (stop - start) - 1
        firsts = [2 * start + self.radius - step for step in range(self.pairs)]
        lasts = [2 * start + self.pairs + step for step in range(self.pairs)]
        left, right = (
            torch.stack([padded[:, first : first + planes : 2] for first in side], dim=-1) for side in (firsts, lasts)
        )
        # (B r, 2 pairs, a, s), channels last in memory
        inputs = [each.flatten(0, 1).flatten(-2).permute(0, 3, 1, 2) for each in (right + left, right - left)]
        even, odd = (
            F.conv2d(each.to(weight.dtype), weight, stride=(2, 1))
            for each, weight in zip(inputs, (self.even, self.odd), strict=True)
        )
        return even, odd


class WinogradConv3d(nn.Module):
    """A 3^3 convolution of stride 1 with half the multiplications: six 2D convolutions for every four output planes.

    This is Winograd's minimal filtering F(4, 3) along R (Lavin and Gray 2016, 10.1109/CVPR.2016.435). Six consecutive
    planes are combined in six ways (INPUT). Each combination is convolved with a 2D kernel (KERNEL). The six results
    are combined into four planes (OUTPUT). In float32 the rounding error is 2e-5 of the standard deviation of the
    feature map (1e-6 for a plain convolution), which keeps probabilities within 1e-6. In bfloat16 it is too large.

    Args:
        conv: a convolution with padding 1, no dilation and a bias.
    """

    INPUT = [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
    KERNEL = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # divided by 24
    OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]

    def __init__(self, conv: nn.Conv3d):
        super().__init__()
        assert conv.bias is not None  # see `replaces`
        weight = conv.weight.detach().double()
        kernels = torch.einsum("kr,oiras->koias", torch.tensor(self.KERNEL).to(weight) / 24, weight).to(conv.weight)
        self.kernels = nn.ParameterList(
            nn.Parameter(kernel.contiguous(memory_format=torch.channels_last), requires_grad=False)
            for kernel in kernels
        )
        self.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)

    @staticmethod
    def replaces(conv: nn.Module, edge: int) -> bool:
        """Whether this class can replace `conv`, and is faster on feature maps of `edge` planes.

        With few planes, reading six kernels takes longer than it saves.
        """
        return (
            isinstance(conv, nn.Conv3d)
            and conv.bias is not None
            and conv.kernel_size == (3, 3, 3)
            and conv.stride == conv.padding == conv.dilation == (1, 1, 1)
            and edge >= 8
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, C, R, A, S) -> (B, C', R, A, S), channels last in memory."""
        batch, _, length = hidden.shape[:3]
        tiles = (length + 3) // 4
        padded = F.pad(hidden.permute(0, 2, 3, 4, 1), (0, 0, 0, 0, 0, 0, 1, 4 * tiles + 1 - length))
        planes = [padded[:, first : first + 4 * tiles - 3 : 4] for first in range(6)]  # each (B, tiles, A, S, C)
        found = []
        for number, (weights, kernel) in enumerate(zip(self.INPUT, self.kernels, strict=True)):
            summed = _sum(weights, planes).flatten(0, 1).permute(0, 3, 1, 2)
            # each output plane contains the second result exactly once, so that one adds the bias
            result = F.conv2d(summed, kernel, self.bias if number == 1 else None, padding=1)
            found.append(result.permute(0, 2, 3, 1))
        result = self.bias.new_empty(batch * tiles, 4, *found[0].shape[1:])
        for number, weights in enumerate(self.OUTPUT):
            _sum(weights, found, out=result[:, number])
        return result.unflatten(0, (batch, tiles)).flatten(1, 2)[:, :length].permute(0, 4, 1, 2, 3)


def _sum(weights: list[int], planes: list[Tensor], out: Tensor | None = None) -> Tensor:
    """The weighted sum of planes. At least one weight must be 1; planes of weight 0 are not read."""
    first = weights.index(1)
    second, *others = (number for number, weight in enumerate(weights) if weight and number != first)
    total = torch.add(planes[first], planes[second], alpha=weights[second], out=out)
    for number in others:
        total.add_(planes[number], alpha=weights[number])
    return total

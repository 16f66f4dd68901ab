"""A model made fast for screening: the same answers from fewer and cheaper operations.

`prepare` makes it, of a copy: BatchNorm folded, channels last in memory, both views' stem at once, and bfloat16 where
that is faster and right. It can only answer: training and maps of where a model looked keep the plain model.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from modeling_gloresnet.inference_gloresnet import LEFT_RIGHT_AXIS, ScreeningInference

from .errors import ModelError
from .exported import ExportedModel

TOLERANCE = 5e-3  # in probability, by which bfloat16 may differ from float32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prepare(model, dtype: str = "auto"):
    """A copy of a model that answers the same, faster; a converted file or another architecture is returned as it is.

    Args:
        model: in evaluation mode, as `load_model` gives it; left as it is.
        dtype: `"float32"` (within 1e-6 of the plain model in probability), `"bfloat16"`, or `"auto"`: bfloat16 where
            the processor computes in it natively and `bfloat16_error` is within TOLERANCE, float32 elsewhere.

    Returns:
        A model with `predict_views` and `predict_proba`; `model.dtype` says which precision was taken.

    Raises:
        ModelError: bfloat16 is asked of another architecture.
    """
    if isinstance(model, ExportedModel):
        return model
    if not hasattr(model, "gloresnet") and not hasattr(model, "members"):
        if dtype == "bfloat16":
            raise ModelError(f"a {type(model).__name__} answers in float32 only: leave --dtype out")
        return model
    if dtype != "auto":
        return _prepare(model, DTYPES[dtype])
    if has_native_bfloat16(model.device):
        rounded = _prepare(model, torch.bfloat16)
        if bfloat16_error(model, rounded) <= TOLERANCE:
            return rounded
    return _prepare(model, torch.float32)


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 matrices itself; elsewhere they are slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


@torch.inference_mode()
def bfloat16_error(model, rounded) -> float:
    """How far a probability can be off in bfloat16: the most that two seeded volumes' difference in log-odds allows.

    A probability moves by at most a quarter of what its log-odds do. Compared so, a model that is sure of these
    volumes, which are no scans, does not pass for that alone.
    """
    edge = min(model.config.image_size, 64)  # the network takes any size, and this is an eighth of the work
    volumes = smooth_noise(2, model.config.num_channels, edge).to(model.device)
    exact, found = (m(volumes).logits.float() / m.config.temperature for m in (model, rounded))
    exact, found = (logits[:, 1] - logits[:, 0] for logits in (exact, found))
    error = ((exact - found).abs().max() / 4).item()
    return error if error == error else float("inf")


def smooth_noise(number: int, channels: int, edge: int, seed: int = 0) -> Tensor:
    """Standardised random volumes (number, channels, edge, edge, edge): coarse blobs under finer ones."""
    generator = torch.Generator().manual_seed(seed)
    volumes = torch.zeros(number, channels, edge, edge, edge)
    for grain in (3, 7, 16, edge):
        noise = torch.randn(number, channels, grain, grain, grain, generator=generator)
        volumes += F.interpolate(noise, size=(edge,) * 3, mode="trilinear")
    volumes -= volumes.mean(dim=(1, 2, 3, 4), keepdim=True)
    return volumes / volumes.std(dim=(1, 2, 3, 4), keepdim=True)


@torch.no_grad()
def _prepare(model, dtype: torch.dtype):
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    if hasattr(fast, "members"):  # an ensemble averages what its members answer
        fast.members = nn.ModuleList(PreparedNetwork(member, dtype) for member in fast.members)
        return fast
    return PreparedNetwork(fast, dtype)


class PreparedNetwork(ScreeningInference, nn.Module):
    """A network taken apart for screening: it answers, and can do nothing else.

    Args:
        network: a GloResNetForImageClassification, of this class or of a model folder's code, which is used up.
        dtype: the precision of all but the head, which costs nothing and stays in float32.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config, self.num_labels = network.config, network.num_labels
        fold_batchnorm(network)
        self.stem = network.gloresnet.stem
        if network.device.type == "cpu" and self.config.num_channels == 1 and self.config.stem_stride == 2:
            self.stem = MirroredStem(self.stem)
        self.layers = nn.Sequential(*network.gloresnet.layers).to(memory_format=torch.channels_last_3d)
        self.classifier = network.classifier
        self.stem.to(dtype)
        self.layers.to(dtype)

    @property
    def device(self) -> torch.device:
        return self.classifier.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.layers.parameters()).dtype

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutputWithNoAttention:
        return ImageClassifierOutputWithNoAttention(logits=self.view_logits(pixel_values, mirrored=False))

    def view_logits(self, pixel_values: Tensor, mirrored: bool) -> Tensor:
        if isinstance(self.stem, MirroredStem):
            hidden = self.stem(pixel_values, mirrored)
        else:
            views = [pixel_values, pixel_values.flip(LEFT_RIGHT_AXIS)] if mirrored else [pixel_values]
            hidden = self.stem(torch.cat(views).to(self.dtype))
        return self.classifier(self.layers(hidden).mean(dim=(2, 3, 4)).float())


def fold_batchnorm(network: nn.Module) -> None:
    """Multiply each BatchNorm's scale into the convolution before it, in place: a pass over every map less."""
    for module in [network.gloresnet.stem, *(block for layer in network.gloresnet.layers for block in layer)]:
        for number in (1, 2, 3):
            if hasattr(module, f"bn{number}"):
                folded = fuse_conv_bn_eval(getattr(module, f"conv{number}"), getattr(module, f"bn{number}"))
                setattr(module, f"conv{number}", folded)
                setattr(module, f"bn{number}", nn.Identity())
        if isinstance(getattr(module, "downsample", None), nn.Sequential):
            module.downsample = fuse_conv_bn_eval(*module.downsample)


class MirroredStem(nn.Module):
    """A stem of stride 2 over one channel: a volume and its mirror image in little more than the work of one.

    On a lattice with an even number of voxels from left to right, the kernel of radius p meets the voxels 2t - p to
    2t + p of the volume, and 2t + 1 - p to 2t + 1 + p of its mirror image: one window of 2p + 2 voxels, read from both
    ends. With a, b two voxels at equal distance from the window's middle, and u, v their weights,

        u a + v b = (u + v)/2 (a + b) + (u - v)/2 (a - b),    v a + u b = (u + v)/2 (a + b) - (u - v)/2 (a - b):

    the views are the sum and the difference of two convolutions, over p + 1 sums and p + 1 differences of planes. Pairs
    of voxels along S become channels, as CPUs are slow at convolutions of few channels. The maximum is taken before
    bias and ReLU, which do not move it.

    Args:
        stem: with its BatchNorm folded.
    """

    PLANES = 8  # of the first map at a time, which fit a CPU's cache

    def __init__(self, stem: nn.Module):
        super().__init__()
        kernel = stem.conv1.weight.detach()[:, 0]
        self.pooled = not isinstance(stem.maxpool, nn.Identity)
        self.radius = kernel.shape[-1] // 2
        self.half = self.radius + 1
        window = F.pad(kernel, (0, 0, 0, 0, 0, 1))
        left, right = window[:, : self.half].flip(1), window[:, self.half :]
        self.even, self.odd = (self._as_channels((right + sign * left) / 2) for sign in (1, -1))
        self.bias = nn.Parameter(stem.conv1.bias.detach(), requires_grad=False)

    def _as_channels(self, kernel: Tensor) -> nn.Parameter:
        """(C, half, edge, edge) -> (C, 2 half, edge, half): a convolution over cells of two voxels along S."""
        front = self.radius % 2  # where the zero goes, so that the kernel begins on a cell's first voxel
        cells = F.pad(kernel, (front, 1 - front)).unflatten(-1, (self.half, 2))
        weight = cells.permute(0, 4, 1, 2, 3).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        return nn.Parameter(weight, requires_grad=False)

    def forward(self, volumes: Tensor, mirrored: bool) -> Tensor:
        """(B, 1, R, A, S) -> the stem's maps of the volumes, then, if `mirrored`, of their mirror images."""
        if mirrored and volumes.shape[2] % 2:  # both views read the same voxels, not those between
            return self(torch.cat([volumes, volumes.flip(LEFT_RIGHT_AXIS)]), False)
        before = [self.radius, self.radius, self.radius + self.radius % 2]
        lengths = [(length + 1) // 2 for length in volumes.shape[2:]]
        ends = []
        for length, n, front in zip(volumes.shape[2:], lengths, before, strict=True):
            ends = [front, 2 * (n + self.radius) - length - front, *ends]
        padded = F.pad(volumes[:, 0], ends).unflatten(-1, (-1, 2))  # (B, R, A, cells, 2)

        views = [[], []] if mirrored else [[]]
        for start in range(0, lengths[0], self.PLANES):
            stop = min(start + self.PLANES, lengths[0])
            even, odd = self._convolved(padded, start, stop)
            maps = [even + odd, even.sub_(odd)] if mirrored else [even.add_(odd)]
            for planes, view in zip(views, maps, strict=True):
                view = F.max_pool2d(view, 3, 2, 1) if self.pooled else view
                planes.append(view.permute(0, 2, 3, 1).unflatten(0, (-1, stop - start)))  # (B, r, a, s, C)
        views = [torch.cat(planes, dim=1) for planes in views]
        hidden = torch.cat([views[0], *(view.flip(1) for view in views[1:])])
        hidden = F.relu((_pool_planes(hidden) if self.pooled else hidden) + self.bias)
        return hidden.permute(0, 4, 1, 2, 3)

    def _convolved(self, padded: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Two convolutions, over sums and over differences, for planes `start` to `stop` of the map."""
        planes = 2 * (stop - start) - 1
        left = [2 * start + self.radius - step for step in range(self.half)]
        right = [2 * start + self.half + step for step in range(self.half)]
        left, right = (
            torch.stack([padded[:, first : first + planes : 2] for first in side], dim=-1) for side in (left, right)
        )
        # (B r, 2 half, a, s), the channels last in memory
        inputs = [each.flatten(0, 1).flatten(-2).permute(0, 3, 1, 2) for each in (right + left, right - left)]
        return tuple(
            F.conv2d(each.to(weight.dtype), weight, stride=(2, 1))
            for each, weight in zip(inputs, (self.even, self.odd), strict=True)
        )


def _pool_planes(hidden: Tensor) -> Tensor:
    """The maximum of every second plane and its neighbours, (B, r, ...) -> (B, (r + 1) // 2, ...)."""
    number = (hidden.shape[1] + 1) // 2
    border = torch.full_like(hidden[:, :1], -torch.inf)
    hidden = torch.cat([border, hidden, border], dim=1)
    planes = [hidden[:, first : first + 2 * number - 1 : 2] for first in range(3)]
    return planes[0].maximum(planes[1]).maximum(planes[2])

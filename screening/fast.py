"""A model made fast for screening: the same answers from fewer and cheaper operations, one small function a trick.

`prepare` applies them. Each takes the model it is given apart, so they are applied to a copy that can only answer:
training and maps of where a model looked keep the plain model.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
    for network in getattr(fast, "members", [fast]):  # of an ensemble, or the model itself
        fold_batchnorm(network)
        if dtype == torch.bfloat16:
            if network.device.type == "cpu":  # in float32 it gains nothing
                regroup_stem(network)
            network.gloresnet.to(dtype)
            network.classifier.register_forward_pre_hook(_to_float32)  # the head costs nothing
    return fast.to(memory_format=torch.channels_last_3d)


def _to_float32(_head: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].float(),)


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


def regroup_stem(network: nn.Module) -> None:
    """Compute a stem of stride 2 by `SpaceToDepthConv3d`, in place; another stem is left as it is."""
    conv = network.gloresnet.stem.conv1
    if conv.stride == (2, 2, 2):
        network.gloresnet.stem.conv1 = SpaceToDepthConv3d(conv)


class SpaceToDepthConv3d(nn.Module):
    """A convolution of stride 2 as one of stride 1 over the eight voxels of each 2^3 cell as channels.

    The same sums, with zeros added where the kernel's or the lattice's edge is odd. A CPU's matrix units need many
    input channels: on the one-channel stem of 7^3 they stand nearly idle, and it takes most of a pass in low precision.
    """

    def __init__(self, conv: nn.Conv3d):
        super().__init__()
        out_channels, self.channels, edge = conv.weight.shape[:3]
        front = (edge // 2) % 2  # where the zero goes, so that the kernel begins on a cell's first voxel
        weight = F.pad(conv.weight, (front, 1 - front) * 3)
        half = (edge + 1) // 2
        weight = weight.reshape(out_channels, self.channels, half, 2, half, 2, half, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
        self.weight = nn.Parameter(weight.reshape(out_channels, self.channels * 8, half, half, half))
        self.bias = conv.bias
        before = (edge // 2 + front) // 2
        self.padding = (before, half - 1 - before) * 3

    def forward(self, hidden: Tensor) -> Tensor:
        x, y, z = (-(-int(length) // 2) for length in hidden.shape[2:])
        hidden = F.pad(hidden, [end for n in reversed(hidden.shape[2:]) for end in (0, int(n) % 2)])
        hidden = hidden.reshape(-1, self.channels, x, 2, y, 2, z, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
        hidden = hidden.reshape(-1, self.channels * 8, x, y, z)
        return F.conv3d(F.pad(hidden, self.padding), self.weight, self.bias)

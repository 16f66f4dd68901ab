"""A faster copy of a model for screening: the same answers from fewer and cheaper operations.

`prepare` folds BatchNorm, stores channels last in memory, and computes the stem of both views together. It uses
bfloat16 if that is faster and accurate enough, and otherwise convolutions with fewer multiplications. The copy can only
predict: training and heat maps need the original model.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from architectures.networks import member_temperatures
from modeling_gloresnet.inference_gloresnet import TENSOR_LEFT_RIGHT_AXIS, ScreeningInference, blank_missing

from .convolutions import MirroredStem, WinogradConv3d
from .errors import ModelError
from .model import ScreeningModel
from .pytorch import PyTorchModel

TOLERANCE = 5e-3  # largest accepted difference in probability between bfloat16 and float32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prepare(model: ScreeningModel, dtype: str = "auto") -> ScreeningModel:
    """A faster copy of a model with the same answers. Converted files and baselines are returned unchanged.

    Args:
        model: as `load_model` returns it. It is not changed.
        dtype: `"float32"` (probabilities within 1e-6 of the plain model), `"bfloat16"`, or `"auto"`: bfloat16 if the
            processor computes in it natively and `bfloat16_error` is within TOLERANCE, otherwise float32.

    Raises:
        ModelError: bfloat16 was asked of a baseline.
    """
    if not isinstance(model, PyTorchModel):  # a converted file is fast already
        return model
    if not model.networks:
        if dtype == "bfloat16":
            raise ModelError(f"a {type(model.module).__name__} answers in float32 only: leave --dtype out")
        return model
    if dtype != "auto":
        return _prepare(model.module, DTYPES[dtype])
    if has_native_bfloat16(model.device):
        rounded = _prepare(model.module, torch.bfloat16)
        if bfloat16_error(model.module, rounded.module) <= TOLERANCE:
            return rounded
    return _prepare(model.module, torch.float32)


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the processor has bfloat16 matrix units. Without them, bfloat16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


@torch.inference_mode()
def bfloat16_error(model: Any, rounded: Any) -> float:
    """How far bfloat16 can move a probability, measured on two seeded random volumes.

    It is a quarter of the largest difference in log-odds, because a probability changes by at most a quarter of the
    change in its log-odds; twice that for a model with a local stream, whose answer changes by up to twice as much as
    p_global. We compare log-odds, because saturated probabilities would hide an error.

    Args:
        model: the PyTorch model in float32.
        rounded: the same model prepared in bfloat16.

    Returns:
        The error, or infinity if it is not a number.
    """
    edge = min(model.config.image_size, 64)  # the network takes any size, and 64 is an eighth of the work of 128
    volumes = smooth_noise(2, model.config.num_channels, edge).to(model.device)
    exact, found = (m(volumes).logits.float() / m.config.temperature for m in (model, rounded))
    exact, found = (logits[:, 1] - logits[:, 0] for logits in (exact, found))
    error = ((exact - found).abs().max() / (2 if getattr(model.config, "local_stream", False) else 4)).item()
    return error if error == error else float("inf")


def smooth_noise(number: int, channels: int, edge: int, seed: int = 0) -> Tensor:
    """Standardised random volumes (number, channels, edge, edge, edge): noise at four scales, added."""
    generator = torch.Generator().manual_seed(seed)
    volumes = torch.zeros(number, channels, edge, edge, edge)
    for grain in (3, 7, 16, edge):
        noise = torch.randn(number, channels, grain, grain, grain, generator=generator)
        volumes += F.interpolate(noise, size=(edge,) * 3, mode="trilinear")
    volumes -= volumes.mean(dim=(1, 2, 3, 4), keepdim=True)
    return volumes / volumes.std(dim=(1, 2, 3, 4), keepdim=True)


@torch.no_grad()
def _prepare(module: Any, dtype: torch.dtype) -> PyTorchModel:
    fast = copy.deepcopy(module).eval().requires_grad_(False)
    if member_temperatures(fast.config):  # an ensemble averages the answers of its members
        fast.members = nn.ModuleList(PreparedNetwork(member, dtype) for member in fast.members)
    else:
        fast = PreparedNetwork(fast, dtype)
    return PyTorchModel(fast, networks=())


class PreparedNetwork(ScreeningInference, nn.Module):
    """The layers of a network, rearranged for screening. It can only predict.

    Args:
        network: a GloResNetForImageClassification, of this project's class or from a model folder's code. Its layers
            are changed in place.
        dtype: the precision of all layers except the head, the flags and the local stream, which stay in float32.
    """

    def __init__(self, network: Any, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config, self.num_labels = network.config, network.num_labels
        fold_batchnorm(network)
        self.stem = network.gloresnet.stem
        if network.device.type == "cpu" and self.config.num_channels == 1 and self.config.stem_stride == 2:
            self.stem = MirroredStem(self.stem)
        self.layers = nn.Sequential(*network.gloresnet.layers)
        self.layers.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # missing from the stub
        self.classifier = network.classifier
        self.presence = getattr(network, "presence", None)  # only of a network for several modalities
        if hasattr(network, "local"):  # it stays in float32, and costs little
            self.local = network.local
        self.stem.to(dtype)
        self.layers.to(dtype)
        if network.device.type == "cpu" and dtype == torch.float32:
            replace_convolutions(self.layers, self.config)

    @property
    def device(self) -> torch.device:
        return self.classifier.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.layers.parameters()).dtype

    def forward(self, pixel_values: Tensor, presence: Tensor | None = None) -> ImageClassifierOutputWithNoAttention:
        return ImageClassifierOutputWithNoAttention(logits=self.view_logits(pixel_values, False, presence))

    def view_logits(self, pixel_values: Tensor, mirrored: bool, presence: Tensor | None = None) -> Tensor:
        pixel_values = blank_missing(pixel_values, presence)
        if isinstance(self.stem, MirroredStem):
            hidden = self.stem(pixel_values, mirrored)
        else:
            views = [pixel_values, pixel_values.flip(TENSOR_LEFT_RIGHT_AXIS)] if mirrored else [pixel_values]
            hidden = self.stem(torch.cat(views).to(self.dtype))
        logits = self.classifier(self.layers(hidden).mean(dim=(2, 3, 4)).float())
        if presence is None or self.presence is None:
            return logits
        return logits + self.presence(presence).repeat(1 + mirrored, 1)


def replace_convolutions(layers: Iterable[Any], config: Any) -> None:
    """Replace convolutions in place by WinogradConv3d where that is faster at the model's image size."""
    edge = math.ceil(config.image_size / config.stem_stride)
    edge = math.ceil(edge / 2) if config.stem_pooling else edge
    for layer, stride in zip(layers, config.strides, strict=True):
        edge = math.ceil(edge / stride)
        for block in layer:
            for name, conv in list(block.named_children()):
                if WinogradConv3d.replaces(conv, edge):
                    setattr(block, name, WinogradConv3d(conv))


def fold_batchnorm(network: Any) -> None:
    """Fold each BatchNorm into the convolution before it, in place. This saves one pass over every feature map."""
    for module in [network.gloresnet.stem, *(block for layer in network.gloresnet.layers for block in layer)]:
        for number in (1, 2, 3):
            if hasattr(module, f"bn{number}"):
                folded = fuse_conv_bn_eval(getattr(module, f"conv{number}"), getattr(module, f"bn{number}"))
                setattr(module, f"conv{number}", folded)
                setattr(module, f"bn{number}", nn.Identity())
        if isinstance(getattr(module, "downsample", None), nn.Sequential):
            module.downsample = fuse_conv_bn_eval(*module.downsample)

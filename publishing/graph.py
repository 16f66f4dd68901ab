"""A model as one graph from standardised volumes to probabilities, for ONNX Runtime and OpenVINO."""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from screening import fast
from screening.exported import (
    LOCAL_INPUTS,
    LOCAL_OUTPUTS,
    METADATA,
    PRESENCE,
    SHARES,
    digest,
    names_of_local_inputs,
)
from screening.model import INJURY

NAMES = ["views", "probabilities"]
DYNAMIC = {
    "pixel_values": {0: "batch"},
    PRESENCE: {0: "batch"},
    "local_patches": {0: "batch", 1: "candidates"},
    "local_valid": {0: "batch", 1: "candidates"},
    "local_shares": {0: "batch"},
    "views": {1: "batch"},
    "probabilities": {0: "batch"},
    "global_views": {1: "batch"},
    "p_local": {0: "batch"},
    "p_shares": {0: "batch"},
    "candidates": {0: "batch", 1: "candidates"},
}
Block = tuple[int, int, int]
BLOCKS: dict[str, Block] = {"float32": (1, 1, 1), "bfloat16": (2, 2, 2), "int8": (2, 2, 1)}  # for `SpaceToDepthConv3d`
OPSET = 17  # the oldest with all operators we use; every runtime since 2022 supports it


class ScreeningGraph(nn.Module):
    """Maps (B, C, S, S, S) to views (V, B, 2) and their mean (B, 2), as `predict_views` and `predict_proba` do.

    For several modalities, `presence` (B, C) bool is its second input. With a local stream, it also takes
    `local_patches`, `local_valid` and perhaps `local_shares`. It then also returns `global_views` (V, B), the
    probability of injury from the global stream, and `p_local`, `p_shares` and `candidates` as `predict_streams` does.
    """

    def __init__(self, model: GloResNetForImageClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.inputs[1:], others, strict=False))  # all, or volumes alone
        presence = given.pop(PRESENCE, None)
        if not given:
            views = self.model.predict_views(pixel_values, presence=presence)
            return views, views.mean(dim=0)
        views, own, judged = self.model.predict_both(pixel_values, None, *given.values(), presence=presence)
        assert judged is not None  # the model has a local stream
        return views, views.mean(dim=0), own[..., INJURY], judged.p_local, judged.p_shares, judged.candidates

    @property
    def inputs(self) -> list[str]:
        """The names of its inputs."""
        config = self.model.config
        return ["pixel_values", *([PRESENCE] if config.num_channels > 1 else []), *names_of_local_inputs(config)]

    @property
    def outputs(self) -> list[str]:
        """The names of its outputs."""
        return NAMES + (LOCAL_OUTPUTS if self.model.config.local_stream else [])

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace it with."""
        config = self.model.config
        tensors = {
            "pixel_values": torch.zeros(1, config.num_channels, *[config.image_size] * 3),
            PRESENCE: torch.ones(1, config.num_channels, dtype=torch.bool),
            "local_patches": torch.zeros(1, 2, *LOCAL_INPUTS["local_patches"]),
            "local_valid": torch.ones(1, 2, dtype=torch.bool),
            SHARES: torch.zeros(1, *LOCAL_INPUTS[SHARES]),
        }
        return tuple(tensors[name] for name in self.inputs)


@torch.no_grad()
def for_inference(model: GloResNetForImageClassification, block: Block = (1, 1, 1)) -> ScreeningGraph:
    """A copy of the model on the CPU in float32, with each BatchNorm folded into the convolution before it.

    Args:
        model: not changed. It may also be an instance of the class in the code of a model folder.
        block: also replace the first convolution, if its stride is 2, by a `SpaceToDepthConv3d` with this block.
    """
    copy = GloResNetForImageClassification(GloResNetConfig.from_dict(model.config.to_dict())).eval()
    copy.load_state_dict({name: tensor.cpu().float() for name, tensor in model.state_dict().items()})
    fast.fold_batchnorm(copy)
    stem = copy.gloresnet.stem
    if block != (1, 1, 1) and stem.conv1.stride == (2, 2, 2):
        stem.conv1 = SpaceToDepthConv3d(stem.conv1, block)
    return ScreeningGraph(copy)


class SpaceToDepthConv3d(nn.Module):
    """A convolution of stride 2, computed over blocks of voxels: each voxel of a block becomes a channel.

    The sums are the same; zeros are added where an edge of the kernel or of the volume is odd. CPUs multiply 8-bit
    integers by fours of channels, and their matrix units need many of them. A 7^3 convolution with one input channel
    hardly uses them, and takes most of the time of a forward pass in low precision.

    Args:
        conv: a convolution of stride 2.
        block: edges of a block along R, A, S, each 1 or 2. Along an axis with 2, the stride becomes 1.
    """

    def __init__(self, conv: nn.Conv3d, block: Block):
        super().__init__()
        out_channels, self.channels, edge = conv.weight.shape[:3]
        self.block = block
        self.stride = tuple(2 // side for side in block)
        front = (edge // 2) % 2  # zeros in front, so that the kernel starts on the first voxel of a block
        half = (edge + 1) // 2
        before = (edge // 2 + front) // 2
        weight = _padded(conv.weight, [(front, 1 - front) if side == 2 else (0, 0) for side in block])
        self.weight = nn.Parameter(self._regrouped(weight))
        self.bias = conv.bias
        self.ends = [(before, half - 1 - before) if side == 2 else (edge // 2, edge // 2) for side in block]

    def forward(self, hidden: Tensor) -> Tensor:
        whole = [(0, -int(length) % side) for length, side in zip(hidden.shape[2:], self.block, strict=True)]
        blocks = self._regrouped(_padded(hidden, whole))
        return F.conv3d(_padded(blocks, self.ends), self.weight, self.bias, self.stride)

    def _regrouped(self, values: Tensor) -> Tensor:
        """(N, C, R, A, S) -> (N, C times the voxels of a block, blocks along R, A, S)."""
        r, a, s = self.block
        x, y, z = (int(length) // side for length, side in zip(values.shape[2:], self.block, strict=True))
        blocks = values.reshape(-1, self.channels, x, r, y, a, z, s).permute(0, 1, 3, 5, 7, 2, 4, 6)
        return blocks.reshape(-1, self.channels * r * a * s, x, y, z)


def _padded(values: Tensor, ends: list[tuple[int, int]]) -> Tensor:
    """The values between zeros: how many before and after, along R, A, S."""
    return F.pad(values, [zeros for end in reversed(ends) for zeros in end])


def write_onnx(graph: ScreeningGraph, file: Path, metadata: dict | None = None) -> None:
    """Write the graph as ONNX with a dynamic batch size, and `metadata` as JSON in its properties."""
    import onnx

    with _quiet():
        torch.onnx.export(
            graph,
            graph.example(),
            file,
            dynamo=False,  # the newer exporter needs one more package and has no advantage for this network
            opset_version=OPSET,
            input_names=graph.inputs,
            output_names=graph.outputs,
            dynamic_axes={name: DYNAMIC[name] for name in (*graph.inputs, *graph.outputs)},
        )
    if metadata is not None:
        network = onnx.load(file)
        onnx.helper.set_model_props(network, {METADATA: json.dumps(metadata)})
        onnx.checker.check_model(network)
        onnx.save(network, file)


def to_openvino(graph: ScreeningGraph):
    """The graph as an OpenVINO model with a dynamic batch size."""
    import openvino

    example = graph.example()
    shapes = [
        (name, [-1 if axis in DYNAMIC[name] else int(length) for axis, length in enumerate(tensor.shape)])
        for name, tensor in zip(graph.inputs, example, strict=True)
    ]
    with _quiet():
        network = openvino.convert_model(graph, example_input=example, input=[shape for _, shape in shapes])
    for place, name in [
        *zip(network.inputs, graph.inputs, strict=True),
        *zip(network.outputs, graph.outputs, strict=True),
    ]:
        place.get_tensor().set_names({name})
    return network


def to_openvino_int8(graph: ScreeningGraph, volumes: Iterable[Tensor], folder: Path):
    """The graph as an OpenVINO model whose convolutions compute in 8-bit integers.

    Static quantisation: the range of each activation is its minimum and maximum over `volumes`; weights have one scale
    per channel. Head, pooling, softmax and the local stream stay in float32.

    Args:
        graph: with BatchNorm folded.
        volumes: standardised scans like those to be screened, each (B, 1, S, S, S).
        folder: for temporary files.
    """
    import onnx
    import openvino
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Volumes(CalibrationDataReader):
        def __init__(self):
            self.remaining = iter(volumes)

        def get_next(self):
            volume = next(self.remaining, None)
            if volume is None:
                return None
            local = (tensor.repeat(len(volume), *[1] * (tensor.ndim - 1)) for tensor in graph.example()[1:])
            return {name: rows.numpy() for name, rows in zip(graph.inputs, (volume, *local), strict=True)}

    write_onnx(graph, folder / "float.onnx")
    exact = []  # the nodes of the local stream, and those that fuse both
    if graph.model.config.local_stream:
        nodes = onnx.load(folder / "float.onnx").graph.node
        exact = [node.name for node in nodes if not node.name.startswith("/model/")]
    with _quiet():
        quantize_static(
            folder / "float.onnx",
            folder / "int8.onnx",
            Volumes(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "MaxPool"],
            nodes_to_exclude=exact,
            per_channel=True,
            reduce_range=True,  # 7-bit weights: CPUs without VNNI add two products in 16 bits, which could overflow
            # signed, symmetric activations: a third faster here than unsigned ones, and equally accurate
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True},
        )
        return openvino.convert_model(folder / "int8.onnx")


def write_openvino(network, file: Path, metadata: dict) -> None:
    """Write the `.xml` file and its `.bin`. The `.xml` holds `metadata` and the digest of the `.bin` as JSON."""
    import openvino

    openvino.save_model(network, file, compress_to_fp16=False)  # first for the digest ...
    metadata = metadata | {"weights_sha256": digest(file.with_suffix(".bin"))}
    network.set_rt_info(json.dumps(metadata), [METADATA])
    openvino.save_model(network, file, compress_to_fp16=False)  # ... then with it; the weights are the same


@contextlib.contextmanager
def _quiet():
    """Silence warnings: tracing warns about every shape check, and the quantiser recommends steps already done."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)

"""A converted model: one file for ONNX Runtime or OpenVINO that answers as the PyTorch model does.

`python -m publishing.convert` writes these files, with what else screening needs inside them as JSON under the name
`gloresnet`: `format`, `dtype`, the model's `config`, the `processor`'s settings and, for OpenVINO, the digest of the
weights beside.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from machine.programs import one_line
from modeling_gloresnet import GloResNetConfig
from modeling_gloresnet.inference_gloresnet import LEFT_RIGHT_AXIS
from preprocessing import GloResNetImageProcessor

from .errors import ModelError

METADATA = "gloresnet"  # the name of the JSON text in the file
FORMAT = 1  # raised when an older reader would misread a file
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


def is_converted_file(name: str) -> bool:
    """Whether a model's name means a converted file; a folder may have any name."""
    return name.endswith(tuple(SUFFIXES.values())) and not os.path.isdir(name)


class ExportedModel:
    """A converted model behind the methods of GloResNetForImageClassification that screening calls.

    Attributes:
        config: the model's GloResNetConfig: labels, temperature, threshold, provenance, image size.
        dtype: what the network computes in: `"float32"`, `"bfloat16"` or `"int8"`.
        device: the CPU.
    """

    device = torch.device("cpu")
    networks = ()

    def __init__(self, config: GloResNetConfig, dtype: str, run: Callable[[np.ndarray], np.ndarray]):
        self.config, self.dtype, self._run = config, dtype, run

    def predict_members(self, pixel_values: Tensor, test_time_augmentation: bool | None = None) -> Tensor:
        """(1, V, B, num_labels), see `ScreeningModel`."""
        return self.predict_views(pixel_values, test_time_augmentation)[None]

    def predict_views(self, pixel_values: Tensor, test_time_augmentation: bool | None = None) -> Tensor:
        """Class probabilities of each view of the volumes: as they are, then mirrored left to right.

        Args:
            pixel_values: (B, 1, R, A, S) of the size in the configuration.
            test_time_augmentation: `False` leaves the mirrored view out, which saves no time where the file computes
                both; `None` follows the configuration.

        Returns:
            (V, B, num_labels) float32, V = 2 or 1.

        Raises:
            ValueError: volumes of another shape.
        """
        expected = (self.config.num_channels, *[self.config.image_size] * 3)
        if tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"pixel_values must be (batch, {', '.join(map(str, expected))}), not {tuple(pixel_values.shape)}; "
                "let the image processor make them."
            )
        views = self._answer(pixel_values)
        if test_time_augmentation is None:
            return views
        if test_time_augmentation and len(views) == 1:
            return torch.cat([views, self._answer(pixel_values.flip(LEFT_RIGHT_AXIS))])
        return views if test_time_augmentation else views[:1]

    def predict_proba(self, pixel_values: Tensor, test_time_augmentation: bool | None = None) -> Tensor:
        """The mean over the views, (B, num_labels) float32; rows sum to 1, column 1 is the probability of injury."""
        return self.predict_views(pixel_values, test_time_augmentation).mean(dim=0)

    def _answer(self, pixel_values: Tensor) -> Tensor:
        return torch.from_numpy(self._run(np.ascontiguousarray(pixel_values.float().cpu().numpy())))


def load_exported(path: str | Path) -> tuple[ExportedModel, GloResNetImageProcessor]:
    """The model in a converted file and its processor.

    Raises:
        ModelError: no such file, damaged, not of this project, of another version of it, or the package that runs it
            is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"the model file {path} does not exist: check the path")
    run, text = _open_onnx(path) if path.suffix == SUFFIXES["onnx"] else _open_openvino(path)
    if text is None:
        raise ModelError(f"{path} is no converted GloResNet: make one with python -m publishing.convert")
    try:
        metadata = json.loads(text)
        if metadata["format"] != FORMAT:
            raise ModelError(
                f"{path} was converted by another version of this project (its format is {metadata['format']}, "
                f"this version reads {FORMAT}): convert the model folder again"
            )
        if path.suffix == SUFFIXES["openvino"] and metadata["weights_sha256"] != digest(path.with_suffix(".bin")):
            raise ModelError(
                f"{path.with_suffix('.bin')} does not hold the weights of {path.name}: keep the two files of one "
                "conversion together, or convert the model folder again"
            )
        config = GloResNetConfig.from_dict(metadata["config"])
        return ExportedModel(config, metadata["dtype"], run), GloResNetImageProcessor(**metadata["processor"])
    except (ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(f"{path} holds settings that make no sense ({one_line(error)}): convert it again") from error


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_package(name: str, purpose: str):
    """The optional package `name`. Raises ModelError with the command that installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ModelError(
            f"{purpose} needs the package {name} ({one_line(error)}): run pip install -r requirements-export.txt"
        ) from error


def cpu_capabilities() -> list[str]:
    """The precisions that OpenVINO finds in this CPU."""
    import openvino

    return openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _open_onnx(path: Path) -> tuple[Callable, str | None]:
    onnxruntime = require_package("onnxruntime", str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # its own default overlooks a container's limit
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no class
        raise _unusable(path, error) from error
    run = lambda pixel_values: session.run(["views"], {"pixel_values": pixel_values})[0]  # noqa: E731
    return run, session.get_modelmeta().custom_metadata_map.get(METADATA)


def _open_openvino(path: Path) -> tuple[Callable, str | None]:
    openvino = require_package("openvino", str(path))
    if not path.with_suffix(".bin").is_file():
        raise ModelError(f"{path} has no {path.with_suffix('.bin').name} beside it: copy both files of the conversion")
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # weights that are replaced while in use would end the process
    try:
        network = core.read_model(path)
        text = network.get_rt_info([METADATA]).astype(str) if network.has_rt_info([METADATA]) else None
        rounded = bool(text) and json.loads(text).get("dtype") == "bfloat16" and "BF16" in cpu_capabilities()
        hint = "bf16" if rounded else "f32"  # left to itself it rounds wherever the CPU can
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = core.compile_model(network, "CPU", options)
    except Exception as error:
        raise _unusable(path, error) from error
    request, lock = compiled.create_infer_request(), threading.Lock()

    def run(pixel_values: np.ndarray) -> np.ndarray:
        with lock:  # one request answers one call at a time
            return request.infer({"pixel_values": pixel_values}, share_inputs=True)["views"]

    return run, text


def _unusable(path: Path, error: Exception) -> ModelError:
    reason = re.sub(r"Exception from \S+ ", "", one_line(error)).rstrip(".")[:300]  # OpenVINO's own source lines
    return ModelError(f"{path} cannot be used ({reason}): copy it again, or convert the model folder again")

"""A converted model: one file for ONNX Runtime or OpenVINO with the same answers as the PyTorch model.

`python -m publishing.convert` writes these files. Under the name `gloresnet` they also hold, as JSON, what screening
needs: `format`, `dtype`, the model's `config`, the `processor`'s settings and, for OpenVINO, the digest of the `.bin`
file with the weights.

Importing this module does not import torch or transformers.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from machine.cores import computing_threads
from machine.programs import one_line
from modeling_gloresnet.screening_gloresnet import GLOBAL_ONLY
from preprocessing import ScanPreparation

from .errors import ModelError
from .formats import DTYPES, SUFFIXES
from .model import has_local_stream
from .settings import ConvertedConfig, check_settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

METADATA = "gloresnet"  # the name of the JSON text in the file
FORMAT = 1  # increased when older readers would misread a file
FORMAT_WITH_FRAMING = 2  # of a model that frames the head
FORMAT_WITH_BIAS_CORRECTION = 3  # of a model that corrects the bias field, and may frame the head
FORMAT_WITH_LOCAL_STREAM = 4  # of a model with a local stream, and any of the above
FORMAT_WITH_MODALITIES = 5  # of a model for several modalities, and any of the above
PRESENCE = "presence"  # a file has this input only if the model takes several modalities
LOCAL_INPUTS = {"local_patches": (2, 11, 11, 11), "local_valid": (), "local_shares": (9,)}  # shapes of one of them
SHARES = "local_shares"  # a file has this input only if the model has weights for the shares
LOCAL_OUTPUTS = ["global_views", "p_local", "p_shares", "candidates"]


class ExportedModel:
    """A converted model as a `ScreeningModel`. It computes on the CPU.

    Args:
        config: labels, temperature, threshold, provenance and image size.
        dtype: the precision of the network: `"float32"`, `"bfloat16"` or `"int8"`.
        run: the inputs by name -> the outputs by name, see `publishing.graph.ScreeningGraph`.
    """

    networks: tuple[nn.Module, ...] = ()

    def __init__(self, config: ConvertedConfig, dtype: str, run: Callable[[dict[str, np.ndarray]], dict]):
        self.config, self.dtype, self._run = config, dtype, run

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device("cpu")

    def predict_members(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor
    ) -> Tensor:
        """(1, V, B, num_labels), see `ScreeningModel`."""
        return self.predict_views(pixel_values, test_time_augmentation, **others)[None]

    def predict_views(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor
    ) -> Tensor:
        """(V, B, num_labels), see `ScreeningModel` and `predict_streams`."""
        return self.predict_streams(pixel_values, test_time_augmentation, **others)["members"][0]

    def predict_streams(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor
    ) -> dict[str, Tensor]:
        """`answer` in tensors; see `ScreeningModel`."""
        import torch

        given = {name: rows for name, rows in (("pixel_values", pixel_values), *others.items()) if rows is not None}
        said = self.answer({name: rows.cpu().numpy() for name, rows in given.items()}, test_time_augmentation)
        return {name: torch.from_numpy(rows) for name, rows in said.items()}

    def answer(
        self, inputs: dict[str, np.ndarray], test_time_augmentation: bool | None = None
    ) -> dict[str, np.ndarray]:
        """See `ScreeningModel`. A file without a local stream gives `members` only.

        A file that computes both views computes them even if `test_time_augmentation` is `False`.

        Raises:
            ValueError: volumes of another shape than (B, C, R, A, S) with the image size of the configuration.
        """
        pixel_values = inputs["pixel_values"].astype(np.float32, copy=False)
        expected = (self.config.num_channels, *[self.config.image_size] * 3)
        if pixel_values.shape[1:] != expected:
            raise ValueError(
                f"pixel_values must be (batch, {', '.join(map(str, expected))}), not {pixel_values.shape}; "
                "let the image processor make them."
            )
        others = self._others(pixel_values.shape[:2], inputs)
        said = self._run_graph(pixel_values, others)
        of_views = [name for name in ("views", "global_views") if name in said]
        without_local = "global_views" in said and "local_patches" not in inputs
        if test_time_augmentation and len(said["views"]) == 1:
            mirrored = self._run_graph(pixel_values[:, :, ::-1], others)  # left and right, of (batch, channel, R, A, S)
            said |= {name: np.concatenate([said[name], mirrored[name]]) for name in of_views}
        elif test_time_augmentation is False:
            said |= {name: said[name][:1] for name in of_views}
        if without_local:  # the answers are those of the global stream, see `GLOBAL_ONLY`
            said["views"] = np.stack([1 - said["global_views"], said["global_views"]], axis=-1)
        said["members"] = said.pop("views")[None]
        if "global_views" in said:
            said["p_global"] = said.pop("global_views").mean(axis=0)
        return said

    def predict_proba(
        self, pixel_values: Tensor, test_time_augmentation: bool | None = None, **others: Tensor
    ) -> Tensor:
        """(B, num_labels), see `ScreeningModel`."""
        return self.predict_views(pixel_values, test_time_augmentation, **others).mean(dim=0)

    def _run_graph(self, pixel_values: np.ndarray, others: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {"pixel_values": pixel_values, **others}
        outputs = self._run({name: np.ascontiguousarray(rows) for name, rows in given.items()})
        return {name: rows for name, rows in outputs.items() if name != "probabilities"}

    def _others(self, shape: tuple[int, ...], given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of the graph besides `pixel_values`, whose first two lengths are `shape`."""
        found = {}
        if self.config.num_channels > 1:  # without the flags, all modalities count as present
            found[PRESENCE] = given[PRESENCE].astype(bool, copy=False) if PRESENCE in given else np.ones(shape, bool)
        return found | (self._local(shape[0], given) if has_local_stream(self.config) else {})

    def _local(self, count: int, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of the local stream. Without any, it stays silent, with a warning."""
        patches, valid = given.get("local_patches"), given.get("local_valid")
        if patches is None:
            warnings.warn(GLOBAL_ONLY, UserWarning, stacklevel=5)
            patches = np.zeros((count, 1, *LOCAL_INPUTS["local_patches"]), np.float32)
            valid = np.zeros((count, 1), bool)
        if valid is None:
            raise ValueError(
                "local_patches came without local_valid: pass everything that the image processor returns."
            )
        shares = given.get(SHARES)
        if shares is None:
            shares = np.full((count, *LOCAL_INPUTS[SHARES]), np.nan)
        found = {"local_patches": patches.astype(np.float32, copy=False), "local_valid": valid}
        found[SHARES] = shares.astype(np.float32, copy=False)
        return {name: found[name] for name in names_of_local_inputs(self.config)}


def load_exported(path: str | Path) -> tuple[ExportedModel, ScanPreparation]:
    """Load the model in a converted file, and its processor.

    Raises:
        ModelError: the file is missing, damaged, not of this project or of another version of it, or the package that
            runs it is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"the model file {path} does not exist: check the path")
    run, shapes, text, weights = (_open_onnx if path.suffix == SUFFIXES["onnx"] else _open_openvino)(path)
    if text is None:
        raise ModelError(f"{path} is not a converted GloResNet: make one with python -m publishing.convert")

    try:
        metadata = json.loads(text)
        if metadata["format"] not in range(FORMAT, FORMAT_WITH_MODALITIES + 1):
            raise ModelError(
                f"{path} was converted by another version of this project (its format is {metadata['format']}, "
                f"this version reads {FORMAT} to {FORMAT_WITH_MODALITIES}): convert the model folder again"
            )
        if weights and metadata["weights_sha256"] != weights:
            raise ModelError(
                f"{path.with_suffix('.bin')} does not hold the weights of {path.name}: keep the two files of one "
                "conversion together, or convert the model folder again"
            )
        if metadata["dtype"] not in DTYPES[path.suffix]:
            raise ValueError(f"{metadata['dtype']!r} is not a precision of {path.suffix} files")
        config = ConvertedConfig(metadata["config"])
        processor = ScanPreparation(**metadata["processor"])
        check_settings(config, processor)
        _check_shapes(shapes, config)
        return ExportedModel(config, metadata["dtype"], run), processor
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} holds invalid settings ({one_line(error)}): convert it again") from error


def names_of_local_inputs(config: Any) -> list[str]:
    """The inputs of a converted file besides `pixel_values`."""
    if not config.local_stream:
        return []
    return [name for name in LOCAL_INPUTS if name != SHARES or config.local_share_weights is not None]


def _check_shapes(shapes: dict[str, list], config: ConvertedConfig) -> None:
    """Refuse a graph whose input or output is another than its settings say. Raises ValueError."""
    views = 2 if config.test_time_augmentation else 1
    expected = {
        "pixel_values": [None, config.num_channels, *[config.image_size] * 3],
        "views": [views, None, config.number_of_labels],
    }
    if config.num_channels > 1:
        expected[PRESENCE] = [None, config.num_channels]
    if config.local_stream:
        for name in names_of_local_inputs(config):
            expected[name] = [*([None] if name == SHARES else [None, None]), *LOCAL_INPUTS[name]]
        expected |= {"global_views": [views, None], "p_local": [None], "p_shares": [None], "candidates": [None, None]}
    for name, wanted in expected.items():
        found = shapes.get(name, [])
        known = [None if length is None else known for length, known in zip(wanted, found, strict=False)]
        if known != wanted or len(found) != len(wanted):
            raise ValueError(
                f"its settings say that {name} has shape {_shape(wanted)}, but in its graph it "
                + (f"has shape {_shape(found)}" if found else "does not exist")
            )


def _shape(lengths: list) -> str:
    return f"({', '.join(str(length) if isinstance(length, int) else 'batch' for length in lengths)})"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_package(name: str, purpose: str) -> ModuleType:
    """Import the optional package `name`.

    Raises:
        ModelError: it is not installed; the message gives the command that installs it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ModelError(
            f"{purpose} needs the package {name} ({one_line(error)}): run pip install -r requirements-export.txt"
        ) from error


def cpu_capabilities() -> list[str]:
    """The precisions that OpenVINO supports on this CPU."""
    import openvino

    return openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _open_onnx(path: Path) -> tuple[Callable, dict[str, list], str | None, str]:
    """The function that runs the graph, its shapes, its metadata, and an empty string: the weights are in the file."""
    onnxruntime = require_package("onnxruntime", str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = computing_threads()  # its own default ignores the CPU limit of a container
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base class
        raise _unusable(path, error) from error
    names = [node.name for node in session.get_outputs()]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, inputs), strict=True))

    shapes = {node.name: node.shape for node in [*session.get_inputs(), *session.get_outputs()]}
    return run, shapes, session.get_modelmeta().custom_metadata_map.get(METADATA), ""


def _open_openvino(path: Path) -> tuple[Callable, dict[str, list], str | None, str]:
    """As `_open_onnx`, and the digest of the file with the weights."""
    openvino = require_package("openvino", str(path))
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ModelError(f"{path} has no {weights.name} next to it: copy both files of the conversion")
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # replacing the weights while they are mapped would crash the process
    try:
        network = core.read_model(path)
        text = network.get_rt_info([METADATA]).astype(str) if network.has_rt_info([METADATA]) else None
        rounded = json.loads(text or "{}").get("dtype") == "bfloat16" and "BF16" in cpu_capabilities()
        hint = "bf16" if rounded else "f32"  # by default OpenVINO rounds on any CPU that has bfloat16
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": computing_threads()}
        with ThreadPoolExecutor(1) as pool:  # after reading: weights that were replaced meanwhile are refused
            hashed = pool.submit(digest, weights)
            compiled = core.compile_model(network, "CPU", options)
        weights_sha256 = hashed.result()
    except Exception as error:
        raise _unusable(path, error) from error
    request, lock = compiled.create_infer_request(), threading.Lock()

    names = [name for node in compiled.outputs for name in node.get_names()]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with lock:  # a request can serve only one call at a time
            results = request.infer(inputs, share_inputs=True)
            return {name: results[name] for name in names}

    shapes = {
        name: [length.get_length() if length.is_static else None for length in node.get_partial_shape()]
        for node in [*compiled.inputs, *compiled.outputs]
        for name in node.get_names()
    }
    return run, shapes, text, weights_sha256


def _unusable(path: Path, error: Exception) -> ModelError:
    reason = re.sub(r"Exception from \S+ ", "", one_line(error)).rstrip(".")[:300]  # without OpenVINO's source lines
    return ModelError(f"{path} cannot be used ({reason}): copy it again, or convert the model folder again")

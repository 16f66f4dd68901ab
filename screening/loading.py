"""Load a trained model from a folder (no network needed), the Hub, or a converted file.

Importing this module imports neither torch nor transformers; loading a folder does, once the folder has been found.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from architectures.networks import is_baseline, is_resnet
from machine.cores import available_cores
from machine.programs import one_line

from .errors import ModelError
from .exported import ExportedModel, load_exported
from .formats import is_converted_file
from .model import ScreeningModel
from .settings import check_settings

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

    from preprocessing import GloResNetImageProcessor, ScanPreparation

__all__ = ["ModelError", "for_speed", "load_model", "load_pytorch_model"]


def load_model(name: str, dtype: str = "auto") -> tuple[ScreeningModel, GloResNetImageProcessor | ScanPreparation]:
    """Load a model in evaluation mode, on a GPU if there is one, and its processor.

    Torch is limited to as many threads as this process may use cores.

    Args:
        name: a model folder or ORG/NAME on the Hub, whose code is executed; or an `.onnx` or `.xml` file written by
            `publishing.convert`, which contains data only.
        dtype: the precision that the caller will ask `prepare` for. A converted file has a fixed precision.

    Raises:
        ModelError: there is no such model, it is damaged, it is not a model of this project, or a converted file has
            another precision.
    """
    if is_converted_file(name):
        model, processor = load_exported(name)
        if dtype not in ("auto", model.dtype):
            raise ModelError(
                f"{name} computes in {model.dtype}, which --dtype cannot change: leave --dtype out, or convert the "
                f"model folder with --dtype {dtype}"
            )
        return model, processor
    find_folder(name)
    if dtype == "int8":
        raise ModelError(
            f"{name} is not a converted file, and --dtype int8 needs one: python -m publishing.convert {name} --format "
            "openvino --dtype int8 --calibration SCANS"
        )
    import torch

    from .pytorch import PyTorchModel

    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))  # it does not know a container's CPU quota
    module, processor = load_pytorch_model(name)
    return PyTorchModel(module), processor


def for_speed(model: ScreeningModel, dtype: str = "auto") -> ScreeningModel:
    """`screening.fast.prepare`. It imports torch only if the model is not a converted file, which is fast already."""
    if isinstance(model, ExportedModel):
        return model
    from .fast import prepare

    return prepare(model, dtype)


def find_folder(name: str) -> bool:
    """Whether a model name is that of a local folder and not of a repository on the Hub.

    Raises:
        ModelError: it is neither, or the folder is not that of a model.
    """
    is_local = os.path.isdir(name)
    if is_local and not os.path.isfile(os.path.join(name, "config.json")):
        raise ModelError(f"{name} is not a model folder, it has no config.json: give the folder fold-K/model of a run")
    if is_local and not os.path.isfile(os.path.join(name, "preprocessor_config.json")):
        raise ModelError(f"{name} has no preprocessor_config.json, so no scan can be prepared: copy the whole folder")
    organisation, _, repository = name.partition("/")
    is_hub_name = organisation and repository and "/" not in repository and not name.startswith((".", "~"))
    if not is_local and (os.path.exists(name) or not is_hub_name):
        raise ModelError(f"the model folder {name} does not exist: give a folder, or ORG/NAME on the Hub")
    return is_local


def cache_problem() -> str:
    """Why the folders where Hugging Face keeps a model's code and downloads cannot be written; empty if they can."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from transformers.utils import HF_MODULES_CACHE

    for folder in (HF_MODULES_CACHE, HF_HUB_CACHE):
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            return (
                f"the cache of Hugging Face, {folder}, cannot be written ({error.strerror}): set the environment "
                "variable HF_HOME to a folder that can be written"
            )
    return ""


def load_pytorch_model(name: str) -> tuple[nn.Module, GloResNetImageProcessor]:
    """Load the PyTorch model itself, for features, maps of baselines and conversion.

    Args:
        name: a model folder or ORG/NAME on the Hub. Its code is executed, so its classes may be of another version.

    Raises:
        ModelError: there is no such model, it is damaged or incomplete, its settings contradict each other, or it is
            not a model of this project.
    """
    is_local = find_folder(name)
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoImageProcessor
    from transformers.utils import logging as transformers_logging

    from modeling_gloresnet.loading_gloresnet import downloaded_folder, folder_problem, weight_kinds, weights_problem

    from .pytorch import allow_tf32

    if is_local and (problem := folder_problem(Path(name))):
        raise ModelError(f"the model {name} cannot be loaded: {problem}")
    transformers_logging.disable_progress_bar()
    options: dict[str, Any] = {"trust_remote_code": True, "local_files_only": is_local}
    try:
        processor = AutoImageProcessor.from_pretrained(name, **options)
        config = AutoConfig.from_pretrained(name, **options)
        model_class = _model_class(config, name, is_local)
        options |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
        with _without_warnings():
            model, found = model_class.from_pretrained(name, config=config, **options)
    except StrictDataclassError as error:
        reason = one_line(error.__cause__ or error)
        raise ModelError(f"the settings of the model {name} cannot be used: {reason}") from error
    except Exception as error:  # a damaged folder or an unreachable Hub can raise anything
        if problem := cache_problem():
            raise ModelError(f"the model {name} cannot be loaded, because {problem}") from error
        raise ModelError(
            f"the model {name} cannot be loaded ({one_line(error).rstrip('.')}): check the folder or name"
        ) from error
    if not (is_resnet(model.config) or is_baseline(model.config)) or not hasattr(model, "predict_views"):
        raise ModelError(
            f"{name} is a {type(model).__name__}, not a model of this project: give one that train.py wrote"
        )
    try:
        folder = Path(name) if is_local else downloaded_folder(name)
        if folder is not None:  # transformers does not report every surplus tensor
            found["unexpected_keys"] |= weight_kinds(folder).keys() - model.state_dict().keys()
        problem = folder_problem(folder) if folder and not is_local else None
        problem = problem or weights_problem(model, found)
        if not problem:
            check_settings(model.config, processor)
    except (ValueError, TypeError, AttributeError) as error:  # settings of another type, if the folder's code is older
        problem = one_line(error)
    if problem:
        raise ModelError(f"the model {name} cannot be loaded: {problem}")
    allow_tf32(False)  # float32 means float32, on a GPU too
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().to(device, memory_format=torch.channels_last_3d), processor


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without the table of weights that transformers logs: `load_pytorch_model` names them in its own error."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _model_class(config: PreTrainedConfig, name: str, is_local: bool) -> Any:
    """The class in the model's own code. `AutoModelForImageClassification` may return that of a model loaded before.

    It keeps one class per configuration class, and folders written by version 0.1 can share a configuration class.
    """
    from transformers import AutoModelForImageClassification
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    reference = (getattr(config, "auto_map", None) or {}).get("AutoModelForImageClassification")
    if reference is None:
        return AutoModelForImageClassification
    return get_class_from_dynamic_module(reference, name, local_files_only=is_local)

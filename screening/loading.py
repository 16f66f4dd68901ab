"""Loading a trained model: a folder, which needs no network, a model of the Hub, or a converted file."""

import os

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging as transformers_logging

from machine.programs import one_line

from .errors import ModelError
from .exported import SUFFIXES, load_exported

__all__ = ["ModelError", "load_model"]


def load_model(name: str, dtype: str = "auto"):
    """Model, in evaluation mode on the best device, and its processor.

    Args:
        name: a model folder, which needs no network, or ORG/NAME of the Hub: the code in it is run; or an `.onnx` or
            `.xml` file of `publishing.convert`, which is data alone.
        dtype: the precision that will be asked for. A PyTorch model answers in any, a converted file in its own.

    Raises:
        ModelError: there is no such model, it is damaged, it is another project's, or its precision is fixed.
    """
    if name.endswith(tuple(SUFFIXES.values())) and not os.path.isdir(name):
        model, processor = load_exported(name)
        if dtype not in ("auto", model.dtype):
            raise ModelError(
                f"{name} computes in {model.dtype}, which --dtype cannot change: leave --dtype out, or convert the "
                f"model folder with --dtype {dtype}"
            )
        return model, processor
    is_local = os.path.isdir(name)
    if is_local and not os.path.isfile(os.path.join(name, "config.json")):
        raise ModelError(f"{name} is no model folder, it has no config.json: give fold-K/model of a run")
    if not is_local and (os.path.exists(name) or name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise ModelError(f"the model folder {name} does not exist: give a folder, or ORG/NAME of the Hub")
    transformers_logging.disable_progress_bar()
    options = {"trust_remote_code": True, "local_files_only": is_local}
    try:
        processor = AutoImageProcessor.from_pretrained(name, **options)
        model = AutoModelForImageClassification.from_pretrained(name, **options)
    except Exception as error:  # a damaged folder or an unreachable Hub raises anything
        raise ModelError(f"the model {name} cannot be loaded ({one_line(error)}): check the folder or name") from error
    if not hasattr(model, "predict_views"):
        raise ModelError(f"{name} is a {type(model).__name__}, not a GloResNet: give a model of this project")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().to(device, memory_format=torch.channels_last_3d), processor

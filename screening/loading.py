"""Loading a trained model, from a folder without a network or from the Hub."""

import os

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging as transformers_logging


class ModelError(Exception):
    """The model asked for cannot be used. The message is one sentence with what to do."""


def load_model(name: str):
    """Model, in evaluation mode on the best device, and its processor.

    Args:
        name: a model folder, which needs no network, or ORG/NAME of the Hub. The code in it is run.

    Raises:
        ModelError: there is no such model, it is damaged, or it is another project's.
    """
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


def one_line(error: Exception) -> str:
    """An error's message without its line breaks, its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__

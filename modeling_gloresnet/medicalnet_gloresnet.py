"""Strict import of MedicalNet's pretrained encoders (Chen et al. 2019, arXiv 1904.00625) into a GloResNet encoder."""

import pickle
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn

from .configuration_gloresnet import GloResNetConfig

STEM = "stem.conv1.weight"  # (out, in, edge, edge, edge), the only weights whose shape depends on the channels
MEDICALNET = "TencentMedicalNet/MedicalNet-Resnet10"


def medicalnet_repository(config: GloResNetConfig) -> str:
    """Return the Hub repository with MedicalNet's weights of this depth: 10, 18 (shortcut type A) or 50."""
    return f"TencentMedicalNet/MedicalNet-Resnet{config.network_depth}"


class MedicalNetImportError(ValueError):
    """The file is not the MedicalNet checkpoint that the configuration needs. The message lists the differences."""


def read_medicalnet(source: str | Path, config: GloResNetConfig, **hub_kwargs) -> dict[str, torch.Tensor]:
    """Read the encoder weights of a MedicalNet checkpoint and rename them to GloResNet's parameter names.

    MedicalNet's networks have one channel. Its kernel becomes that of T2w, and those of further modalities start at 0:
    the network starts as the one with T2w alone, whatever the other channels show, and learns from there.

    Args:
        source: a local file, or a Hub repository such as `TencentMedicalNet/MedicalNet-Resnet10`, which holds the file
            `resnet_<depth>_23dataset.pth`.
        config: the encoder's geometry; `config.network_depth` selects the file on the Hub.
        **hub_kwargs: `filename`, `revision`, `token`, `cache_dir`, `local_files_only` for `hf_hub_download`.

    Returns:
        name -> tensor, without the segmentation head `conv_seg.*`.

    Raises:
        FileNotFoundError: the source is neither a file nor a repository that provides the file.
        MedicalNetImportError: not a MedicalNet checkpoint.
    """
    path = _locate(source, config, **hub_kwargs)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise MedicalNetImportError(
            f"{path} cannot be read as PyTorch weights ({str(error).splitlines()[0]}); "
            "use an intact MedicalNet .pth file."
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise MedicalNetImportError(
            f"{path} contains no `state_dict`; use a MedicalNet checkpoint such as resnet_10_23dataset.pth."
        )
    weights = {}
    for key, tensor in checkpoint["state_dict"].items():
        if not torch.is_tensor(tensor) or (tensor.is_floating_point() and not tensor.isfinite().all()):
            raise MedicalNetImportError(f"{key} in {path} is not a tensor of finite numbers; use an intact .pth file.")
        key = key.removeprefix("module.")
        if not key.startswith("conv_seg."):
            weights[re.sub(r"^(conv1|bn1)\.", r"stem.\1.", key)] = tensor
    kernel = weights.get(STEM)
    if config.num_channels > 1 and kernel is not None and kernel.ndim == 5 and kernel.shape[1] == 1:
        weights[STEM] = torch.cat([kernel, *[torch.zeros_like(kernel)] * (config.num_channels - 1)], dim=1)
    return weights


def load_encoder(encoder: nn.Module, weights: dict[str, torch.Tensor], source: str | Path) -> None:
    """Copy `weights` into `encoder` if every key and shape matches. Otherwise nothing is changed.

    Args:
        encoder: a `GloResNetModel`.
        weights: as `read_medicalnet` returns them.
        source: named in error messages.

    Raises:
        MedicalNetImportError: keys are missing, unexpected or of another shape. The message names them, and a wrong
            shortcut type or depth if that is the cause.
    """
    expected = encoder.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    extra = sorted(weights.keys() - expected.keys())
    other_shape = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & weights.keys())
        if weights[key].shape != expected[key].shape
    ]
    if not (missing or extra or other_shape):
        encoder.load_state_dict(weights, strict=True)
        return

    reasons = []
    if (file_shortcut := _shortcut(weights)) != (net_shortcut := _shortcut(expected)):
        reasons.append(
            f"the file was trained with shortcut type {file_shortcut}, "
            f"the configuration has shortcut_type={net_shortcut!r}"
        )
    if (file_depths := _depths(weights)) != (net_depths := _depths(expected)):
        reasons.append(f"the file has {file_depths} blocks in its stages, the configuration {net_depths}")
    for word, keys in (("missing", missing), ("unexpected", extra), ("of another shape", other_shape)):
        if keys:
            reasons.append(f"{len(keys)} keys {word}: {', '.join(keys)}")
    raise MedicalNetImportError(
        f"{source} does not fit this encoder, so nothing was loaded: {'; '.join(reasons)}. "
        "Use the checkpoint of this depth and shortcut type, or a configuration that fits the file."
    )


def _locate(source: str | Path, config: GloResNetConfig, filename: str | None = None, **hub_kwargs) -> Path:
    if Path(source).is_file():
        return Path(source)
    advice = "give a local .pth file or a Hub repository such as " + MEDICALNET
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or Path(source).suffix in {".pth", ".pt", ".bin"}:
        raise FileNotFoundError(f"There are no MedicalNet weights at {source}: {advice}.")
    filename = filename or f"resnet_{config.network_depth}_23dataset.pth"
    try:
        return Path(hf_hub_download(str(source), filename, **hub_kwargs))
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{filename} of {source} is not in the local cache and the Hub cannot be reached: {advice}."
        ) from error
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{filename} is unavailable in the Hub repository {source} ({type(error).__name__}): {advice}."
        ) from error


def _shortcut(keys: Iterable[str]) -> str:
    """Tell the shortcut type from the parameter names: only type B has parameters."""
    return "B" if any(".downsample." in key for key in keys) else "A"


def _depths(keys: Iterable[str]) -> list[int]:
    """Count the blocks of each stage from parameter names such as `layer3.1.conv2.weight`."""
    blocks = {match.groups() for key in keys if (match := re.match(r"layer(\d+)\.(\d+)\.", key))}
    stages = sorted({int(stage) for stage, _ in blocks})
    return [sum(int(s) == stage for s, _ in blocks) for stage in stages]

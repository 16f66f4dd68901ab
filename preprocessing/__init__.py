"""The only preprocessing in the project: the training cache, predict.py, app.py and the tests all call it.

The array functions need numpy and nibabel only. The processor class, which needs torch and transformers, is imported
when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

from .bias_gloresnet import correct_bias
from .candidates_gloresnet import LocalInputs, local_inputs, stack_local_inputs, top_places
from .framing_gloresnet import frame_head
from .modalities_gloresnet import MODALITIES, Channels, map_modalities
from .preparation_gloresnet import ScanPreparation
from .reading_gloresnet import VolumeError, VolumeWarning
from .resampling_gloresnet import Frame, resample, standardise
from .volume_gloresnet import Volume, apply_mask, map_volume, read_labels, read_volume

if TYPE_CHECKING:
    from .image_processing_gloresnet import GloResNetImageProcessor

__all__ = [
    "MODALITIES",
    "Channels",
    "Frame",
    "GloResNetImageProcessor",
    "LocalInputs",
    "ScanPreparation",
    "Volume",
    "VolumeError",
    "VolumeWarning",
    "apply_mask",
    "correct_bias",
    "frame_head",
    "local_inputs",
    "map_modalities",
    "map_volume",
    "read_labels",
    "read_volume",
    "resample",
    "stack_local_inputs",
    "standardise",
    "top_places",
]


def __getattr__(name: str) -> Any:
    if name == "GloResNetImageProcessor":
        from .image_processing_gloresnet import GloResNetImageProcessor

        return GloResNetImageProcessor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The only preprocessing in the project: training cache, predict, app and tests all call it."""

from .image_processing_gloresnet import GloResNetImageProcessor
from .reading_gloresnet import VolumeError
from .volume_gloresnet import Volume, apply_mask, map_volume, read_volume, resample, standardise

__all__ = [
    "GloResNetImageProcessor",
    "Volume",
    "VolumeError",
    "apply_mask",
    "map_volume",
    "read_volume",
    "resample",
    "standardise",
]

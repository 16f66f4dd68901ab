"""Injuries of known place, size and contrast, painted into a cohort's own normal scans. Never clinical evidence.

    python -m cohort.painted --data_dir BIDS --output data/painted

`paint_spots` and `widen_ventricles` paint into an array, `paint_cohort` makes a BIDS folder. The same seed gives the
same result. Imports neither torch nor transformers, and numpy and scipy only when something is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plan import KINDS, Settings
    from .spots import Lesion, paint_spots
    from .ventricles import Widening, find_ventricles, widen_ventricles
    from .writer import PaintedFolderError, is_painted, paint_cohort, painted_description

__all__ = [
    "KINDS",
    "Lesion",
    "PaintedFolderError",
    "Settings",
    "Widening",
    "find_ventricles",
    "is_painted",
    "paint_cohort",
    "paint_spots",
    "painted_description",
    "widen_ventricles",
]

_MODULES = {
    "KINDS": "plan",
    "Lesion": "spots",
    "paint_spots": "spots",
    "Settings": "plan",
    "Widening": "ventricles",
    "find_ventricles": "ventricles",
    "widen_ventricles": "ventricles",
    "PaintedFolderError": "writer",
    "is_painted": "writer",
    "paint_cohort": "writer",
    "painted_description": "writer",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

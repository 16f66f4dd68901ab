"""A synthetic neonatal cohort in the layout of the dHCP, with known truth. Never clinical evidence.

    python -m cohort.phantom --output data/phantom-clear

`generate_phantom_cohort` writes a folder, `make_phantom_scan` makes one scan in memory. The same seed gives the same
result. Imports neither torch nor transformers, and numpy and scipy only when something is asked for: `python -m
cohort.phantom` imports this file before it can handle Ctrl-C.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .field_of_view import FieldOfView, draw_field_of_view
    from .grids import Grid, full_grid, small_grid
    from .options import PRESETS
    from .pathology import INJURIES, Injury
    from .plan import PlannedScan, plan_cohort
    from .scan import PhantomScan, make_phantom_scan
    from .writer import PhantomFolderError, generate_phantom_cohort, is_phantom, phantom_description

__all__ = [
    "INJURIES",
    "PRESETS",
    "FieldOfView",
    "Grid",
    "Injury",
    "PhantomFolderError",
    "PhantomScan",
    "PlannedScan",
    "draw_field_of_view",
    "full_grid",
    "generate_phantom_cohort",
    "is_phantom",
    "make_phantom_scan",
    "phantom_description",
    "plan_cohort",
    "small_grid",
]

_MODULES = {
    "FieldOfView": "field_of_view",
    "draw_field_of_view": "field_of_view",
    "Grid": "grids",
    "full_grid": "grids",
    "small_grid": "grids",
    "INJURIES": "pathology",
    "Injury": "pathology",
    "PRESETS": "options",
    "PlannedScan": "plan",
    "plan_cohort": "plan",
    "PhantomScan": "scan",
    "make_phantom_scan": "scan",
    "PhantomFolderError": "writer",
    "generate_phantom_cohort": "writer",
    "is_phantom": "writer",
    "phantom_description": "writer",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

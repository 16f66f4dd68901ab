"""A synthetic neonatal cohort in the layout of the dHCP, with known truth. Never clinical evidence.

    python -m cohort.phantom --output data/phantom-clear

`generate_phantom_cohort` writes a folder, `make_phantom_scan` makes one scan in memory. The same seed gives the same
result. Imports neither torch nor transformers.
"""

from .field_of_view import FieldOfView, draw_field_of_view
from .grids import Grid, full_grid, small_grid
from .pathology import INJURIES, Injury
from .plan import PRESETS, PlannedScan, plan_cohort
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

"""DICOM in: folders, zips and multi-frame files become the one T2w volume that they hold, or one sentence.

    series = read("study folder")      # or a .zip, one multi-frame file, or a list of files
    processor(series.image)

Needs the packages of requirements-hospital.txt, which are imported when a delivery is read. Needs neither torch nor
transformers. No patient's name, id, date or description, and no name of a file inside a delivery, enters a message, a
warning or a log; of an error of a library, only its type does.
"""

from .delivery import is_delivery
from .errors import SeriesError
from .reading import Series, read
from .studies import find_studies

__all__ = ["Series", "SeriesError", "find_studies", "is_delivery", "read"]

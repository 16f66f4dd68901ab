"""A visitor's entries, one per scan.

An entry is a dictionary with the name of the scan (`scan`), its `path`, the path of its `mask` or None, its `further`
images (see `further.py`), the path of the file as it was `uploaded`, and either its `answer`, as returned by
`screen_scan`, or its `problem`, a sentence.
"""

import re
from pathlib import Path

from run_folder.cells import quoted

COLUMNS = ["scan", "p_injury", "predicted_label", "view_spread", "warnings", "message"]


def next_to(entry: dict, ending: str) -> Path:
    """The path of a file in the folder of an entry's scan: the scan's name without `.nii.gz`, plus `ending`."""
    path = Path(entry["path"])
    return path.with_name(re.sub(r"(\.nii)?(\.gz)?$", "", path.name, flags=re.IGNORECASE) + ending)


def table_row(entry: dict) -> list:
    """An entry as one row of the CSV file, in the order of `COLUMNS`. Warnings are sentences, separated by spaces."""
    answer = entry["answer"]
    if answer is None:
        return [quoted(entry["scan"]), None, None, None, None, quoted(entry["problem"])]
    spread = None if answer["view_spread"] is None else round(answer["view_spread"], 4)
    warnings = " ".join(answer["warnings"])
    label = quoted(answer["predicted_label"])
    return [quoted(entry["scan"]), round(answer["p_injury"], 4), label, spread, quoted(warnings), ""]

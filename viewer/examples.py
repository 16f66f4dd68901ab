"""The synthetic examples of the page."""

from pathlib import Path

import nibabel

from cohort.phantom import make_phantom_scan

EXAMPLES = {
    "Normal": {},
    "Ventriculomegaly": {"ventriculomegaly": "severe"},
    "Atrophy": {"atrophy": "severe"},
    "Cystic PVL": {"cystic_pvl": "confluent"},
    "Intraventricular haemorrhage": {"ivh": "major"},
    "Punctate lesions": {"punctate": "many"},
}
EXAMPLE_AGE = 38.0  # weeks, postmenstrual age


def write_example(kind: str, path: Path) -> None:
    """Generate the example of this name and write it as NIfTI."""
    nibabel.save(make_phantom_scan(EXAMPLE_AGE, EXAMPLES[kind], seed=7).image(), path)

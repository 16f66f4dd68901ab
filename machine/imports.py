"""Import a library without what a program does not need of it."""

import sys
from typing import Any


def import_nibabel_alone() -> None:
    """Import nibabel without pydicom, which takes longer to import than nibabel itself.

    nibabel uses pydicom only to decode DICOM headers inside NIfTI files, which nothing here reads. Call it before
    other imports; later ones find pydicom as usual.
    """
    modules: dict[str, Any] = sys.modules
    if {"nibabel", "pydicom"} & modules.keys():
        return
    modules["pydicom"] = None  # nibabel takes it as not installed
    try:
        import nibabel  # noqa: F401
    finally:
        del modules["pydicom"]

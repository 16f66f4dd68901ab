"""The modules that must import without torch and transformers."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "module",
    [
        "cohort.transforms",
        "cohort.modalities",
        "cohort.labels",
        "cohort.painted.__main__",
        "cohort.phantom",
        "cohort.phantom.__main__",
    ],
)
def test_imports_without_torch_and_transformers(module):
    code = f"import sys; sys.modules.update(torch=None, transformers=None); import {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

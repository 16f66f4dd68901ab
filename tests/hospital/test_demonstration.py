"""The demonstration of docs/hospital.md runs, and says what happened."""

import os
import subprocess
import sys

import pytest

from hospital.orthanc import missing
from tests.programs import ROOT


def test_the_demonstration(model_folder, tmp_path):
    if problem := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(problem)
    command = [sys.executable, "-m", "hospital.demonstration", "--model", str(model_folder), "--output", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    for words in (" sent: p 0.", "1 report, 1 map, 9 pictures", "Probability of injury", "still has 1 report"):
        assert words in found.stdout
    assert {"report.dcm", "map.dcm", "picture-9.png"} <= {path.name for path in tmp_path.iterdir()}

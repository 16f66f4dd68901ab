"""A federation of real processes over mutual TLS. `python -m tests.federated.network` tries further failures."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.federated.conftest import require_nvflare
from tests.federated.network import ALONE, ROOT, missing

require_nvflare()


def test_a_federation_whose_server_was_killed_ends_with_the_weights_of_the_loop(hospitals, tmp_path):
    """Server, two sites and driver in a network of their own; the server is killed after the first round."""
    if sentence := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)
    for hospital in hospitals:
        shutil.copytree(hospital.data_dir, tmp_path / "data" / hospital.name)
    environment = {**os.environ, "GLORESNET_ALONE": "1", "PYTHONPATH": str(ROOT)}
    call = [*ALONE, sys.executable, "-m", "tests.federated.network", "server", "--base", str(tmp_path)]
    ended = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "tensors equal to the bit" in ended.stdout

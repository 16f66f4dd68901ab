"""A bench with one trained cell: a copy of the finished run of the test session, in the cell's folder."""

import json
import shutil
from dataclasses import asdict

import pytest

from replication.cells import Bench, Cell

SETTINGS = {"image_size": 16, "num_folds": 2, "num_train_epochs": 2, "per_device_train_batch_size": 4}


@pytest.fixture(scope="session")
def bench(finished_run, shared_tiny_cohort, tmp_path_factory):
    """ResNet-10 from random weights is finished. No other cell has a run, and none is trained."""
    output = tmp_path_factory.mktemp("bench")
    bench = Bench("paper", SETTINGS, shared_tiny_cohort, None, output, dry=True)
    folder = bench.folder(Cell())
    shutil.copytree(finished_run, folder.path)
    folder.cell.write_text(json.dumps(asdict(Cell())))
    return bench

"""A cohort of random volumes for folds in this process."""

import dataclasses

import numpy as np
import pytest
from datasets import Array4D, Dataset, Features

from cohort.folds import make_splits
from cohort.scans import Scan
from training.data import TrainingData


@pytest.fixture(scope="session")
def data():
    blank = {field.name: None for field in dataclasses.fields(Scan)} | {"status": "used", "session_id": "1"}
    scans = [
        Scan(**blank | {"participant_id": f"P{i}", "family": f"F{i}", "label": i % 2, "radiology_score": "1"})
        for i in range(8)
    ]
    values = np.random.default_rng(0).normal(size=(8, 1, 16, 16, 16)).astype(np.float32)
    features = Features(pixel_values=Array4D((1, 16, 16, 16), "float32"))
    volumes = Dataset.from_dict({"pixel_values": values}, features=features)
    splits = make_splits(scans, num_folds=2, seed=0, split="family")
    return TrainingData("noise", True, {scan: row for row, scan in enumerate(scans)}, volumes, splits)

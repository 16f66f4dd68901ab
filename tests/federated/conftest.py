"""Two hospitals of noise, of different size, and the recipe that they train by."""

import pytest

from federated.in_process import Hospital
from tests.conftest import write_tiny_cohort
from training.recipe import load_recipe

SMALL = {
    **{"architecture": "compact", "image_size": 16, "framing": "field_of_view", "init": "random"},
    **{"num_folds": 2, "num_train_epochs": 2, "per_device_train_batch_size": 4},
}


@pytest.fixture(scope="session")
def recipe():
    return load_recipe("demo", **SMALL)


@pytest.fixture(scope="session")
def hospitals(built_once):
    sizes = {"north": 12, "river": 8}

    def build(folder):
        for seed, (name, size) in enumerate(sizes.items()):
            write_tiny_cohort(folder / name, num_subjects=size, seed=seed)

    folder = built_once("hospitals", build)
    return [Hospital(name, folder / name, None, 11 + i) for i, name in enumerate(sizes)]

"""Two hospitals of noise, of different size, the recipe that they train by, and what they train together."""

import os

import pytest

from federated.in_process import Hospital, federate_here
from tests.conftest import write_tiny_cohort
from training.recipe import load_recipe

SMALL = {
    **{"architecture": "compact", "image_size": 16, "framing": "field_of_view", "init": "random"},
    **{"num_folds": 2, "num_train_epochs": 2, "per_device_train_batch_size": 4},
}


def require_nvflare():
    """Skip a test without NVFlare, or fail it under CI."""
    if not os.environ.get("CI"):
        pytest.importorskip("nvflare", reason="pip install -r requirements-federated.txt")


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


@pytest.fixture(scope="session")
def trained(hospitals, recipe, tmp_path_factory):
    """Fold 0, trained without a stop: the coordinator's run folder, next to those of the sites."""
    folder = tmp_path_factory.mktemp("trained")
    return federate_here(hospitals, recipe, folder, folds=[0], share_scores=True)

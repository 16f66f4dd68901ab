"""A federation in this process: against `train.py`, stopped and continued, with one site left out."""

from dataclasses import replace

import torch
from safetensors.torch import load_file

from federated.in_process import federate_here
from run_folder.layout import RunFolder
from training.data import prepare_data
from training.fold import open_fold
from training.launch import start_accelerator
from training.run import open_run


def weights(folder):
    return load_file(folder.model / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_federation_of_one_site_trains_what_train_py_trains(hospitals, recipe, tmp_path):
    site = hospitals[0]._replace(seed=recipe.seed)
    run = federate_here([site], recipe, tmp_path / "federation", folds=[0])
    alone = RunFolder(tmp_path / "alone")
    own = replace(recipe, num_threads=1)
    open_run(alone, own, {}, 1)
    data = prepare_data(site.data_dir, None, own, alone, start_accelerator(own, alone.path, "none"))
    with open_fold(0, data, own, alone) as fold:
        for epoch in (1, 2):
            fold.epoch(epoch)
        network = fold.finish().network
    assert equal(weights(run.fold(0)), network.state_dict())
    here = RunFolder(tmp_path / "federation" / site.name)
    assert here.fold(0).predictions.read_bytes() == alone.fold(0).predictions.read_bytes()
    assert here.splits.read_bytes() == alone.splits.read_bytes()

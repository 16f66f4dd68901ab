"""A federation in this process: against `train.py`, stopped and continued, with a site left out, with small sites."""

import json
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

from federated.greeting import check_greetings
from federated.in_process import Hospital, federate_here
from federated.messages import FederationError, federated_recipe
from federated.site import Site
from run_folder.files import read_json
from run_folder.layout import RunFolder
from tests.conftest import write_tiny_cohort
from training.data import prepare_data
from training.fold import open_fold
from training.launch import start_accelerator
from training.recipe import RecipeError
from training.run import RunError, open_run


def weights(folder):
    return load_file(folder.model / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def at(run, site):
    """The run folder of a site, next to the coordinator's."""
    return RunFolder(run.path.with_name(run.name.replace("coordinator", site)))


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
    assert at(run, "north").fold(0).predictions.read_bytes() == alone.fold(0).predictions.read_bytes()
    assert at(run, "north").splits.read_bytes() == alone.splits.read_bytes()


def test_a_federation_that_was_stopped_in_a_round_continues_to_the_same_weights(
    hospitals, recipe, trained, tmp_path, monkeypatch
):
    answer = Site.answer

    def stopped(site, question, message):
        if site.name == "river" and message.facts.get("round") == 2:
            raise KeyboardInterrupt
        return answer(site, question, message)

    monkeypatch.setattr(Site, "answer", stopped)
    with pytest.raises(KeyboardInterrupt):
        federate_here(hospitals, recipe, tmp_path, folds=[0])
    run = RunFolder(tmp_path / "coordinator")
    # north has trained its second epoch, and the round does not count without river
    assert [path.name for path in run.fold(0).rounds.iterdir()] == ["round-001.safetensors"]
    epoch = at(run, "north").fold(0).checkpoints / "epoch-002" / "model.safetensors"
    before = epoch.stat()
    monkeypatch.setattr(Site, "answer", answer)
    federate_here(hospitals, recipe, tmp_path, folds=[0])
    assert epoch.stat().st_mtime_ns == before.st_mtime_ns  # answered from the checkpoint
    assert equal(weights(run.fold(0)), weights(trained.fold(0)))
    table = pd.read_csv(run.fold(0).round_history)
    assert table[["round", "site"]].values.tolist() == [[1, "north"], [1, "river"], [2, "north"], [2, "river"]]


def test_the_joint_model_is_ready_for_the_hub_and_the_same_at_every_site(hospitals, trained):
    folder = trained.fold(0).model
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    assert AutoModel.from_pretrained(folder, trust_remote_code=True).config.hidden_size
    scan = sorted(hospitals[0].data_dir.rglob("*_T2w.nii.gz"))[0]
    assert 0 <= model.predict_proba(processor(scan, return_tensors="pt")["pixel_values"])[0, 1] <= 1
    for site in ("north", "river"):
        theirs = at(trained, site).fold(0).model
        for path in folder.iterdir():
            assert (theirs / path.name).read_bytes() == path.read_bytes(), path.name
    provenance = model.config.provenance
    assert provenance["federation"]["rounds"] == 2
    # the exact sum of 8 would narrow down the counts that are hidden
    assert provenance["train_scans"] == 4 and provenance["train_scans_at_least"]
    assert [site["site"] for site in provenance["federation"]["sites"]] == ["A", "B"]
    card = (folder / "README.md").read_text()
    assert "Several sites trained it together" in card and "| A | fewer than 5 | fewer than 5 |" in card
    assert "at least 4 scans for training" in card
    assert not [name for name in ("north", "river", str(folder.parent)) if name in card + json.dumps(provenance)]


def test_scores_that_are_shared_give_the_figures_that_the_sites_state(trained):
    scores = pd.read_csv(trained.fold(0).scores)
    assert list(scores) == ["site", "family", "label", "p_injury"]
    for site, result in read_json(trained.fold(0).site_metrics)["sites"].items():
        own = pd.read_csv(at(trained, site).fold(0).predictions)
        shared = scores[scores["site"] == site]
        assert sorted(shared["p_injury"]) == sorted(own["p_injury"]) and len(own) == result["metrics"]["n"]
        assert result["metrics"]["auc"] == pytest.approx(roc_auc_score(own["label"], own["p_injury"]))
        assert shared["family"].nunique() == own["family"].nunique()


def test_a_site_that_is_left_out_does_not_train_and_scores_the_model_on_all_its_scans(hospitals, recipe, tmp_path):
    run = federate_here(hospitals, recipe, tmp_path, left_out="river", rounds=1)
    assert run.name == "coordinator-without-river"
    river = at(run, "river").refit
    assert len(pd.read_csv(river.predictions)) == 8 and not river.checkpoints.exists()
    result = read_json(run.refit.site_metrics)
    assert result["train"] == [6, 6] and result["sites"]["river"]["metrics"]["n"] == 8
    assert result["sites"]["north"]["metrics"] is None  # none of its scans was held out
    assert "Site B did not train." in (run.refit.model / "README.md").read_text()
    assert not run.refit.scores.exists()


def test_small_sites_and_sites_without_injuries_take_part(hospitals, recipe, tmp_path):
    few = write_tiny_cohort(tmp_path / "few", num_subjects=3, seed=5, edge=20)
    healthy = write_tiny_cohort(tmp_path / "healthy", num_subjects=6, seed=6)
    labels = tmp_path / "labels.tsv"
    ids = [path.name.removeprefix("sub-") for path in sorted(healthy.glob("sub-*"))]
    labels.write_text("participant_id\tlabel\n" + "".join(f"{each}\t0\n" for each in ids))
    sites = [hospitals[0], Hospital("few", few, None, 1), Hospital("healthy", healthy, labels, 2)]
    run = federate_here(sites, recipe, tmp_path / "runs", folds=["refit"], rounds=1)
    result = read_json(run.refit.site_metrics)["sites"]
    assert result["few"]["train"] == [2, 1] and result["healthy"]["train"] == [6, 0]
    assert result["few"]["appearance"] is None and result["healthy"]["appearance"]["scans"] == 6


def test_a_site_with_one_training_scan_is_refused_with_a_sentence(hospitals, recipe, tmp_path):
    few = write_tiny_cohort(tmp_path / "few", num_subjects=3, seed=5)
    with pytest.raises(FederationError, match=r"few has 1 training scan\(s\) in this fold, .* \(--leave_out few\)"):
        federate_here([hospitals[0], Hospital("few", few, None, 1)], recipe, tmp_path / "runs", folds=[0, 1])


def test_a_refusal_names_no_infant_and_no_path(hospitals, recipe, tmp_path, capsys):
    broken = write_tiny_cohort(tmp_path / "CC99999XX01", num_subjects=4)
    for path in broken.rglob("*_sessions.tsv"):
        path.unlink()
    with pytest.raises(FederationError) as refused:
        federate_here([hospitals[0], Hospital("broken", broken, None, 1)], recipe, tmp_path / "runs")
    assert str(refused.value) == (
        "broken cannot take part: its scans or labels cannot be used. Its own screen says more."
    )
    assert "CC99999XX01" in capsys.readouterr().out  # there it does


def test_a_run_folder_of_another_run_is_refused_on_both_sides(hospitals, recipe, trained, tmp_path):
    with pytest.raises(RunError, match="holds a federated run with other settings .num_train_epochs: 1, not 2"):
        federate_here(hospitals, recipe, trained.path.parent, folds=[0], rounds=1)
    # the coordinator starts another run with the sites' old folders
    for site in ("north", "river"):
        (tmp_path / site).symlink_to(trained.path.parent / site)
    with pytest.raises(FederationError, match="The run folder of north is of another run"):
        federate_here(hospitals, recipe, tmp_path, folds=[0])


def test_what_cannot_be_federated_is_refused(recipe):
    for change, message in (
        ({"selection": "inner"}, "each site would choose another epoch"),
        ({"local_stream": "on"}, "the networks of the local stream are trained on the scans of one site"),
        ({"num_train_epochs": 3}, "num_train_epochs is 3, which is no multiple of --local_epochs 2"),
    ):
        with pytest.raises(RecipeError, match=message):
            federated_recipe(replace(recipe, **change), None, 2)
    assert federated_recipe(recipe, 5, 3).num_train_epochs == 15


def test_differences_between_sites_are_refused_by_name(trained):
    result = read_json(trained.fold(0).site_metrics)
    plan = SimpleNamespace(sites=("north", "river"), recipe=read_json(trained.federation)["recipe"])

    def check(**change):
        check_greetings(plan, {**result["sites"], "river": {**result["sites"]["river"], **change}})

    check()
    software = result["sites"]["river"]["software"]
    for change, message in (
        ({"software": {**software, "torch": "1.0"}}, "river has torch 1.0, and the coordinator has"),
        ({"software": {**software, "GloResNet's code": "0"}}, "river has GloResNet's code 0, and"),
        ({"recipe": "0"}, "river has understood another recipe"),
        ({"volumes": [2, 16, 16, 16]}, r"river has volumes of \[2, 16, 16, 16\] .* and north has \[1, 16, 16, 16\]"),
        ({"train": [0, 1]}, r"river has 1 training scan\(s\) .* or train on all scans .--fold refit"),
    ):
        with pytest.raises(FederationError, match=message):
            check(**change)
    for site in result["sites"].values():
        site["train"] = [3, 0]
    with pytest.raises(FederationError, match="No site has a training scan that is injured"):
        check()


def test_several_local_epochs_make_a_round(hospitals, recipe, tmp_path):
    run = federate_here(hospitals, recipe, tmp_path, folds=[1], rounds=1, local_epochs=2)
    assert len(pd.read_csv(at(run, "north").fold(1).history)) == 2
    assert np.unique(pd.read_csv(run.fold(1).round_history)["round"]).tolist() == [1]


def test_sites_with_several_modalities_train_together_and_one_without_is_refused(hospitals, recipe, tmp_path, capsys):
    sites = []
    for seed, (name, complete) in enumerate({"all": 6, "some": 3}.items()):
        folder = write_tiny_cohort(tmp_path / name, num_subjects=6, seed=seed)
        for scan in sorted(folder.rglob("*_desc-restore_T2w.nii.gz"))[:complete]:
            image = nib.load(scan)
            other = image.get_fdata() * 0.7 + np.random.default_rng(seed).normal(size=image.shape)
            other = nib.Nifti1Image(other.astype(np.float32), image.affine)
            nib.save(other, scan.with_name(scan.name.replace("_T2w", "_T1w")))
        sites.append(Hospital(name, folder, None, seed))
    several = replace(recipe, modalities="T2w,T1w")
    run = federate_here(sites, several, tmp_path / "runs", folds=["refit"], rounds=1)
    model = AutoModel.from_pretrained(run.refit.model, trust_remote_code=True)
    assert model.config.modalities == ["T2w", "T1w"]
    result = read_json(run.refit.site_metrics)["sites"]
    assert [result[site]["volumes"][0] for site in ("all", "some")] == [2, 2]
    with pytest.raises(FederationError, match="river cannot take part: its scans or labels cannot be used"):
        federate_here([sites[0], hospitals[1]], several, tmp_path / "other", folds=["refit"], rounds=1)
    assert "No scan in use has T1w" in capsys.readouterr().out

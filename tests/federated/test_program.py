"""`python -m federated`: what it refuses, and which plans `run` makes."""

import sys

import pytest

import federated.__main__ as program
from federated.plans import plans
from federated.sites import Sites, write_kit
from run_folder.files import write_text
from tests.programs import exit_status
from training.recipe import RecipeError

SITES = ["north", "river", "south"]


def planned(*flags):
    options = program.parse_arguments(["run", "kits/admin", "--recipe", "demo", *flags])
    return plans(options, SITES)


def test_all_folds_are_trained_by_all_sites_unless_told_otherwise():
    ((plan, folds),) = planned()
    assert folds == [0, 1, 2, 3, 4] and plan.sites == ("north", "river", "south") and plan.left_out is None
    assert plan.rounds == 20 and plan.recipe["num_threads"] == 1 and not plan.share_scores
    ((plan, folds),) = planned("--fold", "3", "--rounds", "7", "--local_epochs", "2", "--share_scores")
    assert folds == [3] and plan.rounds == 7 and plan.recipe["num_train_epochs"] == 14 and plan.share_scores


def test_each_site_can_be_left_out_in_turn():
    jobs = planned("--leave_out", "each")
    assert [plan.left_out for plan, _ in jobs] == SITES and {tuple(folds) for _, folds in jobs} == {("refit",)}
    assert jobs[1][0].sites == ("north", "south") and jobs[1][0].asked == ("north", "river", "south")
    ((plan, folds),) = planned("--leave_out", "south", "--fold", "all")
    assert plan.left_out == "south" and folds == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--leave_out", "west"], "There is no site west: the sites are north, river, south"),
        (["--fold", "5"], "There is no fold 5 of 5"),
        (["--local_epochs", "3"], "num_train_epochs is 20, which is no multiple of --local_epochs 3"),
    ],
)
def test_an_impossible_plan_is_refused(flags, message):
    with pytest.raises(RecipeError, match=message):
        planned(*flags)


def test_a_wrong_call_gets_one_sentence_and_status_2(tmp_path, capsys):
    pytest.importorskip("nvflare")
    sites = Sites("f", "localhost", 1, 2, dict.fromkeys(SITES, 0))
    for party in ("north", "admin"):
        write_kit(tmp_path / party, party, sites)
    north, admin = str(tmp_path / "north"), str(tmp_path / "admin")
    for arguments, message in (
        (["server", north, "--output_dir", "runs/x"], "is the kit of north, and this command needs that of server"),
        (["site", admin, "--data_dir", north], "is the kit of admin, and this command needs that of a hospital"),
        (["site", north, "--data_dir", "nowhere"], "--data_dir nowhere is not a folder"),
        (["run", admin, "--recipe", "nothing"], "There is no recipe nothing"),
        (["run", admin, "--recipe", "clinical"], "selection is inner: each site would choose another epoch"),
        (["run", admin, "--recipe", "demo", "--rounds", "0"], "0 is not a whole number of at least 1"),
        (["kits", str(tmp_path / "no.yaml"), "--output", str(tmp_path / "kits")], "no.yaml"),
    ):
        assert exit_status(program.main, arguments) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error


def test_without_nvflare_the_sentence_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nvflare", None)
    sites = write_text(tmp_path / "sites.yaml", "server: {host: localhost}\nsites: {north: {seed: 1}}\n")
    assert exit_status(program.main, ["kits", str(sites), "--output", str(tmp_path / "kits")]) == 2
    assert "pip install -r requirements-federated.txt" in capsys.readouterr().err

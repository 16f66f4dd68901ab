"""The parts that run in NVFlare's jobs, with NVFlare's serialisation and without its network: what leaves a site."""

import json
import re
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from federated.messages import FINISH, HELLO, KEEP, TRAIN, Plan, federated_recipe
from federated.site import Site
from run_folder.files import read_json
from run_folder.layout import RunFolder
from tests.federated.conftest import require_nvflare

require_nvflare()

from nvflare.apis.signal import Signal  # noqa: E402
from nvflare.apis.utils.decomposers import flare_decomposers  # noqa: E402
from nvflare.app_common.decomposers import common_decomposers  # noqa: E402
from nvflare.fuel.utils import fobs  # noqa: E402

from federated import flare  # noqa: E402

# everything that a site may say, by question: the list of docs/federated.md
FACTS = {
    HELLO: {"software", "recipe", "volumes", "train", "held_out", "synthetic", "painted"},
    TRAIN: {"scans", "train_loss", "seconds"},
    FINISH: {"metrics", "appearance", "scores"},
    KEEP: set(),
}


def carried(shareable):
    """A message after its way over the network."""
    return fobs.loads(fobs.dumps(shareable))


class Network:
    """Carries questions from a coordinator to sites in this process, and keeps what the sites answer."""

    def __init__(self, monkeypatch, sites):
        flare_decomposers.register()
        common_decomposers.register()
        monkeypatch.setattr(flare, "end_with", lambda process, end: None)
        self.heard, self.executors = [], {}
        for site in sites:
            self.executors[site.name] = flare.SiteExecutor()
            self.executors[site.name]._site = site

    def broadcast(self, task, fl_ctx, targets, min_responses):
        assert min_responses == len(targets)  # a round counts only with all its sites
        for name in reversed(targets):  # in whatever order
            identity = SimpleNamespace(get_identity_name=lambda name=name: name)
            answer = carried(self.executors[name].execute(task.name, carried(task.data), identity, Signal()))
            self.heard.append((task.name, name, answer))
            task.result_received_cb(SimpleNamespace(client=SimpleNamespace(name=name), result=answer), fl_ctx)


def federate(network, monkeypatch, plan, folder, names, folds=(0,)):
    monkeypatch.setenv(flare.SETTINGS, json.dumps({"output_dir": str(folder), "sites": names}))
    monkeypatch.setattr(flare, "UNHEARD", 0.0)
    coordinator = flare.Coordinator({**plan.facts()}, list(folds))
    monkeypatch.setattr(coordinator, "broadcast", network.broadcast)
    monkeypatch.setattr(coordinator, "cancel_task", lambda task: None)
    panics = []
    monkeypatch.setattr(coordinator, "system_panic", lambda reason, fl_ctx: panics.append(reason))
    coordinator.control_flow(Signal(), None)
    return coordinator.progress, panics


@pytest.fixture
def sites(hospitals, tmp_path):
    made = [
        Site(name, seed, data_dir, labels, RunFolder(tmp_path / name), share_scores=name == "north")
        for name, data_dir, labels, seed in hospitals
    ]
    yield made
    for site in made:
        site.__exit__()


def walked(value):
    """Every name and every value of nested facts."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from walked(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walked(inner)
    else:
        yield value


def test_the_network_changes_no_bit_and_carries_nothing_about_an_infant(
    sites, hospitals, recipe, trained, tmp_path, monkeypatch
):
    plan = Plan(asdict(federated_recipe(recipe, None, 1)), 1, ("north", "river"), share_scores=True)
    network = Network(monkeypatch, sites)
    progress, panics = federate(network, monkeypatch, plan, tmp_path / "joint", ["north", "river"])
    assert not panics and progress["refused"] is None and len(progress["said"]) == 2
    here, there = (
        load_file(run.fold(0).model / "model.safetensors") for run in (trained, RunFolder(tmp_path / "joint"))
    )
    assert [name for name in here if here[name].tobytes() != there[name].tobytes()] == []

    infants = {path.name.removeprefix("sub-") for each in hospitals for path in each.data_dir.glob("sub-*")}
    infants |= {infant[:7] for infant in infants}  # families
    assert [question for question, _, _ in network.heard] == [HELLO] * 2 + [TRAIN] * 4 + [FINISH] * 2 + [KEEP] * 2
    for question, site, answer in network.heard:
        content = {name: value for name, value in answer.items() if not name.startswith("__")}
        assert content.keys() == ({"facts", "weights"} if question == TRAIN else {"facts"})
        facts = json.loads(content["facts"])
        assert facts.keys() == FACTS[question]
        if question == TRAIN:
            assert content["weights"].keys() == here.keys()
            for name, value in content["weights"].items():
                assert value.dtype in (np.float32, np.int64) and value.shape == here[name].shape
        if question == FINISH:
            assert (facts["scores"] is not None) == (site == "north")  # river does not allow it
            assert facts["metrics"].keys() == {"n", "confusion_matrix", "auc"}
        for word in walked(facts):
            if isinstance(word, str):
                assert not any(infant in word for infant in infants) and "/" not in word and str(tmp_path) not in word
                assert not re.search(r"\d{4}-\d{2}-\d{2}|\d{8}|sub-|ses-", word) or question == HELLO
                assert len(word) < 40


def test_scores_stay_where_they_are_unless_they_are_asked_for(sites, recipe, tmp_path, monkeypatch):
    plan = Plan(asdict(federated_recipe(recipe, 1, 1)), 1, ("north", "river"))
    network = Network(monkeypatch, sites)
    federate(network, monkeypatch, plan, tmp_path / "joint", ["north", "river"])
    answers = [json.loads(answer["facts"]) for question, _, answer in network.heard if question == FINISH]
    assert [answer["scores"] for answer in answers] == [None, None]
    assert not RunFolder(tmp_path / "joint").fold(0).scores.exists()


def test_a_site_that_is_left_out_and_not_there_is_asked_nothing(sites, recipe, tmp_path, monkeypatch):
    plan = Plan(asdict(federated_recipe(recipe, 1, 1)), 1, ("north",), left_out="river", absent=True)
    network = Network(monkeypatch, sites)
    progress, panics = federate(network, monkeypatch, plan, tmp_path / "joint", ["north", "river"], ["refit"])
    assert not panics and {site for _, site, _ in network.heard} == {"north"}
    model = RunFolder(tmp_path / "joint-without-river").refit.model
    assert [site["site"] for site in read_json(model / "config.json")["provenance"]["federation"]["sites"]] == ["A"]


def test_the_first_refusal_ends_the_job_and_an_unexpected_error_says_only_its_kind(
    sites, recipe, tmp_path, monkeypatch, capsys
):
    def broken(question, message):
        raise ValueError("/data/sub-CC00001XX01 is odd")

    monkeypatch.setattr(sites[1], "answer", broken)
    plan = Plan(asdict(federated_recipe(recipe, None, 1)), 1, ("north", "river"))
    network = Network(monkeypatch, sites)
    progress, panics = federate(network, monkeypatch, plan, tmp_path / "joint", ["north", "river"])
    assert progress["refused"] == "river has met an unexpected error (ValueError). Its own screen says more."
    assert panics == ["the federation cannot go on"]
    assert "CC00001XX01" in capsys.readouterr().err  # at the site


def test_a_server_whose_kit_is_older_than_the_coordinators_says_so(sites, recipe, tmp_path, monkeypatch):
    plan = Plan(asdict(federated_recipe(recipe, None, 1)), 1, ("north", "west"))
    progress, panics = federate(Network(monkeypatch, sites), monkeypatch, plan, tmp_path / "joint", ["north", "river"])
    assert "The kit of the server does not know west" in progress["refused"] and panics
    assert not (tmp_path / "joint").exists()


def test_an_answer_that_is_no_message_is_refused(sites, recipe, tmp_path, monkeypatch):
    network = Network(monkeypatch, sites)
    monkeypatch.setattr(flare, "packed", lambda message: flare.Shareable({"facts": "{"}))
    plan = Plan(asdict(federated_recipe(recipe, None, 1)), 1, ("north", "river"))
    progress, _ = federate(network, monkeypatch, plan, tmp_path / "joint", ["north", "river"])
    assert "A message without facts has arrived" in progress["refused"]


@pytest.mark.parametrize("content", [{"facts": "[]"}, {"facts": "{}", "weights": []}, {"facts": '{"auc": NaN}'}, {}])
def test_an_odd_message_ends_the_job_at_once(content):
    with pytest.raises(flare.FederationError, match="A message without facts"):
        flare.unpacked(flare.Shareable(content))


def test_a_refusal_cannot_write_to_the_terminal_of_the_coordinator():
    assert flare.printable("no\x1b[2J\nscans" + "!" * 1000).startswith("no [2J scans!")
    assert len(flare.printable("!" * 1000)) == 500

"""A coordinator or a site that does not keep to the rules: refused, and nothing is written outside a run folder."""

import copy
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from federated.average import check_state
from federated.checks import check_answers, read_question
from federated.loop import federate
from federated.messages import FINISH, HELLO, KEEP, TRAIN, FederationError, Message, Plan
from federated.site import Site
from preprocessing.appearance_gloresnet import DESCRIPTORS, LONGEST_EDGE
from run_folder.layout import RunFolder


@pytest.fixture
def plan(recipe):
    return Plan(asdict(recipe), 1, ("north", "river"), identity="ab")


@pytest.mark.parametrize("question", [HELLO, TRAIN, FINISH, KEEP])
def test_a_site_writes_nowhere_but_in_its_run_folder(plan, tmp_path, question):
    site = Site("river", 1, tmp_path, None, RunFolder(tmp_path / "run"))
    ours = {"train": [5, 5], "round": 1, "description": {}}
    for which in (str(tmp_path / "elsewhere"), "../elsewhere", "ensemble", -1, 2, True, 0.0, None):
        with pytest.raises(FederationError, match="cannot be understood .the fold"):
            site.answer(question, Message({"plan": plan.facts(), "which": which, **ours}))
    for name in ("../elsewhere", "/elsewhere", "", 3, "a\nb"):
        for change in ({"left_out": name}, {"sites": ("north", name)}):
            facts = replace(plan, **change).facts()
            with pytest.raises(FederationError, match="cannot be understood"):
                site.answer(question, Message({"plan": facts, "which": 0, **ours}))
    assert not list(tmp_path.iterdir())


def test_a_question_with_other_numbers_is_refused(plan):
    right = {"plan": plan.facts(), "which": 1, "train": [5, 5], "round": 2}
    assert read_question(TRAIN, right) == (plan, 1)
    changes = (
        *({"round": value} for value in (0, 3, "1", 1.0)),
        *({"train": value} for value in ([5], [5, -1], [10**12, 1], [5, 1.5])),
        *({"plan": {**plan.facts(), "local_epochs": value}} for value in (0, 0.5, "1", float("inf"))),
        {"plan": {}},
    )
    for change in changes:
        with pytest.raises(FederationError, match="cannot be understood"):
            read_question(TRAIN, {**right, **change})


def test_a_site_says_what_was_asked_about_itself_and_nothing_else(plan):
    hello = {
        **{"software": {"torch": "2"}, "recipe": "ab", "volumes": [1, 16, 16, 16], "train": [4, 3]},
        **{"held_out": [2, 1], "synthetic": True, "painted": False},
    }
    counts = {"tn": 2, "fp": 0, "fn": 1, "tp": 0}
    appearance = {"scans": 7, **{name: [0.5, 0.1] for name in DESCRIPTORS}, LONGEST_EDGE: [1, 2]}
    score = {"label": 1, "p_injury": 0.5, "family": 0}
    finish = {
        "metrics": {"n": 3, "confusion_matrix": counts, "auc": 0.5},
        "appearance": appearance,
        "scores": [score] * 3,
    }
    right = {HELLO: hello, TRAIN: {"scans": 7, "train_loss": 0.5, "seconds": 1}, FINISH: finish}
    plan = replace(plan, share_scores=True)

    def said(question, facts, plan=plan):
        check_answers(question, {"river": Message(facts)}, plan, {"river": hello})

    for question, facts in right.items():
        said(question, facts)
        for change in ({**facts, "site": "north"}, {}, [], dict(list(facts.items())[1:])):  # the name of another site
            with pytest.raises(FederationError, match="The answer of river to .* cannot be used"):
                said(question, change)
    wrong = (
        *((HELLO, "train", value) for value in ([-9, 10], [10**12, 1], [1], "ab", [1.5, 1], [True, 1])),
        *((HELLO, name, None) for name in hello),
        *((TRAIN, "train_loss", value) for value in (float("nan"), "1", None, -1, True)),
        (TRAIN, "scans", 700),
        *((FINISH, "metrics", {**finish["metrics"], "auc": value}) for value in (float("nan"), 2, "1")),
        (FINISH, "metrics", {**finish["metrics"], "confusion_matrix": {**counts, "tp": 9}}),
        (FINISH, "appearance", {**appearance, "scans": 10**9}),
        (FINISH, "appearance", {**appearance, LONGEST_EDGE: [float("inf"), 1]}),
        *((FINISH, "scores", [score, score, {**score, **change}]) for change in ({"site": "north"}, {"p_injury": 7})),
    )
    for question, name, value in wrong:
        facts = copy.deepcopy(right[question]) | {name: value}
        with pytest.raises(FederationError, match="The answer of river to"):
            said(question, facts)
    with pytest.raises(FederationError, match="scores, which nobody asked for"):
        said(FINISH, finish, replace(plan, share_scores=False))


def test_a_site_hears_the_name_of_a_file_of_initial_weights_and_not_its_folder(recipe, tmp_path):
    settings = replace(recipe, architecture="resnet10", init="/home/coordinator/medicalnet.pth")
    heard = []

    def ask(question, message, sites):
        heard.append(read_question(question, message.facts)[0].recipe["init"])
        assert "/home" not in json.dumps(message.facts)
        raise FederationError("enough")

    with pytest.raises(FederationError, match="enough"):
        federate(Plan(asdict(settings), 1, ("north",)), 0, RunFolder(tmp_path), {"north": "A"}, ask)
    assert heard == ["medicalnet.pth"]


def test_weights_that_are_no_arrays_or_no_variances_are_refused():
    expected = {"bn.running_var": np.ones(2, np.float32)}
    for value, message in (([1.0, 1.0], "is no array"), (np.array([1, -1], np.float32), "has a variance below 0")):
        with pytest.raises(FederationError, match=f"The weights of river do not fit .* {message}"):
            check_state({"bn.running_var": value}, expected, "river")

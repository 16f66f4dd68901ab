"""What a question and an answer must look like. Both come over a network, so neither side trusts the other's numbers.

A site writes only into its run folder, whatever it is told; and a site can state numbers about itself only.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from preprocessing.appearance_gloresnet import DESCRIPTORS, LONGEST_EDGE
from run_folder.layout import REFIT

from .messages import FINISH, HELLO, KEEP, TRAIN, FederationError, Message, Plan, read_plan

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")  # of a site, as in `sites.yaml`
MOST = 10**6  # scans of a class; a larger count is an error
FACTS = {  # what a site says
    HELLO: {"software", "recipe", "volumes", "train", "held_out", "synthetic", "painted"},
    TRAIN: {"scans", "train_loss", "seconds"},
    FINISH: {"metrics", "appearance", "scores"},
    KEEP: set(),
}


def read_question(question: str, facts: Mapping[str, Any]) -> tuple[Plan, int | str]:
    """The plan and the fold of a question, at a site. Everything that becomes part of a path is checked.

    Raises:
        FederationError: it is no question of this federation.
    """
    plan = read_plan(facts.get("plan", {}))
    names = (*plan.sites, *(() if plan.left_out is None else (plan.left_out,)))
    if not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
        raise _not_understood("the name of a site")
    if type(plan.local_epochs) is not int or not isinstance(plan.identity, str) or len(plan.identity) > 100:
        raise _not_understood("the plan")
    which: Any = facts.get("which")
    if which != REFIT and not _count(which, plan.recipe["num_folds"] - 1):
        raise _not_understood("the fold")
    if question in (TRAIN, FINISH) and not _counts(facts.get("train")):
        raise _not_understood("the number of training scans")
    if question == TRAIN and not (_count(facts.get("round"), plan.rounds) and facts["round"]):
        raise _not_understood("the round")
    return plan, which


def check_answers(question: str, answers: Mapping[str, Message], plan: Plan, hellos: Mapping[str, Any]) -> None:
    """Check what sites say, at the coordinator.

    Args:
        question: that they answer.
        answers: site -> its answer.
        plan: of the federation.
        hellos: site -> the facts of its answer to `hello`; {} for `hello` itself.

    Raises:
        FederationError: a site says what it should not, or numbers that cannot be. The message names the site.
    """
    checks = {HELLO: _hello, TRAIN: _train, FINISH: _finish, KEEP: lambda facts, hello, plan: None}
    for site in sorted(answers):
        facts = answers[site].facts
        wrong: str | None = "entries"
        if isinstance(facts, dict) and facts.keys() == FACTS[question]:
            wrong = checks[question](facts, hellos.get(site, {}), plan)
        if wrong:
            raise FederationError(
                f"The answer of {site} to {question!r} cannot be used ({wrong}): install the same version of this "
                "project at both, or leave the site out."
            )


def _hello(facts: Mapping[str, Any], _: Mapping[str, Any], plan: Plan) -> str | None:
    software, volumes = facts["software"], facts["volumes"]
    if not isinstance(software, dict) or not all(
        isinstance(text, str) for text in (*software.values(), facts["recipe"])
    ):
        return "software"
    if not isinstance(volumes, list) or len(volumes) != 4 or not all(_count(edge) for edge in volumes):
        return "volumes"
    if not all(type(facts[name]) is bool for name in ("synthetic", "painted")):
        return "synthetic"
    return None if _counts(facts["train"]) and _counts(facts["held_out"]) else "number of scans"


def _train(facts: Mapping[str, Any], hello: Mapping[str, Any], plan: Plan) -> str | None:
    if facts["scans"] != sum(hello["train"]):
        return "number of scans"
    return None if _number(facts["train_loss"], 0) and _number(facts["seconds"], 0) else "train_loss"


def _finish(facts: Mapping[str, Any], hello: Mapping[str, Any], plan: Plan) -> str | None:
    metrics, appearance, scores = facts["metrics"], facts["appearance"], facts["scores"]
    if metrics is not None:
        if not isinstance(metrics, dict) or metrics.keys() != {"n", "confusion_matrix", "auc"}:
            return "metrics"
        cells = metrics["confusion_matrix"]
        if (
            not isinstance(cells, dict)
            or cells.keys() != {"tn", "fp", "fn", "tp"}
            or not all(map(_count, cells.values()))
        ):
            return "confusion matrix"
        if [cells["tn"] + cells["fp"], cells["fn"] + cells["tp"]] != hello["held_out"]:
            return "confusion matrix of other scans than it has"
        if metrics["n"] != sum(hello["held_out"]) or not (metrics["auc"] is None or _number(metrics["auc"], 0, 1)):
            return "metrics"
    if appearance is not None:
        known = {"scans", *DESCRIPTORS}
        if not isinstance(appearance, dict) or appearance.keys() - {LONGEST_EDGE} != known:
            return "appearance"
        pairs = [pair for name, pair in appearance.items() if name != "scans"]
        if not all(isinstance(pair, list) and len(pair) == 2 and all(map(_number, pair)) for pair in pairs):
            return "appearance"
        if appearance["scans"] != sum(hello["train"]):
            return "number of scans"
    if scores is not None:
        if not plan.share_scores:
            return "scores, which nobody asked for"
        if not isinstance(scores, list) or len(scores) != sum(hello["held_out"]) or not all(map(_score, scores)):
            return "scores"
    return None


def _score(row: Any) -> bool:
    if not isinstance(row, dict) or row.keys() != {"label", "p_injury", "family"}:
        return False
    return _count(row["label"], 1) and _number(row["p_injury"], 0, 1) and _count(row["family"])


def _count(value: Any, most: int = MOST) -> bool:
    return type(value) is int and 0 <= value <= most


def _counts(value: Any) -> bool:
    """A number for each class."""
    return isinstance(value, Sequence) and len(value) == 2 and all(map(_count, value))


def _number(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and least <= value <= most


def _not_understood(what: str) -> FederationError:
    return FederationError(
        f"A question of the coordinator cannot be understood ({what}): install the same version at both."
    )

"""What the coordinator and the sites say to each other. Nothing else leaves a site: see docs/federated.md.

A message holds facts (numbers and words, as in JSON) and sometimes the weights of a network. There are four questions:

    hello     who are you, and how many scans do you have?           -> versions, hashes, counts
    train     train your epochs of this round from these weights     -> weights, scans, loss
    finish    how well do these weights do on the scans held out?    -> counts, AUC, how scans look; scores if shared
    keep      this describes the joint model                         -> nothing
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from training.recipe import Recipe, RecipeError

HELLO, TRAIN, FINISH, KEEP = QUESTIONS = ("hello", "train", "finish", "keep")


class FederationError(Exception):
    """The federation cannot go on. The message names the site and never an infant, a path or a date."""


class Message(NamedTuple):
    """A question or an answer."""

    facts: dict[str, Any]
    weights: dict[str, np.ndarray] | None = None


Ask = Callable[[str, Message, Collection[str]], Mapping[str, Message]]
"""`ask(question, message, sites)` returns the answer of every one of the sites, by name. Raises FederationError."""


@dataclass(frozen=True)
class Plan:
    """What is trained, at which sites. Every question carries it, so a site that was restarted knows what to do.

    Args:
        recipe: settings by name, as in a recipe file. `num_train_epochs` is `rounds` x `local_epochs`.
        local_epochs: epochs that a site trains in one round.
        sites: the names of the sites that train.
        left_out: the site that only evaluates; None if all of them train.
        share_scores: ask for label and probability of each held-out scan. A site sends them only if it allows it.
        absent: the site that is left out is not there, so it evaluates nothing either.
        identity: of the federated run, drawn when it starts. A site's run folder belongs to one.
    """

    recipe: dict[str, Any]
    local_epochs: int
    sites: tuple[str, ...]
    left_out: str | None = None
    share_scores: bool = False
    absent: bool = False
    identity: str = ""

    @property
    def rounds(self) -> int:
        return int(self.recipe["num_train_epochs"]) // self.local_epochs

    @property
    def asked(self) -> tuple[str, ...]:
        """Every site that is asked something, in the order of the names."""
        return tuple(sorted({*self.sites, *({self.left_out} if self.left_out and not self.absent else ())}))

    def facts(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {**asdict(self), "sites": list(self.sites)}

    def told(self) -> "Plan":
        """The plan as sites get it: a file of initial weights, which only the coordinator reads, loses its folder."""
        return replace(self, recipe={**self.recipe, "init": Path(self.recipe["init"]).name})


def read_plan(facts: Mapping[str, Any]) -> Plan:
    """The plan in a question. Raises FederationError if it is not one."""
    try:
        plan = Plan(**{**facts, "sites": tuple(facts["sites"])})
        Recipe(**plan.recipe)
        if not plan.sites or plan.local_epochs < 1 or plan.rounds < 1:
            raise ValueError("no site, no epoch or no round")
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:  # a RecipeError is a ValueError
        raise FederationError(f"The plan of the federation cannot be understood ({error}).") from error
    return plan


def federated_recipe(recipe: Recipe, rounds: int | None, local_epochs: int) -> Recipe:
    """The recipe for a number of rounds, after a check that it can be federated.

    Args:
        recipe: as read from a file.
        rounds: None means as many as give the recipe's number of epochs.
        local_epochs: epochs that a site trains in one round.

    Raises:
        RecipeError: a setting cannot be federated. The message names it.
    """
    if rounds is None and recipe.num_train_epochs % local_epochs:
        raise RecipeError(
            f"num_train_epochs is {recipe.num_train_epochs}, which is no multiple of --local_epochs {local_epochs}: "
            "change one of them, or give --rounds."
        )
    if recipe.selection != "last":
        raise RecipeError(
            f"selection is {recipe.selection}: each site would choose another epoch, and the joint model has only one. "
            "Use selection: last."
        )
    if recipe.split == "site":
        raise RecipeError(
            "split is site: each hospital has the scans of one site only. Use split: family, and --leave_out each."
        )
    if recipe.local_stream == "on":
        raise RecipeError(
            "local_stream is on: the networks of the local stream are trained on the scans of one site, and "
            "federated training averages the global network only. Use local_stream: off."
        )
    epochs = recipe.num_train_epochs if rounds is None else rounds * local_epochs
    # one thread: sums are then rounded in the same order everywhere
    return replace(recipe, num_train_epochs=epochs, num_threads=recipe.num_threads or 1)

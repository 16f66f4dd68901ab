"""A federation in one process, without a network: for comparisons, and the yardstick of the networked one.

Both give the same weights to the bit: each site draws from its own random numbers, and the sum does not depend on the
order in which sites answer.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from run_folder.layout import REFIT, RunFolder
from training.random_state import random_state, set_random_state
from training.recipe import Recipe

from .loop import federate, open_federation
from .messages import Message, Plan, federated_recipe
from .site import Site


class Hospital(NamedTuple):
    """A site on this machine."""

    name: str
    data_dir: Path
    labels: Path | None
    seed: int


def federate_here(
    hospitals: Sequence[Hospital],
    recipe: Recipe,
    output_dir: Path,
    *,
    folds: Sequence[int | str] | None = None,
    left_out: str | None = None,
    rounds: int | None = None,
    local_epochs: int = 1,
    share_scores: bool = False,
    say: Callable[[str], object] = print,
) -> RunFolder:
    """Train a federation in this process. The same call continues one that was stopped.

    Args:
        hospitals: all sites; their names and seeds differ.
        recipe: the coordinator's.
        output_dir: gets `coordinator/`, the run folder of the coordinator, and one run folder per site. With
            `left_out`, each has `-without-SITE` behind its name.
        folds: numbers, or `refit` for all scans. None means all folds or, with `left_out`, `refit`.
        left_out: the site that does not train; the joint models are evaluated on all its scans.
        rounds: None means as many as the recipe has epochs, divided by `local_epochs`.
        local_epochs: epochs that a site trains in one round.
        share_scores: write label and probability of each held-out scan to `scores.csv`.
        say: prints the progress.

    Returns:
        The coordinator's run folder.
    """
    recipe = federated_recipe(recipe, rounds, local_epochs)
    names = sorted(hospital.name for hospital in hospitals)
    training = tuple(name for name in names if name != left_out)
    plan = Plan(asdict(recipe), local_epochs, training, left_out, share_scores)
    run = RunFolder(output_dir / "coordinator")
    run = run.without(left_out) if left_out else run
    plan = open_federation(run, plan, letters := letters_of(names))
    if folds is None:
        folds = [REFIT] if left_out else list(range(recipe.num_folds))
    with ExitStack() as stack:
        sites = {
            name: stack.enter_context(
                Site(name, seed, data_dir, labels, RunFolder(output_dir / name), share_scores=share_scores, say=say)
            )
            for name, data_dir, labels, seed in hospitals
        }
        for which in folds:
            federate(plan, which, run, letters, _asker(sites), say)
    return run


def letters_of(names: Collection[str]) -> dict[str, str]:
    """The letters that stand for the sites in public: A, B, ... in the order of the names; then A1, B1, ..."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return {name: alphabet[i % 26] + (str(i // 26) if i >= 26 else "") for i, name in enumerate(sorted(names))}


def _asker(sites: Mapping[str, Site]) -> Callable[[str, Message, Collection[str]], dict[str, Message]]:
    """Ask the sites one after another. Each goes on with the random numbers that it had, as its own process would."""
    states: dict[str, dict] = {}
    cpu = torch.device("cpu")

    def ask(question: str, message: Message, asked: Collection[str]) -> dict[str, Message]:
        answers = {}
        for name in asked:
            if name in states:
                set_random_state(states[name], cpu, where=Path(name))
            answers[name] = sites[name].answer(question, message)
            states[name] = random_state(cpu)
        return answers

    return ask

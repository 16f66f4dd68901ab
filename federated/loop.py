"""The rounds of a federated fold, whatever carries the messages: this process, or NVFlare."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from machine.programs import one_line
from run_folder.files import InputError, read_json, write_json, write_text
from run_folder.layout import RunFolder
from run_folder.tables import csv_text, read_table
from training.recipe import Recipe, RecipeError
from training.run import RunError

from .average import average, check_state
from .checks import check_answers
from .greeting import check_greetings
from .joint import describe, joint_network, write_joint_model
from .messages import FINISH, HELLO, KEEP, TRAIN, Ask, Message, Plan
from .rounds import initial_state, newest_round, save_round


def open_federation(run: RunFolder, plan: Plan, letters: Mapping[str, str]) -> Plan:
    """Start a federated run in the coordinator's folder, or continue the one there.

    Args:
        run: created if needed.
        plan: without an identity.
        letters: name of a site -> its letter.

    Returns:
        The plan with the identity of the run.

    Raises:
        RunError: the folder holds something else, or a run with another plan.
    """
    ours = {**plan.facts(), "letters": dict(letters)}
    del ours["identity"], ours["share_scores"], ours["absent"]  # the last two change nothing that is trained
    if run.federation.is_file():
        found = read_json(run.federation)
        different = [name for name, value in ours.items() if name != "recipe" and found.get(name) != value]
        different = [f"{name}: {ours[name]!r}, not {found.get(name)!r}" for name in different]
        try:
            different += Recipe(**plan.recipe).differences(Recipe(**found["recipe"]))
            identity = str(found["identity"])
        except (LookupError, TypeError, RecipeError) as error:
            raise InputError(
                f"{run.federation} is damaged ({one_line(error)}): restore it, or start a new run."
            ) from error
        if different:
            raise RunError(
                f"{run} holds a federated run with other settings ({'; '.join(different)}): use the recorded settings, "
                "or start the server with another --output_dir."
            )
        return replace(plan, identity=identity)
    entries = run.path.iterdir() if run.path.is_dir() else ()
    if any(not path.name.startswith(".") and path != run.recipe for path in entries):
        raise RunError(f"{run} is not empty and holds no federated run: choose another --output_dir.")
    plan = replace(plan, identity=secrets.token_hex(8))
    Recipe(**plan.recipe).save(run.recipe)
    write_json(run.federation, {"identity": plan.identity, **ours})
    return plan


def federate(
    plan: Plan,
    which: int | str,
    run: RunFolder,
    letters: Mapping[str, str],
    ask: Ask,
    say: Callable[[str], object] = print,
) -> None:
    """Train one fold with the sites: hello, rounds, evaluation, joint model. Continues after the newest round.

    Args:
        plan: of the federation; its folder was opened with `open_federation`.
        which: the fold's number, or `refit`.
        run: the coordinator's run folder.
        letters: name of a site -> its letter.
        ask: carries a question to the sites.
        say: prints the progress.

    Raises:
        FederationError: a site differs, cannot take part, or sent weights that do not fit.
        InputError: the newest rounds on the disk are damaged.
    """
    folder = run.trained(which)
    if folder.site_metrics.is_file():
        return
    recipe, plan = Recipe(**plan.recipe), plan.told()
    common: dict[str, Any] = {"plan": plan.facts(), "which": which}
    greetings = ask(HELLO, Message(common), plan.asked)
    check_answers(HELLO, greetings, plan, {})
    hellos = {site: message.facts for site, message in greetings.items()}
    check_greetings(plan, hellos)
    train = [sum(hellos[site]["train"][label] for site in plan.sites) for label in (0, 1)]
    common |= {"train": train}

    initial = initial_state(recipe, which)
    done, state = newest_round(folder.rounds, initial)
    for number in range(done + 1, plan.rounds + 1):
        answers = ask(TRAIN, Message({**common, "round": number}, state), plan.sites)
        check_answers(TRAIN, answers, plan, hellos)
        scans = {site: sum(hellos[site]["train"]) for site in plan.sites}
        for site in plan.sites:
            check_state(answers[site].weights or {}, initial, site)
        state = average({site: answers[site].weights or {} for site in plan.sites}, scans)
        rows = [{"round": number, "site": site, **answers[site].facts} for site in plan.sites]
        _add_rows(folder.round_history, rows, number)
        save_round(folder.rounds, number, state)  # last: it marks the round as complete
        loss = sum(scans[site] * answers[site].facts["train_loss"] for site in plan.sites) / sum(scans.values())
        say(f"{folder.path.name}: round {number} of {plan.rounds}, training loss {loss:.3f}")

    finished = ask(FINISH, Message(common, state), plan.asked)
    check_answers(FINISH, finished, plan, hellos)
    description = describe(plan, which, letters, run.name, hellos, finished)
    ask(KEEP, Message({**common, "description": description}), plan.asked)
    write_joint_model(joint_network(state, recipe), recipe, folder.model, description)
    _write_scores(folder.scores, finished)
    results = {}
    for site in plan.asked:
        facts = dict(finished[site].facts)
        shared = facts.pop("scores") is not None
        results[site] = {"letter": letters[site], **hellos[site], **facts, "shared_scores": shared}
    write_json(folder.site_metrics, {"fold": which, "rounds": plan.rounds, "train": train, "sites": results})


def _add_rows(path: Path, rows: list[dict[str, Any]], number: int) -> None:
    """Add the rows of a round to a table, in place of those of an earlier attempt."""
    before = read_table(path, ("round",)) if path.is_file() else pd.DataFrame({"round": []})
    before = before[before["round"].astype(int) < number]
    write_text(path, csv_text(pd.concat([before, pd.DataFrame(rows)], ignore_index=True)))


def _write_scores(path: Path, finished: Mapping[str, Message]) -> None:
    """Write the scores of the sites that share them: site, family (counted at each site), label, p_injury."""
    rows = [{"site": site, **row} for site, answer in sorted(finished.items()) for row in answer.facts["scores"] or ()]
    if rows:
        write_text(path, csv_text(pd.DataFrame(rows)[["site", "family", "label", "p_injury"]]))

"""The joint model: what it says about itself, and its folder for the Hub."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from preprocessing.preparation_gloresnet import SETTINGS
from publishing.card import render_card
from publishing.export import export_model
from training.build import Network, new_model, new_processor
from training.recipe import Recipe

from .appearance import FEWEST, merged_appearance
from .messages import Message, Plan
from .rounds import State, torch_state


def describe(
    plan: Plan, which: int | str, letters: Mapping[str, str], run_name: str,
    greetings: Mapping[str, Mapping[str, Any]], finished: Mapping[str, Message],
) -> dict[str, Any]:  # fmt: skip
    """What the joint model's configuration says: sites by letter, rounds, scans per site and class, metrics.

    Counts of 1 to 4 in a class, and metrics of sites with such a count, are left out unless every scan is a phantom.
    `train_scans` is then the sum with 1 for each of these, and `train_scans_at_least` says so.

    Args:
        plan: of the federation.
        which: the fold's number, or `refit`.
        letters: name of a site -> its letter.
        run_name: of the coordinator's run folder.
        greetings, finished: the sites' answers.
    """
    recipe = Recipe(**plan.recipe)
    processor = new_processor(recipe)
    synthetic = all(greetings[site]["synthetic"] for site in plan.sites)
    painted = any(greetings[site]["painted"] for site in plan.sites)
    some_synthetic = any(greetings[site]["synthetic"] for site in plan.sites)
    sites: list[dict[str, Any]] = []
    for site in plan.asked:
        facts = finished[site].facts if site in finished else {}
        trained = greetings[site]["train"] if site in plan.sites else [0, 0]
        sites.append(
            {
                "site": letters[site],
                "normal": _shown(trained[0], synthetic),
                "injury": _shown(trained[1], synthetic),
                "held_out": _shown_metrics(facts.get("metrics"), synthetic),
            }
        )
    # a sum over all would give away a single count that is hidden
    shown = [site[name] for site in sites for name in ("normal", "injury")]
    provenance = {
        "cohort": f"federation of {len(plan.sites)} sites",
        # a model with any phantom among its scans is not for patients
        "synthetic": some_synthetic,
        **({"painted": True} if painted else {}),
        "run": run_name,
        "fold": which,
        "train_scans": sum(1 if count is None else count for count in shown),
        **({"train_scans_at_least": True} if None in shown else {}),
        "architecture": recipe.architecture,
        "preprocessing": {name: getattr(processor, name) for name in SETTINGS},
        "federation": {
            "rounds": plan.rounds,
            "local_epochs": plan.local_epochs,
            "left_out": letters[plan.left_out] if plan.left_out else None,
            "sites": sorted(sites, key=lambda site: site["site"]),
        },
    }
    appearance = merged_appearance([finished[site].facts["appearance"] for site in plan.sites])
    return {"provenance": provenance, "training_appearance": appearance}


def joint_network(state: State, recipe: Recipe) -> Network:
    """The network with the joint weights, in evaluation mode."""
    network = new_model(recipe, pretrained=False)
    network.load_state_dict(torch_state(state))
    return network.eval()


def write_joint_model(network: Network, recipe: Recipe, folder: Path, description: Mapping[str, Any]) -> None:
    """Write the model folder, which is the same at the coordinator and at every site.

    Args:
        network: with the joint weights.
        recipe: the coordinator's.
        folder: of the run folder, such as `fold-0/model`.
        description: from `describe`.
    """
    network.config.provenance = dict(description["provenance"])
    network.config.training_appearance = description["training_appearance"]
    export_model(network, new_processor(recipe), folder, render_card(network.config, asdict(recipe), None))


def _shown(count: int, synthetic: bool) -> int | None:
    return count if synthetic or count == 0 or count >= FEWEST else None


def _shown_metrics(metrics: Mapping[str, Any] | None, synthetic: bool) -> dict[str, Any] | None:
    if metrics is None:
        return None
    counts = metrics["confusion_matrix"]
    classes = counts["tn"] + counts["fp"], counts["tp"] + counts["fn"]
    return dict(metrics) if synthetic or min(classes) >= FEWEST else None

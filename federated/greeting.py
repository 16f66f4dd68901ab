"""The hello round: what a site says about itself before it trains, and which differences end the federation."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from machine.version import PROJECT, project_version
from training.data import FoldScans, TrainingData, labels_of
from training.run import environment

from .messages import FederationError, Plan

ROOMS = (  # whose code decides about the weights
    *("architectures", "cohort", "evaluation", "federated", "machine", "modeling_gloresnet", "preprocessing"),
    *("run_folder", "screening", "training"),
)
FEWEST = 2  # training scans of a site: BatchNorm needs two


def software() -> dict[str, str]:
    """Version by name: Python, this project and its hash, and the packages that decide about the weights."""
    here = environment()
    versions = {name: version.partition("+")[0] for name, version in here["packages"].items()}  # without +cpu
    python = ".".join(here["python"].split(".")[:2])
    return {
        "Python": python,
        "GloResNet": str(project_version()["version"]),
        "GloResNet's code": code_hash(),
        **versions,
    }


@cache
def code_hash() -> str:
    """The first 16 hexadecimal digits of the SHA-256 of this project's code."""
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((PROJECT / room).rglob("*.py")):
            digest.update(f"{path.relative_to(PROJECT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the settings."""
    return hashlib.sha256(json.dumps(dict(recipe), sort_keys=True).encode()).hexdigest()[:16]


def greeting(plan: Plan, data: TrainingData, scans: FoldScans) -> dict[str, Any]:
    """What a site says: versions, hashes, and how many scans of each class it has. No infant is named."""
    count = [labels_of(scans.train).count(label) for label in (0, 1)]
    return {
        "software": software(),
        "recipe": recipe_hash(plan.recipe),
        "volumes": list(data.volumes.features["pixel_values"].shape),
        "train": count,
        "held_out": [labels_of(scans.held_out).count(label) for label in (0, 1)],
        "synthetic": data.synthetic,
        "painted": data.painted,
    }


def check_greetings(plan: Plan, greetings: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare every site with the coordinator, which runs this.

    Raises:
        FederationError: a site differs or has too few scans, or no site has any scan of a class. The message says
            which site and what.
    """
    ours, recipe = software(), recipe_hash(plan.recipe)
    first = greetings[plan.sites[0]]
    for site in sorted(greetings):
        theirs = greetings[site]
        for name, version in ours.items():
            if theirs["software"].get(name) != version:
                raise FederationError(
                    f"{site} has {name} {theirs['software'].get(name)}, and the coordinator has {version}: install the "
                    "same version of this project and of its requirements at both."
                )
        if theirs["recipe"] != recipe:
            raise FederationError(f"{site} has understood another recipe: install the same version at both.")
        if theirs["volumes"] != first["volumes"]:
            raise FederationError(
                f"{site} has volumes of {theirs['volumes']} (modalities and voxels per edge), and {plan.sites[0]} has "
                f"{first['volumes']}: all sites need the same modalities."
            )
        if site in plan.sites and sum(theirs["train"]) < FEWEST:
            raise FederationError(
                f"{site} has {sum(theirs['train'])} training scan(s) in this fold, and BatchNorm needs {FEWEST}: leave "
                f"it out (--leave_out {site}), or train on all scans (--fold refit)."
            )
    for label, word in enumerate(("normal", "injured")):
        if not sum(greetings[site]["train"][label] for site in plan.sites):
            raise FederationError(f"No site has a training scan that is {word}: both classes are needed.")

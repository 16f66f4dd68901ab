"""What `python -m federated run` trains: one plan, or one for each site that is left out."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from run_folder.layout import REFIT
from training.recipe import RecipeError, load_recipe

from .messages import Plan, federated_recipe

Job = tuple[Plan, list[int | str]]


def plans(options: argparse.Namespace, sites: Sequence[str]) -> list[Job]:
    """The plans and the folds of each.

    Args:
        options: of `run`.
        sites: the names of all sites.

    Raises:
        RecipeError: a setting cannot be federated, or there is no such fold or site.
    """
    left_out: list[str | None] = [None]
    if options.leave_out is not None:
        left_out = list(sites) if options.leave_out == "each" else [options.leave_out]
        if unknown := set(left_out) - set(sites):
            raise RecipeError(f"There is no site {', '.join(map(str, unknown))}: the sites are {', '.join(sites)}.")
        if len(sites) == 1:
            raise RecipeError(f"{sites[0]} is the only site: none is left to train.")
    recipe = federated_recipe(load_recipe(options.recipe), options.rounds, options.local_epochs)
    if Path(recipe.init).is_file():  # the server runs in another folder
        recipe = replace(recipe, init=str(Path(recipe.init).resolve()))
    fold = options.fold or (REFIT if options.leave_out else "all")
    folds: list[int | str] = [REFIT]
    if fold == "all":
        folds = list(range(recipe.num_folds))
    elif fold != REFIT:
        if not fold.isdecimal() or int(fold) >= recipe.num_folds:
            raise RecipeError(f"There is no fold {fold} of {recipe.num_folds}: fold numbers start at 0.")
        folds = [int(fold)]
    jobs = []
    for site in left_out:
        training = tuple(name for name in sites if name != site)
        plan = Plan(asdict(recipe), options.local_epochs, training, site, options.share_scores)
        jobs.append((plan, folds))
    return jobs

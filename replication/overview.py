"""The plan (runs to train and their computed cost), and the index of the written results."""

from __future__ import annotations

from pathlib import Path

from architectures.cost import measure
from cohort.scans import find_scans
from replication.cells import Bench
from replication.rows import all_cells
from run_folder.files import write_text

SUSTAINED = 5.0  # TFLOP/s, an assumption: 3D convolutions stay far below the peak rate of a GPU


def petaflop(gmac: float, scans: int, folds: int, epochs: int) -> float:
    """Cost of a cross-validation in PFLOP (10^15 operations; a multiply-add counts as two).

    A training step on a volume costs three forward passes: one forward, two for the gradients. Each epoch also scores
    the held-out fold in two views, as train.py does.

    Args:
        gmac: billions of multiply-adds of one forward pass.
        scans: scans of the cohort.
    """
    training = 3 * scans * (folds - 1) * epochs
    scoring = 2 * scans * epochs
    return 2 * gmac * (training + scoring) / 1e6


def write_plan(bench: Bench) -> Path:
    """Write `plan.md`: every run, whether it can be trained, and what it costs.

    Raises:
        CohortError: the cohort cannot be read.
        RecipeError: the recipe cannot be used.
    """
    recipe = bench.recipe(all_cells(bench)[-1])
    found = find_scans(bench.data_dir, bench.labels, brain_mask=recipe.brain_mask, max_birth_age=recipe.max_birth_age)
    scans = sum(scan.status == "used" for scan in found)
    header = "| run | state | GMAC | volumes x epochs x folds | PFLOP | hours |"
    lines = [f"# Runs of recipe {bench.recipe_name}, {bench.cohort}", "", header, "|---|---|---:|---:|---:|---:|"]
    total = 0.0
    for cell in all_cells(bench):
        done = bench.run(cell) is not None
        problem = "" if done else bench.problems[cell]
        try:
            settings, name = bench.recipe(cell), bench.folder(cell).name
            _, gmac = measure(cell.architecture, settings.image_size)
        except (ValueError, ImportError) as error:
            lines.append(f"| {cell.architecture} | {error} | - | - | - | - |")
            continue
        volumes = scans * (bench.patches_per_axis**3 if cell.patches else 1)
        cost = petaflop(gmac, volumes, settings.num_folds, settings.num_train_epochs)
        total += cost if problem in ("", "not trained yet") else 0.0
        shape = f"{volumes} x {settings.num_train_epochs} x {settings.num_folds}"
        state = "finished" if done else problem
        lines.append(f"| {name} | {state} | {gmac:.2f} | {shape} | {cost:,.1f} | {hours(cost):,.2f} |")
    lines += [
        "",
        f"Total, without the runs that cannot be trained: {total:,.0f} PFLOP, {hours(total):,.1f} hours. Computed, not "
        f"measured: multiply-adds x volumes x passes, at an assumed sustained rate of {SUSTAINED:.0f} TFLOP/s. At half "
        "that rate it takes twice as long. Reading scans, reports and figures take additional time.",
    ]
    return write_text(bench.output / "plan.md", "\n".join(lines) + "\n")


def hours(petaflop: float) -> float:
    """Hours at the rate `SUSTAINED`."""
    return petaflop * 1e3 / SUSTAINED / 3600


def write_overview(bench: Bench) -> Path:
    """Write `README.md` in the results folder: the list of results, and the empty cells with their reasons."""
    lines = [f"# The paper's tables and figures, {bench.cohort}", ""]
    for path in sorted([*bench.output.glob("*.md"), *bench.output.glob("figures/*.png")]):
        if path.name != "README.md":
            name = path.relative_to(bench.output).as_posix()
            lines.append(f"- [{name}]({name})")
    for cell, problem in bench.problems.items():
        start = "MedicalNet's weights" if cell.medicalnet else "random weights"
        lines.append(f"- empty: {cell.architecture} from {start}{'' if cell.mixup else ', no mixup'}: {problem}")
    if bench.trained:
        lines += ["", f"Trained by the last call: {', '.join(bench.trained)}."]
    return write_text(bench.output / "README.md", "\n".join(lines) + "\n")

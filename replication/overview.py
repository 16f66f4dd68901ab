"""What there is to train and what it costs, computed; and the index of what has been written."""

from __future__ import annotations

from pathlib import Path

from architectures.cost import measure
from cohort.scans import find_scans
from replication.cells import Bench
from replication.rows import all_cells
from run_folder.files import write_text

SUSTAINED = 5.0  # teraflop/s, assumed: 3D convolutions come nowhere near what a GPU promises


def petaflop(gmac: float, scans: int, folds: int, epochs: int) -> float:
    """Operations of a cross-validation: 10^15, a multiply-add counted as two.

    A training pass over a volume is three forward passes (one forward, two for the gradients); each epoch also scores
    the held-out fold in two views, as train.py does.
    """
    training = 3 * scans * (folds - 1) * epochs
    scoring = 2 * scans * epochs
    return 2 * gmac * (training + scoring) / 1e6


def write_plan(bench: Bench) -> Path:
    """Write `plan.md`: every run, whether it can be made, and what it costs.

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
        except (ValueError, ImportError) as error:  # the cell says so itself
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
        f"{total:,.0f} PFLOP in all, without the runs that cannot be made: {hours(total):,.1f} hours. Computed, not "
        f"measured: multiply-adds x volumes x passes at a sustained {SUSTAINED:.0f} TFLOP/s, which is assumed; at half "
        "that rate it takes twice as long. Reading, reports and figures come on top.",
    ]
    return write_text(bench.output / "plan.md", "\n".join(lines) + "\n")


def hours(petaflop: float) -> float:
    """At the rate of `SUSTAINED`."""
    return petaflop * 1e3 / SUSTAINED / 3600


def write_overview(bench: Bench) -> Path:
    """Write `README.md` in the results' folder: what is there, and what is empty and why."""
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

"""The parts of the page that are plain HTML: the top of the page, one result, and the table of all results."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from architectures.networks import network_name

HERE = Path(__file__).parent
PAGES = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)


def page_css() -> str:
    """The style sheet for these parts and the page around the viewer."""
    return (HERE / "page.css").read_text(encoding="utf-8")


def public_name(model: str) -> str:
    """How the page names a model: a folder or file without the folders around it, which are nobody else's concern."""
    path = Path(model)
    if not path.is_absolute():
        return model
    return "/".join(path.parts[-3:]) if path.name == "model" and len(path.parts) > 4 else path.name


def masthead(model: Any, name: str, problem: str = "") -> str:
    """The top of the page: its purpose and the model, or why there is no model and how to train one.

    Args:
        model: a trained model, or None if there is a `problem`.
        name: how the page names the model: its folder or Hub id.
        problem: a sentence that says why there is no model.
    """
    identity = {}
    if model is not None:
        provenance = model.config.provenance
        identity = {
            "name": name,
            "synthetic": provenance["synthetic"],
            "painted": provenance.get("painted", False),
            "cohort": provenance["cohort"],
            "run": provenance["run"],
            "fold": provenance["fold"],
            "train_scans": provenance["train_scans"],
            "network": network_name(model.config),
            "image_size": model.config.image_size,
        }
    return PAGES.get_template("masthead.html.jinja").render(model=identity, problem=problem)


def result_panel(answer: dict | None = None, problem: str = "") -> str:
    """The result of one scan.

    Args:
        answer: what `screen_scan` returned.
        problem: a sentence that says why there is no result. Without answer and problem, the panel asks for a scan.
    """
    return PAGES.get_template("result.html.jinja").render(answer=answer, problem=problem)


def answers_table(entries: list[dict], chosen: int) -> str:
    """All scans of a visitor, one row per scan, with its result or problem. The row with index `chosen` is marked."""
    return PAGES.get_template("table.html.jinja").render(entries=entries, chosen=chosen)

"""The parts of the page that are plain HTML: the top of the page, one result, and the table of all results."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from architectures.networks import network_name
from screening.modalities import missing_and_doubts, modalities_of
from screening.model import has_local_stream

LEAST = 0.05  # probability of a place that the page lists; the JSON answer holds all
ABOUT_MAPS = (
    "Colour marks what the network counted as evidence for injury, relative to the maximum within this scan. The map is"
    " also drawn for scans classified as normal. It shows where the network looked, which is mostly where injuries"
    " generally occur. It does not outline a lesion."
)
NO_MAPS = "Heat maps are not available for converted models and other architectures. Scans are shown without a map."
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
            "train_scans_at_least": provenance.get("train_scans_at_least", False),
            "network": network_name(model.config) + (" with a local stream" if has_local_stream(model.config) else ""),
            "image_size": model.config.image_size,
            "modalities": modalities_of(model.config),
        }
    return PAGES.get_template("masthead.html.jinja").render(model=identity, problem=problem)


def about_pictures(explains: bool, searches: bool) -> str:
    """What the pictures of a model show, and what is missing.

    Args:
        explains: whether there are heat maps.
        searches: whether the model has a local stream.
    """
    if not searches:
        return ABOUT_MAPS if explains else NO_MAPS
    if explains:
        return f"{ABOUT_MAPS} It is that of the global stream; rings mark the places that the local stream found."
    return f"{NO_MAPS} Rings mark the places that the local stream found."


def listed_places(answer: dict) -> list[dict]:
    """The places of an answer that are probable enough for the page, the most suspicious first."""
    return [place for place in answer["places"] if place["probability"] >= LEAST]


def result_panel(answer: dict | None = None, problem: str = "", searches: bool = False) -> str:
    """The result of one scan.

    Args:
        answer: what `screen_scan` returned.
        problem: a sentence that says why there is no result. Without answer and problem, the panel asks for a scan.
        searches: whether the model has a local stream; the panel then says which stream spoke.
    """
    places = listed_places(answer) if answer and searches else []
    missing, doubts = missing_and_doubts(answer) if answer else ("", [])
    return PAGES.get_template("result.html.jinja").render(
        answer=answer, problem=problem, searches=searches, places=places, least=LEAST, missing=missing, doubts=doubts
    )


def answers_table(entries: list[dict], chosen: int) -> str:
    """All scans of a visitor, one row per scan, with its result or problem. The row with index `chosen` is marked."""
    doubted = [len(missing_and_doubts(entry["answer"])[1]) if entry.get("answer") else 0 for entry in entries]
    return PAGES.get_template("table.html.jinja").render(entries=entries, chosen=chosen, doubted=doubted)

"""The parts of the page that are plain HTML: its head, and the result of one scan."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader

HERE = Path(__file__).parent
PAGES = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)


def page_css() -> str:
    """The style of everything here."""
    return (HERE / "page.css").read_text(encoding="utf-8")


def masthead(model, name: str, problem: str = "") -> str:
    """The head of the page: what it is for, and which model answers; or why none does, and how to make one.

    Args:
        model: a trained model, or None with a `problem`, a sentence.
        name: what the model is called: its folder or Hub id.
    """
    identity = {}
    if model is not None:
        provenance = model.config.provenance
        identity = {
            "name": name,
            "synthetic": provenance["synthetic"],
            "cohort": provenance["cohort"],
            "run": provenance["run"],
            "fold": provenance["fold"],
            "train_scans": provenance["train_scans"],
            "depth": model.config.network_depth,
            "image_size": model.config.image_size,
        }
    return PAGES.get_template("masthead.html.jinja").render(model=identity, problem=problem)


def result_panel(answer: dict | None = None, problem: str = "") -> str:
    """One answer of `screen_scan`, or the sentence that says why there is none, or neither: the empty page."""
    return PAGES.get_template("result.html.jinja").render(answer=answer, problem=problem)


def answers_table(entries: list[dict], chosen: int) -> str:
    """All scans of a visitor, a row each: name, answer or problem; the chosen row is marked."""
    return PAGES.get_template("table.html.jinja").render(entries=entries, chosen=chosen)

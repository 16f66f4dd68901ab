"""What an event tells its visitor while they wait, and what it does if they have left."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import gradio as gr


def unless_visitor_left(event: Callable) -> Callable:
    """Let an event do nothing if its visitor has left, because leaving deletes the visitor's files."""

    @wraps(event)
    def answer(*arguments, **options) -> dict:
        try:
            return event(*arguments, **options)
        except FileNotFoundError as error:
            if error.filename is None or Path(error.filename).parent.is_dir():
                raise
            return gr.skip()

    return answer


def place_in_line(progress: gr.Progress, file: str | Path, done: tuple[int, int] = (0, 1)) -> Callable[[int], None]:
    """What to do when the line of waiting scans moves: show the visitor's place.

    Args:
        progress: shown over the result.
        file: the visitor's scan. Once it is deleted, the visitor has left, and their scan leaves the line.
        done: how many of the visitor's scans have been screened, and how many there are.
    """

    def tell(ahead: int) -> None:
        os.stat(file)
        # gradio adds the share that is done, and shows no sentence without one
        sentence = f"Another scan is being read; yours is number {ahead} in line" if ahead else "Screening"
        progress(done, desc=sentence, unit="scans")

    return tell

"""What the service says: a line for each study on standard output, problems once on standard error; no PHI."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .settings import Settings

if TYPE_CHECKING:  # `serve.py status` does without torch
    from .software import Software

SHORT = 12  # letters of a tag that are shown


class Lines:
    """Remembers problems, so that each is said once until it is over."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}

    def started(self, settings: Settings, software: Software) -> None:
        ways = [f"listens as {settings.aet} on {settings.host}:{settings.listen}"] if settings.listen else []
        ways += [f"searches {settings.archive}"] if settings.polls is not None else []
        print(f"GloResNet {software.version}, model {software.digest[:SHORT]}, {' and '.join(ways)}.", flush=True)
        print("For research use only. Not a medical device, and not for any decision about a patient.", flush=True)
        if software.doubt:
            print(software.doubt, flush=True)

    def study(self, study: str, state: str, message: str) -> None:
        print(f"{now()} study {study[:SHORT]} {state}: {message}", flush=True)

    def trouble(self, what: str, problem: str) -> None:
        """Say a problem, or with an empty one, that it is over."""
        if self.problems.get(what, "") != problem:
            print(f"{now()} {problem or f'{what}: works again'}", file=sys.stderr, flush=True)
            self.problems[what] = problem

    def problem(self, what: str) -> str:
        return self.problems.get(what, "")


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def summary(answer: dict[str, Any], slices: int, plane: str, replaces: bool) -> str:
    """The answer of the model in a few words."""
    from screening.modalities import missing_and_doubts  # here, so that `serve.py status` starts fast

    warned = len(missing_and_doubts(answer)[1])
    words = [
        f"p {answer['p_injury']:.3f} ({answer['predicted_label']})",
        f"{plane}, {slices} slices",
        f"{warned} warning(s): do not rely on it" if warned else "",
        "replaces an earlier report" if replaces else "",
    ]
    return ", ".join(word for word in words if word)


def table(waiting: Iterable[Any], reports: Iterable[Any]) -> Iterable[str]:
    """What `serve.py status` prints."""
    counts: dict[str, int] = {}
    for row in [*waiting, *reports]:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
        tries = f" ({row['tries']} tries" if row["tries"] and row["state"] in ("screened", "failed") else ""
        if tries:
            tries += f", next {time.strftime('%H:%M:%S', time.localtime(row['due']))})"
        elif row["state"] == "waiting":
            tries = f" (until {time.strftime('%H:%M:%S', time.localtime(row['due']))})"
        yield f"study {row['study'][:SHORT]} {row['state']}{tries}: {row['message'] or '-'}"
    yield ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "The queue is empty."

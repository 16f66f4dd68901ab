"""The federation over NVFlare: what runs in the server's and in a site's job.

A job names these two classes and brings no code. Facts travel as JSON and weights as NumPy arrays, so nothing else can
leave a site by accident.
"""

import json
import os
import threading
import time
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.controller_spec import Task
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from machine.interruption import end_with
from modeling_gloresnet import MedicalNetImportError
from run_folder.files import InputError
from run_folder.layout import RunFolder
from training.recipe import RecipeError
from training.run import RunError

from .in_process import letters_of
from .loop import federate, open_federation
from .messages import FederationError, Message, Plan
from .parties import PROGRESS, SETTINGS
from .site import Site

PATIENCE = 300.0  # seconds that a new job of a site waits for one that is just ending
UNHEARD = 120.0  # seconds that a refusal waits for the driver to hear it


def packed(message: Message) -> Shareable:
    """A message as NVFlare carries it."""
    content: dict[str, Any] = {"facts": json.dumps(message.facts, allow_nan=False)}
    if message.weights is not None:
        content["weights"] = message.weights
    return Shareable(content)


def unpacked(shareable: Mapping[str, Any]) -> Message:
    """The message that NVFlare has carried. Raises FederationError if it is none."""
    try:
        facts, weights = json.loads(shareable["facts"], parse_constant=_refused), shareable.get("weights")
        if not isinstance(facts, dict) or not isinstance(weights, dict | None):
            raise TypeError("facts or weights of another kind")
        return Message(facts, weights)
    except (LookupError, TypeError, ValueError) as error:
        raise FederationError("A message without facts has arrived: install the same version everywhere.") from error


def _refused(word: str) -> None:
    raise ValueError(f"{word} is no number in JSON")


class Coordinator(Controller):
    """The coordinator's part of a job: asks the sites and averages their weights.

    Args:
        plan: the facts of a `Plan`, without its identity.
        folds: numbers, or `refit`.
    """

    def __init__(self, plan: dict[str, Any], folds: list[int | str]):
        super().__init__()
        end_with(os.getppid(), lambda: os._exit(1))  # of a server that was killed
        self.plan, self.folds = Plan(**{**plan, "sites": tuple(plan["sites"])}), folds
        self.progress: dict[str, Any] = {"step": "", "waiting_for": [], "said": [], "refused": None}
        self._heard = threading.Event()

    def start_controller(self, fl_ctx: FLContext) -> None:
        fl_ctx.get_engine().register_app_command(PROGRESS, self._answer_driver)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is left open: every round is on the disk."""

    def process_result_of_unknown_task(self, client, task_name, client_task_id, result, fl_ctx) -> None:
        """An answer to a question of an earlier attempt; the site has it in its checkpoint."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        settings = json.loads(os.environ[SETTINGS])
        run, plan = RunFolder(settings["output_dir"]), self.plan
        run = run.without(plan.left_out) if plan.left_out else run

        def ask(question: str, message: Message, sites: Collection[str]) -> dict[str, Message]:
            return self._ask(question, message, sites, abort_signal, fl_ctx)

        try:
            letters = letters_of(settings["sites"])
            if unknown := sorted({*plan.sites, *plan.asked} - letters.keys()):
                raise FederationError(
                    f"The kit of the server does not know {', '.join(unknown)}: copy it again from the kits."
                )
            plan = open_federation(run, plan, letters)
            for which in self.folds:
                federate(plan, which, run, letters, ask, self._say)
        except _Aborted:
            return
        except (FederationError, InputError, RunError, RecipeError, MedicalNetImportError, OSError) as error:
            self.progress["refused"] = str(error)
            print(f"server: {error}", flush=True)
            deadline = time.monotonic() + UNHEARD
            while not self._heard.wait(0.2) and not abort_signal.triggered and time.monotonic() < deadline:
                pass
            self.system_panic("the federation cannot go on", fl_ctx)

    def _ask(
        self, question: str, message: Message, sites: Collection[str], abort_signal: Signal, fl_ctx: FLContext
    ) -> dict[str, Message]:
        """Ask the sites at once, and wait for all of them. The first refusal ends it."""
        answers: dict[str, Message] = {}
        refusals: list[str] = []

        def heard(client_task: Any, fl_ctx: FLContext) -> None:
            site, result = client_task.client.name, client_task.result
            client_task.result = None  # free the weights
            try:
                answer = unpacked(result)
                if sentence := answer.facts.get("refused"):
                    refusals.append(printable(str(sentence)))
                else:
                    answers[site] = answer
                    self.progress["waiting_for"] = sorted(set(sites) - answers.keys())
            except FederationError as error:
                refusals.append(f"{site}: {error}")

        round_ = message.facts.get("round", "")
        self.progress |= {"step": f"{message.facts['which']} {question} {round_}", "waiting_for": sorted(sites)}
        task = Task(question, packed(message), result_received_cb=heard)
        self.broadcast(task, fl_ctx, targets=list(sites), min_responses=len(sites))
        while len(answers) < len(sites):
            if abort_signal.triggered:
                raise _Aborted
            if refusals:
                self.cancel_task(task)
                raise FederationError(refusals[0])
            time.sleep(0.1)
        return answers

    def _say(self, sentence: str) -> None:
        self.progress["said"] = [*self.progress["said"], sentence]
        print(f"server: {sentence}", flush=True)

    def _answer_driver(self, topic: str, data: Any, fl_ctx: FLContext) -> dict[str, Any]:
        if self.progress["refused"]:
            self._heard.set()
        return dict(self.progress)


def printable(sentence: str) -> str:
    """A sentence of a site, for the coordinator's screen: one line of a moderate length, without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in sentence[:500])


class _Aborted(Exception):
    """The driver has aborted the job."""


class SiteExecutor(Executor):
    """A site's part of a job. It reads where the scans are from its own environment, never from the job."""

    def __init__(self) -> None:
        super().__init__()
        end_with(os.getppid(), lambda: os._exit(1))  # a site that was killed must not go on training
        self._site: Site | None = None

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        name = fl_ctx.get_identity_name()
        try:
            return packed(self._opened(name).answer(task_name, unpacked(shareable)))
        except FederationError as error:
            return packed(Message({"refused": str(error)}))
        except Exception as error:
            # the text of an unexpected error may name a path or an infant: it stays here
            traceback.print_exc()
            sentence = f"{name} has met an unexpected error ({type(error).__name__}). Its own screen says more."
            return packed(Message({"refused": sentence}))

    def _opened(self, name: str) -> Site:
        if self._site is None:
            settings = json.loads(os.environ[SETTINGS])
            labels = settings["labels"] and Path(settings["labels"])
            self._site = Site(
                name, settings["seed"], Path(settings["data_dir"]), labels, RunFolder(settings["output_dir"]),
                share_scores=settings["share_scores"], patience=PATIENCE,
            )  # fmt: skip
        return self._site

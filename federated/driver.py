"""`python -m federated run`: hands jobs to the server, watches them, and starts again what has died.

NVFlare waits for ever for a site that has gone. So every question has a time limit here: when it is over, or the job
has died, the job is aborted and handed in again. All state is in the rounds of the server and in the checkpoints of the
sites, so what is lost is the round that was not complete.
"""

import io
import json
import logging
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from nvflare.fuel.flare_api import api_spec
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
from nvflare.fuel.hci.proto import MetaStatusValue

from machine.programs import one_line
from run_folder.files import InputError, write_json

from .kits import CLASSES
from .messages import QUESTIONS, FederationError, Plan
from .parties import PROGRESS, check_kit
from .sites import SERVER

POLL = 2.0  # seconds
ATTEMPTS = 5  # of one step; then the driver gives up
START = 300.0  # seconds that a job may take to start
SETTLED = 30.0  # seconds after which a party that does not know the job has lost it
PATIENCE = 3  # times that it is seen so
# the server has gone, or is coming back
GONE = (api_spec.NoConnection, api_spec.SessionClosed, api_spec.AuthenticationError)
LOST = (*GONE, api_spec.NoReply, api_spec.InternalError)


def drive(
    kit: Path, plan: Plan, folds: list[int | str], round_timeout: float, say: Callable[[str], object] = print
) -> None:
    """Train folds with the sites of a plan. Returns when they are done.

    Args:
        kit: the coordinator's startup kit.
        plan: without an identity, which the server's run folder gives it.
        folds: numbers, or `refit`.
        round_timeout: seconds that one question, such as a round, may take; and how long to wait for a missing site.
        say: prints the progress.

    Raises:
        InputError: the kit is in use, not whole or has expired.
        FederationError: a site refuses, or one step has failed `ATTEMPTS` times.
    """
    check_kit(kit)
    logging.disable(logging.ERROR)  # NVFlare logs each connection that is not there yet
    failures: dict[str, int] = {}
    lock = FileLock(kit / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{kit} is in use by another process: end that one first.") from error
    driver = _Driver(kit, say)
    try:
        with tempfile.TemporaryDirectory(prefix="gloresnet-job-") as folder:
            while True:
                connected = driver.wait_for(plan.sites, round_timeout)
                if plan.left_out:
                    plan = replace(plan, absent=plan.left_out not in connected)
                if plan.absent:
                    say(f"{plan.left_out} is not connected, so the joint model is not scored there")
                write_job(Path(folder), plan, folds)
                step, problem = driver.run_job(folder, plan.asked, round_timeout)
                if problem is None:
                    return
                failures[step] = failures.get(step, 0) + 1
                where = step or "the start"
                if failures[step] >= ATTEMPTS:
                    raise FederationError(
                        f"{problem}, {ATTEMPTS} times at the same place ({where}). The rounds so far are kept: look at "
                        "the sites, then run the same command again."
                    )
                say(f"{problem} ({where}); trying again from the newest complete round")
    finally:
        driver.close()
        lock.release()


def write_job(folder: Path, plan: Plan, folds: list[int | str]) -> None:
    """Write a job for NVFlare: two classes by name, the plan, and no code. Only the server gets the plan."""
    write_json(
        folder / "meta.json",
        {
            "name": "gloresnet",
            "resource_spec": {},
            "min_clients": len(plan.asked),
            "mandatory_clients": list(plan.asked),
            "deploy_map": {"coordinator": ["server"], "hospital": list(plan.asked)},
        },
    )
    facts = {name: value for name, value in plan.facts().items() if name != "identity"}
    coordinator = {"id": "coordinator", "path": CLASSES[SERVER], "args": {"plan": facts, "folds": folds}}
    executor = {"tasks": list(QUESTIONS), "executor": {"path": CLASSES["site"], "args": {}}}
    common: dict[str, Any] = {"format_version": 2, "components": [], "task_data_filters": [], "task_result_filters": []}
    server, hospital = {**common, "workflows": [coordinator]}, {**common, "executors": [executor]}
    write_json(folder / "coordinator" / "config" / "config_fed_server.json", server)
    write_json(folder / "hospital" / "config" / "config_fed_client.json", hospital)


class _Driver:
    """A login at the server that survives the server's end."""

    def __init__(self, kit: Path, say: Callable[[str], object]):
        self.kit, self.say = kit.resolve(), say
        admin = json.loads((self.kit / "startup" / "fed_admin.json").read_text(encoding="utf-8"))["admin"]
        self.user, self.host = admin["username"], admin["host"]
        self.session: Session | None = None
        self.job: str | None = None

    def close(self) -> None:
        """Abort the job that still runs, and log out."""
        with suppress(Exception):
            if self.job is not None:
                self._ask(lambda session: session.abort_job(self.job))
        self._log_out()

    def wait_for(self, sites: Collection[str], timeout: float) -> set[str]:
        """Wait until the server answers and all the sites are connected to it. Returns all connected sites.

        Raises:
            FederationError: they are not within the time.
        """
        deadline, said = time.monotonic() + timeout, ""
        while True:
            connected: set[str] = set()
            try:
                info = self._ask(lambda session: session.get_system_info())
                connected = {client.name for client in info.client_info}
                missing = sorted(set(sites) - connected)
                lacking = f"the sites {', '.join(missing)}" if missing else ""
            except LOST:
                lacking = f"the server at {self.host}"
            if not lacking:
                return connected
            if lacking != said:
                self.say(f"waiting for {lacking}")
                said = lacking
            if time.monotonic() > deadline:
                raise FederationError(
                    f"After {timeout:g} seconds, {lacking} cannot be reached: start what is missing, or leave a site "
                    "out (--leave_out), then run the same command again."
                )
            time.sleep(POLL)

    def run_job(self, folder: str, sites: Collection[str], timeout: float) -> tuple[str, str | None]:
        """Hand in a job and watch it.

        Returns:
            The step that it reached, and why it ended early: None if all is done.

        Raises:
            FederationError: a site or the server refuses.
        """
        step, since, said, lost, silent = "", time.monotonic(), 0, 0, 0
        while True:
            try:
                if self.job is None:
                    self._abort_all()
                    self.job = self._ask(lambda session: session.submit_job(folder))
                time.sleep(POLL)
                status = str(self._ask(lambda session: session.get_job_status(self.job)))
                if status.startswith("FINISHED"):
                    self.job = None
                    ended = status.partition(":")[2].lower().replace("_", " ")
                    return step, None if ended == "completed" else f"the job has ended ({ended})"
                progress = self._progress()
                silent = 0
            except LOST as error:
                silent += 1
                if silent < PATIENCE:
                    time.sleep(POLL)
                    continue
                self.job = None  # aborted before the next one is handed in
                return step, f"the server does not answer ({one_line(error)})"
            if progress is not None:
                for sentence in progress["said"][said:]:
                    self.say(sentence)
                said = len(progress["said"])
                if progress["refused"]:
                    raise FederationError(progress["refused"])
                if progress["step"] != step:
                    step, since = progress["step"], time.monotonic()
            waited = time.monotonic() - since
            if waited > (timeout if step else max(timeout, START)):
                late = ", ".join(progress["waiting_for"]) if progress else "the server's job"
                return step, self._abort(f"no answer from {late} within {timeout:g} seconds")
            # a server or a site that was started again does not know the job; all have had it when they train
            settled = waited > SETTLED or " train " in step
            without = self._without_job(sites) if status == "RUNNING" and settled else []
            lost = lost + 1 if without else 0
            if lost >= PATIENCE:
                return step, self._abort(f"{', '.join(without)} has lost the job")

    def _abort(self, problem: str) -> str:
        """Abort the job, wait until it has ended, and return the problem."""
        with suppress(*LOST, api_spec.JobNotRunning, api_spec.JobNotFound):
            self._ask(lambda session: session.abort_job(self.job))
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                if str(self._ask(lambda session: session.get_job_status(self.job))).startswith("FINISHED"):
                    break
                time.sleep(POLL)
        self.job = None
        return problem

    def _abort_all(self) -> None:
        """Abort what an earlier driver has left, and what a server that was killed still takes for running."""
        for job in self._ask(lambda session: session.list_jobs()) or []:
            if not str(job.get("status")).startswith("FINISHED"):
                with suppress(api_spec.InternalError, api_spec.JobNotRunning, api_spec.JobNotFound):
                    self._ask(methodcaller("abort_job", job["job_id"]))

    def _progress(self) -> dict[str, Any] | None:
        """What the coordinator's job says; None while it starts."""
        try:
            return self._ask(lambda session: session.do_app_command(self.job, PROGRESS, {}))
        except (api_spec.JobNotRunning, api_spec.InternalError, api_spec.NoReply):
            return None

    def _without_job(self, sites: Collection[str]) -> list[str]:
        """The parties that do not know the job, and the sites that the server has lost."""
        try:
            info = self._ask(lambda session: session.get_system_info())
        except LOST:
            return []  # the next poll says so
        if not any(job.job_id == self.job for job in info.job_info):
            return ["the server"]
        lost = set(sites) - {client.name for client in info.client_info}
        with suppress(api_spec.NoClientsAvailable, *LOST):
            rows = self._ask(lambda session: session.get_client_job_status()) or []
            lost |= {row["client_name"] for row in rows if row.get("status") == MetaStatusValue.NO_JOBS} & set(sites)
        return sorted(lost)

    def _ask(self, call: Callable[[Session], Any]) -> Any:
        """Ask the server, after a new login if the last one is lost."""
        if self.session is None:
            with redirect_stdout(io.StringIO()):  # "Connecting to FLARE ..."
                self.session = new_secure_session(self.user, str(self.kit), timeout=20.0, auto_login_max_tries=1)
        try:
            return call(self.session)
        except GONE:
            self._log_out()
            raise

    def _log_out(self) -> None:
        if self.session is not None:
            with suppress(Exception):
                self.session.close()
        self.session = None

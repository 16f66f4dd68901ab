"""`python -m federated server` and `site`: start NVFlare's part in the foreground, and end all of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from cryptography import x509
from filelock import FileLock, Timeout

from machine.version import PROJECT
from run_folder.files import InputError, read_json, write_json

from .messages import FederationError

SETTINGS = "GLORESNET_FEDERATED"  # environment variable: what this command was told, as JSON
PROGRESS = "gloresnet_progress"  # what the driver asks the coordinator's job


def check_kit(kit: Path, now: datetime | None = None) -> None:
    """Check that a kit is whole and its certificate valid, since NVFlare would only wait; and close it to other users.

    Args:
        kit: of anybody.
        now: default: the time.

    Raises:
        InputError: a file is missing or damaged, or the certificate has expired.
    """
    startup = kit / "startup"
    party = "server" if (startup / "fed_server.json").is_file() else "client"
    for name in (f"{party}.crt", f"{party}.key", "rootCA.pem"):
        if not (startup / name).is_file():
            raise InputError(f"{kit} is not whole (startup/{name} is missing): copy the whole kit again.")
    try:
        end = x509.load_pem_x509_certificate((startup / f"{party}.crt").read_bytes()).not_valid_after_utc
    except ValueError as error:
        raise InputError(f"{startup / party}.crt is damaged: copy the whole kit again.") from error
    if end < (now or datetime.now(UTC)):
        raise InputError(
            f"The certificate in {kit} expired on {end:%Y-%m-%d}: the coordinator has to make new kits for all in "
            "another folder."
        )
    with suppress(PermissionError):  # a copy may have lost its permissions; some file systems have none
        kit.chmod(0o700)


def run_party(kind: str, name: str, kit: Path, settings: Mapping[str, Any]) -> None:
    """Run the server or a client until it ends or this process is interrupted.

    Args:
        kind: `server` or `client`.
        name: of the party.
        kit: its startup kit. NVFlare writes its log, jobs and snapshots there.
        settings: for `federated.flare`, which runs in the jobs.

    Raises:
        InputError: the kit is in use, not whole or has expired.
        FederationError: NVFlare has ended.
    """
    check_kit(kit)
    try:
        with FileLock(kit / ".lock", timeout=0):
            _run(kind, name, kit.resolve(), settings)
    except Timeout as error:
        raise InputError(f"{kit} is in use by another process: end that one first.") from error


def _run(kind: str, name: str, kit: Path, settings: Mapping[str, Any]) -> None:
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, SETTINGS: json.dumps(dict(settings)), "PYTHONUNBUFFERED": "1"}
    before = os.umask(0o077)  # jobs, snapshots and logs are the owner's
    try:
        if kind == "server":
            _keep_jobs_private(kit)
        process = subprocess.Popen(
            [sys.executable, "-m", "federated.party", kind, str(kit), name],
            env=environment,
            cwd=kit,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # so that Ctrl-C reaches this process only
        )
    finally:
        os.umask(before)
    try:
        status = process.wait()
    finally:
        end(process)
    raise FederationError(f"NVFlare's {kind} has ended with status {status}: {kit}/log.txt says more.")


def _keep_jobs_private(kit: Path) -> None:
    """Let the server store jobs in its kit, wherever that is now. NVFlare's own places are readable by everybody."""
    path = kit / "local" / "resources.json"
    resources = read_json(path)
    resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(kit / "snapshots")
    manager = next(part for part in resources["components"] if part["id"] == "job_manager")
    manager["args"]["uri_root"] = str(kit / "jobs")
    write_json(path, resources)


def end(process: subprocess.Popen, grace: float = 2.0) -> None:
    """End a process and all that it has started. Every file is written so that this can happen at any moment."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + grace
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    for child in family:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()

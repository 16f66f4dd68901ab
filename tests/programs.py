"""Start Python programs quickly: each is forked from a process that has already imported the slow libraries.

Most of the time of a small program is spent on imports. A forked program finds those libraries imported that do not
read the environment on import. It imports the Hugging Face libraries, which do (HF_HOME, HF_ENDPOINT), and this project
itself. A program with the environment of the tests can share these too: see `PROJECT`.
"""

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
TIME_LIMIT = 300  # seconds until a test fails instead of waiting
LIBRARIES = (
    *("torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "torch.export"),
    *("scipy.stats", "scipy.optimize", "scipy.ndimage", "sklearn.metrics", "sklearn.model_selection"),
    *("nibabel", "pandas", "pyarrow.dataset", "PIL.Image", "statsmodels.genmod.generalized_linear_model"),
    *("fastapi", "httpx", "jinja2", "pydantic", "rich", "uvicorn"),
)
# imported for programs with the environment of the tests; most of them train, and no test reads their figures
PROJECT = ("train", "evaluation.report", "tests.unrendered")
# flags of the run in `finished_training`: the small network, on tiny volumes
SMALL = (
    "--architecture compact --image_size 16 --num_folds 2 --num_train_epochs 2 --per_device_train_batch_size 4 "
    "--init random"
).split()


class Program:
    """A running program with the methods of `subprocess.Popen` that the tests use.

    Args:
        arguments: those of Python: `FILE ...`, `-m MODULE ...` or `-c CODE ...`.
        cwd: the program's working directory.
        environment: all of its environment variables.
        imported: modules that are already imported when it starts.
    """

    def __init__(self, arguments, cwd, environment: dict[str, str], imported: tuple[str, ...] = LIBRARIES):
        self.arguments, self.returncode = [str(word) for word in arguments], None
        self.stdout = self.stderr = ""  # complete output, available after it has ended
        self.folder = Path(tempfile.mkdtemp(prefix="gloresnet-program-"))
        self.connection, self.heard = socket.socket(socket.AF_UNIX), b""
        self.connection.connect(_server(imported))
        request = {"arguments": self.arguments, "cwd": str(cwd), "environment": dict(environment)}
        request |= {name: str(self.folder / name) for name in ("output", "errors")}
        self.connection.sendall(json.dumps(request).encode() + b"\n")
        self.pid = self._answer(TIME_LIMIT)

    def _answer(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while b"\n" not in self.heard:
            self.connection.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                heard = self.connection.recv(64)
            except TimeoutError as error:
                raise subprocess.TimeoutExpired(self.arguments, timeout) from error
            if not heard:
                raise RuntimeError("The process that forks the programs has died: see its standard error.")
            self.heard += heard
        answer, self.heard = self.heard.split(b"\n", 1)
        return int(answer)

    def wait(self, timeout: float = TIME_LIMIT) -> int:
        """Wait for the end. Returns the exit status, negative after a signal."""
        if self.returncode is None:
            self.returncode = self._answer(timeout)
            self.connection.close()
            # a program that is killed early leaves no output files
            files = [self.folder / name for name in ("output", "errors")]
            self.stdout, self.stderr = (file.read_text() if file.exists() else "" for file in files)
            shutil.rmtree(self.folder)
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_program(
    arguments, cwd, environment: dict[str, str], imported: tuple[str, ...] = LIBRARIES
) -> subprocess.CompletedProcess:
    """Run a `Program` to its end. Returns its exit status and output."""
    return _ended(Program(arguments, cwd, environment, imported))


def start_train(arguments, cwd) -> Program:
    """Start `python train.py ARGUMENTS` in the folder `cwd` with the environment of the tests."""
    return Program([ROOT / "train.py", *arguments], cwd, os.environ, PROJECT)


def run_train(arguments, cwd) -> subprocess.CompletedProcess:
    """Run `start_train` to its end. Returns its exit status and output."""
    return _ended(start_train(arguments, cwd))


def exit_status(main: Callable[[list[str]], int], arguments: list[str]) -> int | str | None:
    """Call a program's `main` in this process. argparse ends a wrong call by SystemExit; others return their status."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code


def _ended(program: Program) -> subprocess.CompletedProcess:
    try:
        program.wait()
    finally:
        program.kill()
    return subprocess.CompletedProcess(program.arguments, program.wait(), program.stdout, program.stderr)


@cache
def _server(imported: tuple[str, ...]) -> str:
    """Return the socket address of a process that has imported these modules. It is started on the first call."""
    folder = tempfile.mkdtemp(prefix="gloresnet-server-")
    address = str(Path(folder, "socket"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "forking.py", str(listener.fileno()), *imported],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            env=environment if imported == LIBRARIES else environment | {"PYTHONPATH": str(ROOT)},
        )
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return address

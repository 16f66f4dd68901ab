"""A program ends by Ctrl-C and SIGTERM with one sentence and status 130, and its workers end with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from machine import interruption
from machine.programs import INTERRUPTED
from tests.processes import descendants, leftovers, wait_until, wait_until_gone

ROOT = Path(interruption.__file__).parent.parent
PROGRAM = """
if __name__ == "__main__":
    from machine.interruption import begin_program
    begin_program("program")

import functools, os, subprocess, sys, time
from pathlib import Path
from machine.programs import run_program
from machine.workers import in_workers
from run_folder.files import replacing

def write(name):
    with replacing(name) as temporary:
        temporary.write_text("half")
        time.sleep(1000)

def workers(method):
    with in_workers(write, ["a", "b"], 2, start_method=method) as results:
        list(results)

def hang():
    for _ in range(2):
        try:
            Path("hanging").touch()
            time.sleep(1000)
        except KeyboardInterrupt:  # as a library may do
            Path("swallowed").touch()

class Destroyed:
    def __del__(self):
        Path("destroying").touch()
        time.sleep(1000)  # an exception here is lost

def destroy():
    with replacing("a") as temporary:
        temporary.write_text("half")
        Destroyed()
        time.sleep(1000)

def another_error():
    try:
        Path("working").touch()
        time.sleep(1000)
    except KeyboardInterrupt as error:  # as the workers of `datasets` do
        raise TimeoutError("a library's own error") from error

def start_another():
    environment = os.environ | {"GLORESNET_STARTED_BY": str(os.getpid())}
    subprocess.run([sys.executable, __file__, "workers", "fork"], env=environment)

if __name__ == "__main__":
    from machine import interruption
    interruption.GRACE = 1.0
    name, *arguments = sys.argv[1:]
    if name == "importing":
        Path("importing").touch()
        time.sleep(1000)
    sys.exit(run_program("program", functools.partial(globals()[name], *arguments), interrupted="stopped"))
"""


@pytest.fixture
def start(tmp_path):
    """Start the program in a session, that is a process group, of its own."""
    started = []

    def start(*arguments):
        (tmp_path / "program.py").write_text(PROGRAM)
        process = subprocess.Popen(
            [sys.executable, "program.py", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for child in descendants(process.pid):
            child.kill()
        process.kill()
        process.communicate()


def end_of(process):
    error = process.communicate(timeout=60)[1]
    return process.returncode, error


def parts(folder):
    return list(folder.glob(".*.part"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("reaches", ["the program", "all processes"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_with_workers(start, tmp_path, method, reaches, number):
    process = start("workers", method)
    wait_until(lambda: len(parts(tmp_path)) == 2)
    children = descendants(process.pid)
    (os.kill if reaches == "the program" else os.killpg)(process.pid, number)
    assert end_of(process) == (INTERRUPTED, "program: stopped.\n")
    wait_until_gone(children)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_end_when_their_program_was_killed(start, tmp_path, method):
    process = start("workers", method)
    wait_until(lambda: len(parts(tmp_path)) == 2)
    children = descendants(process.pid)
    process.kill()
    process.wait()
    wait_until_gone(children)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_ends_with_the_one_that_started_it(start, tmp_path, number):
    process = start("start_another")
    wait_until(lambda: len(parts(tmp_path)) == 2)
    children = descendants(process.pid)
    assert len(children) == 3
    process.send_signal(number)
    assert end_of(process)[0] == (INTERRUPTED if number == signal.SIGTERM else -signal.SIGKILL)
    wait_until_gone(children)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("moment", "sentence"),
    [("importing", "interrupted"), ("hang", "stopped"), ("destroy", "stopped"), ("another_error", "stopped")],
)
def test_one_signal_is_enough_at_any_moment(start, tmp_path, moment, sentence, number):
    file = {"hang": "hanging", "destroy": "destroying", "another_error": "working"}.get(moment, moment)
    process = start(moment)
    wait_until((tmp_path / file).exists)
    process.send_signal(number)
    assert end_of(process) == (INTERRUPTED, f"program: {sentence}.\n")
    assert not leftovers(tmp_path)


def test_the_launcher_of_a_program_is_found_by_its_command(monkeypatch):
    assert interruption._launcher() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    commands = {
        "/venv/bin/python /venv/bin/accelerate launch train.py": True,
        "python -m torch.distributed.run --nproc_per_node 2 train.py": True,
        "bash accelerate.sh": False,
        "": False,
    }
    for command, is_launcher in commands.items():
        monkeypatch.setattr(psutil.Process, "cmdline", lambda _self, command=command: command.split())
        assert interruption._launcher() == (os.getppid() if is_launcher else None)

"""A program forked for a test starts and ends like one started from a shell."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.programs import Program, run_program

SHOW = """
import importlib.util, json, os, sys, tempfile
print(json.dumps({
    "argv": sys.argv, "cwd": os.getcwd(), "temp": tempfile.gettempdir(), "name": __name__, "input": sys.stdin.read(),
    "environment": dict(os.environ), "first": importlib.util.find_spec("first") is not None,
    "project": importlib.util.find_spec("screening") is not None,
}))
"""


def both(arguments, cwd, environment):
    shell = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    return shell, run_program(arguments, cwd, environment)


@pytest.mark.parametrize("arguments", [["-c", SHOW, "a b"], ["-m", "show", "a b"], ["show.py", "a b"]], ids=str)
def test_it_sees_the_same_arguments_and_environment(arguments, tmp_path):
    (tmp_path / "show.py").write_text(SHOW)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "first.py").touch()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "lib"), "TMPDIR": str(tmp_path)}
    shell, forked = both(arguments, tmp_path, environment)
    assert shell.returncode == forked.returncode == 0, forked.stderr
    expected, found = json.loads(shell.stdout), json.loads(forked.stdout)
    expected["environment"].pop("LC_CTYPE", None)  # Python sets it where there is no locale
    assert found == expected
    assert found["first"] and not found["project"]


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit()",
        "import sys; sys.exit(3)",
        "import sys; print('said'); sys.exit('complaint')",
        "import atexit; atexit.register(print, 'last'); print('first')",
        "import os, signal; print('lost'); os.kill(os.getpid(), signal.SIGTERM)",
    ],
)
def test_it_ends_with_the_same_status_and_output(code, tmp_path):
    shell, forked = both(["-c", code], tmp_path, os.environ)
    assert (forked.returncode, forked.stdout, forked.stderr) == (shell.returncode, shell.stdout, shell.stderr)


def test_an_exception_is_reported_and_a_running_program_can_be_killed(tmp_path):
    failed = run_program(["-c", "raise ValueError('why')"], tmp_path, os.environ)
    assert failed.returncode == 1 and failed.stderr.endswith("ValueError: why\n")
    program = Program(["-c", "import time; print('here', flush=True); time.sleep(60)"], tmp_path, os.environ)
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(timeout=0.1)
    assert program.poll() is None
    program.kill()
    assert program.wait() == -signal.SIGKILL and not program.folder.exists()

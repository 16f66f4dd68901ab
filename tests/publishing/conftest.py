"""Call publish.py as a user would, several times in one process."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.hub_server import TOKEN
from tests.programs import run_program

ROOT = Path(__file__).parent.parent.parent

DRIVER = """
import contextlib, io, json, os, sys
sys.path.insert(0, sys.argv[1])
import publish
answers = []
for call, token in json.loads(sys.argv[2]):
    os.environ["HF_TOKEN"] = token
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = publish.main(call)
        except SystemExit as ended:  # of argparse
            code = ended.code
    answers.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
print(json.dumps(answers))
"""


@pytest.fixture(scope="session")
def publish(tmp_path_factory):
    """Call publish.py several times in one new process that knows only the given Hub. One process saves import time.

    A call is a list of arguments. If the first is `token=...`, the call uses that token.
    """

    def run_calls(hub, *calls, **environment):
        folder = tmp_path_factory.mktemp("elsewhere")
        tokens = [str(call[0]).removeprefix("token=") if str(call[0]).startswith("token=") else TOKEN for call in calls]
        calls = [[str(word) for word in call if not str(word).startswith("token=")] for call in calls]
        result = run_program(
            ["-c", DRIVER, ROOT, json.dumps(list(zip(calls, tokens, strict=True)))],
            folder,
            os.environ | hub.environment(folder / "home") | environment,
        )
        assert result.returncode == 0, result.stderr
        return [SimpleNamespace(**answer) for answer in json.loads(result.stdout.splitlines()[-1])]

    return run_calls

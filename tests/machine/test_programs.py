"""How a program ends: one sentence on standard error and an exit status, but a traceback for a bug."""

import errno
import os
import subprocess
import sys

import pytest

from machine.programs import FAILED, INTERRUPTED, WRONG_CALL, complain, explain, one_line, run_program


class WrongSettingError(ValueError):
    pass


def raising(error):
    def job():
        raise error

    return job


@pytest.mark.parametrize(("answer", "status"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_the_jobs_answer_is_the_status(answer, status, capsys):
    assert run_program("train.py", lambda: answer) == status
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (WrongSettingError("no such fold"), WRONG_CALL, "no such fold."),
        (OSError("disk full"), FAILED, "disk full."),
        (KeyboardInterrupt(), INTERRUPTED, "stopped."),
    ],
)
def test_an_expected_error_is_one_sentence(error, status, sentence, capsys):
    found = run_program("train.py", raising(error), wrong_call=(WrongSettingError,), interrupted="stopped")
    assert found == status and (WRONG_CALL, FAILED, INTERRUPTED) == (2, 1, 130)
    assert capsys.readouterr() == ("", f"train.py: {sentence}\n")


def opened(path, tmp_path):
    (tmp_path / "file").touch()
    return lambda: open(tmp_path / path, "w")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (".", "is a directory; choose another place"),
        ("file/below", "not a directory; choose another place"),
        ("gone/below", "no such file or directory; check that it exists and is spelt correctly"),
    ],
)
def test_an_error_of_the_system_names_the_file_and_says_what_to_do(path, reason, tmp_path, capsys):
    assert run_program("train.py", opened(path, tmp_path)) == FAILED
    assert capsys.readouterr().err == f"train.py: {tmp_path / path} cannot be used: {reason}.\n"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space, then run the same command again"),
        (errno.EACCES, "change its permissions, or choose another place"),
        (errno.EROFS, "change its permissions, or choose another place"),
        (errno.EIO, "check the path and the disk"),
    ],
)
def test_advice_for_errors_of_the_system(number, advice):
    reason = os.strerror(number)
    assert explain(OSError(number, reason, "x.csv")) == f"x.csv cannot be used: {reason.lower()}; {advice}"
    assert explain(OSError("two words")) == "two words"


def test_a_wrong_call_is_checked_before_a_failure():
    status = run_program("x", raising(WrongSettingError("a")), wrong_call=(WrongSettingError,), failed=(ValueError,))
    assert status == WRONG_CALL


def test_a_bug_keeps_its_traceback(capsys):
    with pytest.raises(ValueError, match="a bug"):
        run_program("train.py", raising(ValueError("a bug")), wrong_call=(WrongSettingError,))
    assert capsys.readouterr().err == ""


def test_an_argument_error_passes_through():
    with pytest.raises(SystemExit):
        run_program("train.py", raising(SystemExit(2)))


def test_complain_and_one_line(capsys):
    assert complain("app.py", "the port is in use", FAILED) == 1
    assert capsys.readouterr().err == "app.py: the port is in use.\n"
    assert one_line(ValueError("first line\n  second line")) == "first line second line"
    assert one_line(MemoryError()) == "MemoryError"


def test_a_job_that_swallowed_ctrl_c_is_interrupted_all_the_same():
    program = """
from machine.interruption import begin_program
begin_program("x.py")
import os, signal, sys
from machine.programs import run_program
def job():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    except KeyboardInterrupt:
        pass
sys.exit(run_program("x.py", job, interrupted="stopped"))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (130, "x.py: stopped.\n")

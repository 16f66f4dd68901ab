"""How a program ends: one sentence on standard error and an exit status, but a traceback for a bug."""

import pytest

from machine.programs import FAILED, INTERRUPTED, WRONG_CALL, complain, one_line, run_program


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

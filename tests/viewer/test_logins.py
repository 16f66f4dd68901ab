"""Guessing a password is slow, for the one who guesses."""

from types import SimpleNamespace

import pytest
from fastapi import HTTPException

from viewer import logins as module
from viewer.logins import FORGET_AFTER, NAME_GROUPS, REMEMBERED, Logins, client_address


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    clock = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))  # not for event loops
    return clock


@pytest.fixture
def logins(clock):
    return Logins([("anna", "secret"), ("bert", "pässwörd")])


def attempt(logins, password, user="anna", address="127.0.0.1"):
    """True, False, or the seconds to wait."""
    client_address.set(address)
    try:
        return logins(user, password)
    except HTTPException as error:
        assert error.status_code == 429 and f"Try again in {error.headers['Retry-After']} second" in error.detail
        return int(error.headers["Retry-After"])


def test_passwords_are_checked(logins):
    assert attempt(logins, "secret") is True and attempt(logins, "pässwörd", "bert") is True
    assert attempt(logins, "Secret") is False and attempt(logins, "", "nobody") is False


def test_after_three_failures_every_further_one_doubles_the_wait(logins, clock):
    waits = []
    for _ in range(3):
        assert attempt(logins, "guess") is False
    for _ in range(9):
        waits.append(attempt(logins, "secret"))  # the right password does not help before the wait is over
        clock[0] += waits[-1]
        assert attempt(logins, "guess") is False
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    clock[0] += 60
    assert attempt(logins, "secret") is True
    assert attempt(logins, "guess") is False and attempt(logins, "secret") is True  # forgiven


def test_others_do_not_wait(logins):
    for _ in range(3):
        attempt(logins, "guess")
    assert attempt(logins, "secret") == 1
    assert attempt(logins, "pässwörd", "bert") is True  # another user of the same address
    assert attempt(logins, "secret", address="127.0.0.2") is True


def test_a_customer_with_many_addresses_of_version_6_counts_as_one(logins):
    for number in range(3):
        attempt(logins, "guess", address=f"2001:db8::{number}")
    assert attempt(logins, "secret", address="2001:db8::ffff") == 1
    assert attempt(logins, "secret", address="2001:db8:0:1::1") is True


def test_failures_are_forgotten_after_a_while_and_use_little_memory(logins, clock):
    for _ in range(4):
        attempt(logins, "guess")
        clock[0] += 1
    clock[0] += FORGET_AFTER
    assert attempt(logins, "secret") is True
    for number in range(REMEMBERED + 100):
        attempt(logins, "guess", user=f"name {number}")
    assert len(logins._failures) <= NAME_GROUPS
    for number in range(REMEMBERED + 100):
        attempt(logins, "guess", address=f"127.0.{number // 256}.{number % 256}")
    assert len(logins._failures) == REMEMBERED


def test_the_wait_does_not_show_which_names_exist(logins):
    for user in ("anna", "nobody"):
        assert [attempt(logins, "guess", user) for _ in range(4)] == [False, False, False, 1]

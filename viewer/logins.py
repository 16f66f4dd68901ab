"""Passwords, and how fast they can be guessed."""

import hmac
import ipaddress
import math
import time
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from contextvars import ContextVar

from fastapi import HTTPException

FREE_FAILURES = 3  # without a wait
LONGEST_WAIT = 60.0  # seconds between two attempts
FORGET_AFTER = 900.0  # seconds without an attempt until failures are forgotten
NAME_GROUPS = 64  # per client; users of one group wait for each other
REMEMBERED = 4096  # groups with failures; the one without attempts for longest is forgotten first

client_address: ContextVar[str] = ContextVar("client_address", default="")


class Logins:
    """Checks a user and password, and slows a client down that fails.

    Only attempts from the same address for the same group of names wait, so that nobody can lock out others.
    """

    def __init__(self, passwords: Sequence[tuple[str, str]]):
        self.passwords = dict(passwords)
        self._failures: OrderedDict[tuple[str, int], tuple[int, float]] = OrderedDict()  # how many, the last one

    def __call__(self, user: str, password: str) -> bool:
        """Whether this is the user's password. gradio calls it for each login.

        Raises:
            HTTPException: 429, the client has to wait after its failures. The password was not looked at.
        """
        # a group of names, known and unknown alike: bounded memory, and the wait does not show which names exist
        who = (network(client_address.get()), zlib.crc32(user.encode(errors="replace")) % NAME_GROUPS)
        now = time.monotonic()
        failed, last = self._failures.get(who, (0, -math.inf))
        if now - last > FORGET_AFTER:
            failed = 0
        wait = last + min(2.0 ** min(failed - FREE_FAILURES, 10), LONGEST_WAIT) - now
        if failed >= FREE_FAILURES and wait > 0:
            seconds = math.ceil(wait)
            sentence = f"Too many failed logins. Try again in {seconds} {'second' if seconds == 1 else 'seconds'}."
            raise HTTPException(429, sentence, {"Retry-After": str(seconds)})
        right = self.passwords.get(user)
        if right is not None and hmac.compare_digest(password.encode(), right.encode()):
            self._failures.pop(who, None)
            return True
        self._failures[who] = failed + 1, now
        self._failures.move_to_end(who)
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)
        return False


def network(address: str) -> str:
    """An address, of IPv6 only the half that one customer gets: the other half can be changed at will."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a test client, a Unix socket
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)

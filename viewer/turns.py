"""One scan at a time: the others wait in line, and are told so."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class LineIsFull(Exception):
    """So many are waiting that another one would wait for too long."""


class Turns:
    """Lets one caller at a time read a scan, in the order in which they came.

    Two scans at once would need twice the memory, and each would take twice as long.
    """

    def __init__(self, longest: int):
        """
        Args:
            longest: how many may wait.
        """
        self.longest = longest
        self._line: list[object] = []  # the first one has its turn
        self._moved = threading.Condition()

    @contextmanager
    def turn(self, tell: Callable[[int], None] = lambda ahead: None) -> Iterator[None]:
        """Wait for one's turn; it ends with the context.

        Args:
            tell: called with the number of callers ahead, at first and whenever the line moves, 0 when the turn comes.
                An exception of it leaves the line.

        Raises:
            LineIsFull: `longest` callers are waiting already.
        """
        place = object()
        with self._moved:
            if len(self._line) > self.longest:
                raise LineIsFull(f"{self.longest} scans are waiting already. Try again in a few minutes.")
            self._line.append(place)
        try:
            self._wait(place, tell)
            yield
        finally:
            with self._moved:
                self._line.remove(place)
                self._moved.notify_all()

    def _wait(self, place: object, tell: Callable[[int], None]) -> None:
        ahead = None
        while ahead != 0:
            with self._moved:
                while self._line.index(place) == ahead:
                    self._moved.wait()
                ahead = self._line.index(place)
            tell(ahead)

"""One scan at a time, in the order of arrival, and everyone knows their place."""

import threading
import time

import pytest

from viewer.turns import LineIsFull, Turns


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_one_at_a_time_in_the_order_of_arrival():
    turns, told, order, inside = Turns(10), {}, [], []

    def visit(name):
        with turns.turn(told.setdefault(name, []).append):
            inside.append(name)
            order.append(name)
            assert len(inside) == 1
            inside.remove(name)

    with turns.turn():
        threads = []
        for name in "abcd":
            threads.append(threading.Thread(target=visit, args=name))
            threads[-1].start()
            wait_until(lambda name=name: told.get(name))
        assert not order
    for thread in threads:
        thread.join(20)
    assert order == list("abcd")
    assert told["a"] == [1, 0] and [places[0] for places in told.values()] == [1, 2, 3, 4]
    assert all(places == sorted(set(places), reverse=True) and places[-1] == 0 for places in told.values())


def test_a_full_line_refuses_and_an_error_gives_the_place_back():
    turns = Turns(0)
    with turns.turn(), pytest.raises(LineIsFull, match="Try again in a few minutes"), turns.turn():
        pass
    with pytest.raises(ZeroDivisionError), turns.turn():
        raise ZeroDivisionError
    with turns.turn():
        pass


def test_who_has_left_leaves_the_line():
    turns, left = Turns(10), []

    def gone(ahead):
        raise FileNotFoundError(ahead)

    def visit():
        with pytest.raises(FileNotFoundError), turns.turn(gone):
            pass
        left.append(True)

    with turns.turn():
        thread = threading.Thread(target=visit)
        thread.start()
        wait_until(lambda: left)
    with turns.turn():
        pass

"""A stop that signal handlers ask for, at any moment."""

from __future__ import annotations

import signal
import socket
import threading
import time
from multiprocessing.context import ForkProcess

from levelq_worker.process.fork import forked
from levelq_worker.support.stop import Stop

LONG = 60.0


def test_whoever_waits_hears_of_it() -> None:
    stop = Stop()
    assert not stop.is_set()
    waits = [threading.Thread(target=stop.wait, args=(LONG,)) for _ in range(3)]
    for wait in waits:
        wait.start()
    stop.set()
    for wait in waits:
        wait.join(LONG / 2)
        assert not wait.is_alive()
    assert stop.is_set()
    assert stop.wait(LONG)


def test_without_it_a_wait_lasts_as_long_as_it_was_said() -> None:
    begun = time.monotonic()
    assert not Stop().wait(0.02)
    assert time.monotonic() - begun >= 0.02


def test_the_shortest_wait_ends() -> None:
    """A SimpleQueue that was never asked before waited for ever within the first thousand of these."""

    def waiting() -> int:
        for _ in range(50_000):
            Stop().wait(0.000_001_1)
        return 0

    assert ended(forked(waiting, "waiting")) == 0


def ended(child: ForkProcess) -> int | None:
    """How it ended by itself; None if it hung."""
    child.join(LONG)
    code = child.exitcode
    child.kill()
    child.join()
    return code


def test_a_handler_may_ask_at_any_moment() -> None:
    """With a threading.Event this ends within a second: the thread waits for a lock of its own."""

    def bombarded() -> int:
        stop = Stop()

        def ask(*_: object) -> None:
            stop.set()
            stop.set()

        signal.signal(signal.SIGALRM, ask)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(100_000):
            stop = Stop()
            stop.wait(0.00001)
            stop.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        stop = Stop()
        signal.alarm(1)
        return 0 if stop.wait(LONG) else 1

    assert ended(forked(bombarded, "bombarded")) == 0


def test_whoever_listens_is_at_the_end_once_a_handler_asks() -> None:
    def listening() -> int:
        stop = Stop()
        near, _far = socket.socketpair()
        signal.signal(signal.SIGALRM, lambda *_: stop.set())
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with stop.shutting(near):
            return len(near.recv(1))

    assert ended(forked(listening, "listening")) == 0


def test_what_was_listened_on_before_is_left_open() -> None:
    stop = Stop()
    near, far = socket.socketpair()
    with stop.shutting(near):
        pass
    stop.set()
    far.send(b"x")
    assert near.recv(1) == b"x"
    near.close()
    far.close()

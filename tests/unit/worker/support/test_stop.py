"""A stop that signal handlers set, at any moment."""

import signal
import socket
import threading
import time
from collections.abc import Callable

from levelq_worker.process.fork import forked
from levelq_worker.support.stop import Stop

LONG = 60.0


def exit_code(run: Callable[[], int]) -> int | None:
    """How a child that runs this ended by itself; None if it hung."""
    child = forked(run, "a-child")
    child.join(LONG)
    code = child.exitcode
    child.kill()
    child.join()
    return code


def test_every_waiting_thread_is_woken() -> None:
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


def test_a_wait_that_nothing_ends_lasts_as_long_as_it_should() -> None:
    begun = time.monotonic()
    assert not Stop().wait(0.02)
    assert time.monotonic() - begun >= 0.02


def test_the_shortest_wait_ends() -> None:
    """A SimpleQueue that was never read before waited for ever within the first thousand of these."""

    def waiting() -> int:
        for _ in range(10_000):
            Stop().wait(0.000_001_1)
        return 0

    assert exit_code(waiting) == 0


def test_a_handler_may_set_it_at_any_moment() -> None:
    """With a threading.Event this ends within a thousand waits: the thread waits for a lock of its own."""

    def bombarded() -> int:
        stop = Stop()

        def ask(*_: object) -> None:
            stop.set()
            stop.set()

        signal.signal(signal.SIGALRM, ask)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(5_000):
            stop = Stop()
            stop.wait(0.00001)
            stop.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        stop = Stop()
        signal.alarm(1)
        return 0 if stop.wait(LONG) else 1

    assert exit_code(bombarded) == 0


def test_a_read_ends_once_a_handler_sets_it() -> None:
    def listening() -> int:
        stop = Stop()
        near, _far = socket.socketpair()
        signal.signal(signal.SIGALRM, lambda *_: stop.set())
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with stop.ending_reads(near):
            return len(near.recv(1))

    assert exit_code(listening) == 0


def test_a_socket_that_is_no_longer_listened_on_stays_open() -> None:
    stop = Stop()
    near, far = socket.socketpair()
    with near, far:
        with stop.ending_reads(near):
            pass
        stop.set()
        far.send(b"x")
        assert near.recv(1) == b"x"

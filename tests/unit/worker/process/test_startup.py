"""The watch for stop signals while a command starts, each in a process of its own."""

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from levelq.laboratory.shutdown import Interrupts
from levelq_worker.process.fork import forked, reap_orphans
from levelq_worker.process.startup import hand_over, hand_over_unblocked, stop_signals, watch_for_stop

OK, WRONG, STOPPED = 0, 3, 7
ROUNDS = 50


def exit_code(run: Callable[[], int]) -> int | None:
    child = forked(run, "a-child")
    child.join(30)
    return child.exitcode


class Pipe:
    """A pipe between a child and its parent."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def send(self) -> None:
        os.write(self.writing, b"x")

    def receive(self) -> None:
        assert os.read(self.reading, 1) == b"x"


@pytest.fixture
def pipes() -> Iterator[Callable[[], Pipe]]:
    made: list[Pipe] = []

    def make() -> Pipe:
        made.append(Pipe())
        return made[-1]

    yield make
    for pipe in made:
        os.close(pipe.reading)
        os.close(pipe.writing)


def test_stop_signal_ends_a_process_whose_main_thread_returns_to_python_at_no_signal(pipes: Callable[[], Pipe]) -> None:
    started, held = pipes(), pipes()

    def in_c_code() -> int:
        os.close(held.writing)
        watch_for_stop(STOPPED)
        os.dup2(held.reading, 0)
        started.send()
        ctypes.CDLL(None).system(b"read line")  # as a name server that does not answer holds getaddrinfo(3)
        return WRONG

    child = forked(in_c_code, "in-c-code")
    started.receive()
    child.terminate()
    child.join(30)
    assert child.exitcode == STOPPED


def test_no_stop_signal_is_lost_while_the_watch_ends(pipes: Callable[[], Pipe]) -> None:
    started = pipes()

    def starting() -> int:
        watch_for_stop(STOPPED)
        started.send()
        hand_over()
        return OK if signal.sigwait([signal.SIGTERM]) else WRONG

    codes = set()
    for _ in range(ROUNDS):
        child = forked(starting, "starting")
        started.receive()
        child.terminate()
        child.join(30)
        codes.add(child.exitcode)
    assert codes <= {OK, STOPPED}


def test_after_the_hand_over_the_thread_has_ended_and_other_signals_are_as_before() -> None:
    def starting() -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        watch_for_stop(STOPPED)
        hand_over()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ()) - before
        return OK if blocked == stop_signals() and threading.active_count() == 1 else WRONG

    assert exit_code(starting) == OK


def test_handlers_run_after_an_unblocked_hand_over() -> None:
    def starting() -> int:
        numbers: list[int] = []
        watch_for_stop(STOPPED)
        for number in stop_signals():
            signal.signal(number, lambda number, _: numbers.append(number))
        hand_over_unblocked()
        for number in stop_signals():
            signal.raise_signal(number)
        return OK if set(numbers) == stop_signals() else WRONG

    assert exit_code(starting) == OK


def test_child_that_is_asked_to_stop_before_it_has_handlers_ends_as_after_a_clean_stop() -> None:
    def handlers_not_installed_yet() -> int:
        signal.raise_signal(signal.SIGTERM)
        return WRONG

    assert exit_code(handlers_not_installed_yet) == 0


def test_after_the_hand_over_a_stop_signal_stays_pending() -> None:
    def starting() -> int:
        watch_for_stop(STOPPED)
        hand_over()
        signal.raise_signal(signal.SIGTERM)
        return OK if signal.sigpending() == {signal.SIGTERM} else WRONG

    assert exit_code(starting) == OK


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stop_signal_interrupts_a_command_that_has_taken_over(number: signal.Signals) -> None:
    def starting() -> int:
        watch_for_stop(STOPPED)
        try:
            with Interrupts():
                signal.raise_signal(number)
        except KeyboardInterrupt:
            return OK
        return WRONG

    assert exit_code(starting) == OK


@pytest.mark.parametrize("code", [0, 5])
def test_reaping_leaves_the_own_children_to_their_parent(code: int) -> None:
    def reaping() -> int:
        own = subprocess.Popen(["sh", "-c", f"exit {code}"])
        os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)
        orphan = os.fork()
        if orphan == 0:
            os._exit(1)
        os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
        reap_orphans({own.pid})
        if own.wait() != code:
            return WRONG
        reap_orphans(())
        reap_orphans(())  # no children at all
        with suppress(ProcessLookupError):
            os.kill(orphan, 0)
            return WRONG
        return OK

    assert exit_code(reaping) == OK

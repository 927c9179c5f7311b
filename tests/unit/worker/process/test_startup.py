"""The watch for stop signals while a command starts, each in a process of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from contextlib import suppress

import pytest

from levelq.laboratory.shutdown import Interrupts
from levelq_worker.process.fork import forked, reap_orphans
from levelq_worker.process.startup import hand_over, hand_over_unblocked, stop_signals, watch_for_stop

OK, WRONG, STOPPED = 0, 3, 7
ROUNDS = 50


def test_stop_signal_ends_a_process_whose_main_thread_returns_to_python_at_no_signal() -> None:
    reading, writing = os.pipe()
    held, holding = os.pipe()

    def in_c_code() -> int:
        os.close(holding)
        watch_for_stop(STOPPED)
        os.dup2(held, 0)
        os.write(writing, b"x")
        ctypes.CDLL(None).system(b"read line")  # as a name server that does not answer holds getaddrinfo(3)
        return WRONG

    child = forked(in_c_code, "in-c-code")
    assert os.read(reading, 1) == b"x"
    child.terminate()
    child.join(30)
    assert child.exitcode == STOPPED
    for descriptor in (reading, writing, held, holding):
        os.close(descriptor)


def test_no_stop_signal_is_lost_while_the_watch_ends() -> None:
    reading, writing = os.pipe()

    def starting() -> int:
        watch_for_stop(STOPPED)
        os.write(writing, b"x")
        hand_over()
        return OK if signal.sigwait([signal.SIGTERM]) else WRONG

    codes = set()
    for _ in range(ROUNDS):
        child = forked(starting, "starting")
        os.read(reading, 1)
        child.terminate()
        child.join(30)
        codes.add(child.exitcode)
    assert codes <= {OK, STOPPED}
    os.close(reading)
    os.close(writing)


def test_after_the_hand_over_the_thread_has_ended_and_other_signals_are_as_before() -> None:
    def starting() -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        watch_for_stop(STOPPED)
        hand_over()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ()) - before
        return OK if blocked == stop_signals() and threading.active_count() == 1 else WRONG

    child = forked(starting, "starting")
    child.join(30)
    assert child.exitcode == OK


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

    child = forked(starting, "starting")
    child.join(30)
    assert child.exitcode == OK


def test_child_that_is_asked_to_stop_before_it_has_handlers_ends_as_after_a_clean_stop() -> None:
    def handlers_not_installed_yet() -> int:
        signal.raise_signal(signal.SIGTERM)
        return WRONG

    child = forked(handlers_not_installed_yet, "just-forked")
    child.join(30)
    assert child.exitcode == 0


def test_after_the_hand_over_a_stop_signal_stays_pending() -> None:
    def starting() -> int:
        watch_for_stop(STOPPED)
        hand_over()
        signal.raise_signal(signal.SIGTERM)
        return OK if signal.sigpending() == {signal.SIGTERM} else WRONG

    child = forked(starting, "starting")
    child.join(30)
    assert child.exitcode == OK


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

    child = forked(starting, "starting")
    child.join(30)
    assert child.exitcode == OK


@pytest.mark.parametrize("code", [0, 5])
def test_reaping_leaves_own_children_to_who_started_them(code: int) -> None:
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

    child = forked(reaping, "reaping")
    child.join(30)
    assert child.exitcode == OK

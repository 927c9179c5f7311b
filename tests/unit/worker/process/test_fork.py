"""A child that is forked: it ends with what its function returns, and is nobody's but the parent's."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from levelq_worker.process.fork import forked

OK, WRONG = 0, 3


@pytest.mark.parametrize("code", [0, 1, 2])
def test_it_ends_with_what_its_function_returns(code: int) -> None:
    child = forked(lambda: code, "a-child")
    child.join()
    assert child.exitcode == code


def test_it_has_what_its_parent_had_imported() -> None:
    before = set(sys.modules)

    def look() -> int:
        return OK if before <= set(sys.modules) else WRONG

    child = forked(look, "a-child")
    child.join()
    assert child.exitcode == OK


def test_it_hears_signals_that_its_parent_has_blocked_and_ctrl_c_at_the_terminal_does_not_reach_it() -> None:
    blocked = {signal.SIGTERM, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)

    def look() -> int:
        heard = not signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return OK if heard and os.getsid(0) == os.getpid() else WRONG

    try:
        child = forked(look, "a-child")
        child.join()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert child.exitcode == OK


def test_it_has_a_name_of_its_own() -> None:
    child = forked(lambda: OK if Path("/proc/self/comm").read_text() == "a-child\n" else WRONG, "a-child")
    child.join()
    assert child.exitcode == OK


def test_one_that_fails_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    child = forked(lambda: 1 // 0, "a-child")
    child.join()
    assert child.exitcode == 1
    assert "ZeroDivisionError" in capfd.readouterr().err

"""A forked child: it ends with what its function returns, and only its parent controls it."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from levelq_worker.process.fork import forked, with_parent

OK, WRONG = 0, 3
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def exit_code(run: Callable[[], int]) -> int | None:
    child = forked(run, "a-child")
    child.join()
    return child.exitcode


@pytest.mark.parametrize("code", [0, 1, 2])
def test_it_ends_with_what_its_function_returns(code: int) -> None:
    assert exit_code(lambda: code) == code


def test_it_has_what_its_parent_had_imported() -> None:
    before = set(sys.modules)
    assert exit_code(lambda: OK if before <= set(sys.modules) else WRONG) == OK


def test_it_receives_signals_that_its_parent_blocks_and_ctrl_c_at_the_terminal_does_not_reach_it() -> None:
    def look() -> int:
        unblocked = not signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return OK if unblocked and os.getsid(0) == os.getpid() else WRONG

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    try:
        assert exit_code(look) == OK
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_it_has_a_name_of_its_own() -> None:
    assert exit_code(lambda: OK if Path("/proc/self/comm").read_text() == "a-child\n" else WRONG) == OK


@pytest.mark.parametrize(
    ("handler", "ended"), [(signal.SIG_DFL, -signal.SIGTERM), (lambda *_: None, 1)], ids=["by it", "despite a handler"]
)
def test_one_whose_parent_died_before_it_asked_for_a_signal_ends_all_the_same(handler: Any, ended: int) -> None:
    """The test's process adopts it, as process 1 of a container would."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    orphans, parents_word = os.pipe()
    try:
        parent = os.fork()
        if parent == 0:
            try:
                signal.signal(signal.SIGTERM, handler)
                prepare, own = with_parent(signal.SIGTERM), os.getpid()
                child = os.fork()
                if child == 0:
                    while os.getppid() == own:
                        os.sched_yield()
                    prepare()
                else:
                    os.write(parents_word, b"%d" % child)
            finally:
                os._exit(WRONG)
        os.waitpid(parent, 0)
        _, status = os.waitpid(int(os.read(orphans, 20)), 0)
        assert os.waitstatus_to_exitcode(status) == ended
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0)
        os.close(orphans)
        os.close(parents_word)


def test_one_that_fails_writes_its_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: 1 // 0) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err

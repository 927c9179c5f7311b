"""Child processes that end with their parent, however the parent ends."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Container
from contextlib import suppress
from multiprocessing.context import ForkProcess

SAYS_WHERE = signal.SIGUSR1
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # linux/prctl.h


def with_parent(how: signal.Signals) -> Callable[[], None]:
    """What a child runs before its program: unblock signals and, on Linux, get `how` when the parent dies.

    The parent is the thread that starts the child, says prctl(2): let it be one that lives as long.
    """
    prctl = _prctl()

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        prctl(_PR_SET_PDEATHSIG, how)

    return prepare


def forked(run: Callable[[], int], name: str) -> ForkProcess:
    """Start a child that runs a function of ours and ends with what it returns.

    `name`, of at most 15 bytes, is what `ps -o comm` shows on Linux, where its command line is the parent's.

    At SAYS_WHERE each of its threads says where it stands, and the child ends.

    It has our modules already: to import them takes a program most of a second of a core, and after a crash all workers
    would need it at once. For a process of one thread, without open connections.
    """
    prepare, prctl = with_parent(signal.SIGTERM), _prctl()

    def begin() -> None:
        os.setsid()  # Ctrl-C reaches the parent alone; it passes it on
        for number in (signal.SIGTERM, signal.SIGINT):  # until `run` has handlers of its own; nothing has begun
            signal.signal(number, lambda *_: os._exit(0))
        prepare()
        prctl(_PR_SET_NAME, name.encode())
        faulthandler.register(SAYS_WHERE, file=2, chain=True)  # then what the signal does to a process: it ends
        sys.exit(run())

    child = multiprocessing.get_context("fork").Process(target=begin)
    child.start()
    return child


def reap_orphans(own: Container[int | None]) -> None:
    """Reap ended children of this process that are not its `own`: orphans that process 1 of a container adopts.

    Call it again at each SIGCHLD, after the own children that ended have been noted: it leaves those to whoever started
    them, and stops at the first it finds. On Linux; elsewhere it does nothing.
    """
    if sys.platform != "linux":
        return
    with suppress(ChildProcessError):  # there are no children at all
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in own:
            os.waitpid(ended.si_pid, 0)


def _prctl() -> Callable[..., object]:
    """prctl(2) on Linux; nothing elsewhere. Looked up before a fork, not after it."""
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: None

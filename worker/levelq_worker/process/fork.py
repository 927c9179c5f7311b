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

DUMP_STACKS = signal.SIGUSR1
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # linux/prctl.h


def with_parent(how: signal.Signals, parent: int | None = None) -> Callable[[], None]:
    """For a child to run before its program: unblock signals and, on Linux, get the signal `how` when the parent dies.

    `parent`: its process id, that of this process unless given. The parent is the thread that starts the child
    (prctl(2)), so start it from one that lives as long.
    """
    prctl, parent = _prctl(), parent or os.getpid()

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        prctl(_PR_SET_PDEATHSIG, how)
        if os.getppid() != parent:  # it died before this asked for the signal
            os.kill(os.getpid(), how)
            os._exit(1)  # a handler that was inherited has taken it

    return prepare


def forked(run: Callable[[], int], name: str) -> ForkProcess:
    """Start a child that runs a function and ends with the exit code it returns.

    `name`: at most 15 bytes, which `ps -o comm` shows on Linux. At DUMP_STACKS the child writes the stacks of its
    threads to stderr and ends. It need not import what the parent has imported, which takes most of a second of a core.
    Call this from a process with one thread and without open connections.
    """
    prepare, prctl = with_parent(signal.SIGTERM), _prctl()

    def begin() -> None:
        os.setsid()  # Ctrl-C reaches only the parent, which passes it on
        for number in (signal.SIGTERM, signal.SIGINT):  # until `run` installs handlers: nothing has begun
            signal.signal(number, lambda *_: os._exit(0))
        prepare()
        prctl(_PR_SET_NAME, name.encode())
        faulthandler.register(DUMP_STACKS, file=2, chain=True)  # then the signal ends the process
        sys.exit(run())

    child = multiprocessing.get_context("fork").Process(target=begin)
    child.start()
    return child


def reap_orphans(own: Container[int | None]) -> None:
    """Reap ended children that are not the process's `own`: orphans that process 1 of a container adopts.

    Call it at each SIGCHLD, after the own children that ended were noted: it stops at the first of those that it finds.
    It does nothing except on Linux.
    """
    if sys.platform != "linux":
        return
    with suppress(ChildProcessError):  # no children
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in own:
            os.waitpid(ended.si_pid, 0)


def _prctl() -> Callable[..., object]:
    """prctl(2) on Linux, else a function that does nothing. Look it up before a fork."""
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: None

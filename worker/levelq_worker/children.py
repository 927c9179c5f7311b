"""Child processes that end with their parent, however the parent ends."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def with_parent(how: signal.Signals) -> Callable[[], None]:
    """What a child runs before its program: unblock signals and, on Linux, get `how` when the parent dies.

    The parent is the thread that starts the child, says prctl(2): let it be one that lives as long.
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, how)

    return prepare

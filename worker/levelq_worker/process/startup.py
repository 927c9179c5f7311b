"""Stop signals while a long-running command starts: they end the process at once, whatever its main thread does.

A start imports for a second and then waits for servers, and has nothing to finish yet. The kernel drops a signal that
process 1 of a container has no handler for, but keeps a blocked one. So the signals are blocked first, and a thread
waits for them: no handler runs, and a fork inherits none. This module imports only what is cheap.
"""

from __future__ import annotations

import os
import signal
import threading

_WAKE = signal.SIGUSR2  # ends the watching thread
_watcher: threading.Thread | None = None


def stop_signals() -> frozenset[signal.Signals]:
    """The signals that ask a command to stop: SIGTERM, SIGINT, and SIGHUP unless it is ignored, as under `nohup`."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return frozenset([signal.SIGTERM, signal.SIGINT, *hangup])


def watch_for_stop(exit_code: int) -> None:
    """From now on a stop signal ends this process with `exit_code`, until `hand_over` or `hand_over_unblocked`."""
    global _watcher  # noqa: PLW0603 - signals belong to the process
    watched = {*stop_signals(), _WAKE}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    _watcher = threading.Thread(target=_exit_at_stop, args=(watched, exit_code), daemon=True)
    _watcher.start()


def hand_over() -> None:
    """End the watch, if there is one. Stop signals stay blocked: the caller waits for them, and none is lost."""
    global _watcher  # noqa: PLW0603
    if _watcher is not None:
        assert _watcher.ident is not None
        signal.pthread_kill(_watcher.ident, _WAKE)
        _watcher.join()
        _watcher = None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [_WAKE])


def hand_over_unblocked() -> None:
    """End the watch, if there is one, and let stop signals through to the caller's handlers."""
    if _watcher is not None:
        hand_over()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())


def _exit_at_stop(watched: set[signal.Signals], exit_code: int) -> None:
    if signal.sigwait(watched) != _WAKE:
        os._exit(exit_code)

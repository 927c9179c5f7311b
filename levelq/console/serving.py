"""The console's server: it listens, serves until a stop signal, and ends soon after it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from levelq_core.errors import ConfigurationError
from levelq_worker.process.startup import hand_over, stop_signals

from .application import application
from .connections import Connection
from .console import Console

MOST_CONNECTIONS = 500
GRACE = 3.0  # seconds for pages that are being made at a stop


def listen(host: str, port: int) -> socket.socket:
    """Listen there. Raises ConfigurationError, which names the option, if that is not possible."""
    if not host.strip():  # Python takes it for every address
        raise ConfigurationError("--host: expected an address of this machine, got nothing")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        why = str(getattr(error, "strerror", None) or error).partition(" (while ")[0]  # Python names the address again
        raise ConfigurationError(f"--port {port}: cannot listen at {host} (--host): {why}") from error


def serve(console: Console, listening: socket.socket, host: str, announce: Callable[[], None]) -> None:
    """Serve the console until SIGTERM, SIGINT or SIGHUP. `announce` is called once it may be reached.

    Raises ConfigurationError if its logins cannot be used, or if others could reach it without one.
    """
    # In a thread, so that the signals are ours: uvicorn would end by the signal, not with exit code 0.
    stops = stop_signals()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        with serving(console, listening, host) as thread:
            announce()
            hand_over()
            while thread.is_alive() and signal.sigtimedwait(stops, 1.0) is None:
                pass
            if not thread.is_alive():
                raise ConfigurationError("the console's server has ended by itself; its log says why")
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # children of the caller would inherit it
        raise
    if thread.is_alive() or any(not one.daemon for one in threading.enumerate() if one is not threading.main_thread()):
        sys.stderr.flush()
        os._exit(0)  # a reading that does not end must not keep the process


@contextmanager
def serving(console: Console, listening: socket.socket, host: str) -> Iterator[threading.Thread]:
    """Serve the console in a thread during the block.

    Raises ConfigurationError if its logins cannot be used, or if others could reach it without one.
    """
    made = application(console)
    made.state.guard.check_address(host, listening.getsockname()[0])
    config = uvicorn.Config(
        made,
        http=Connection,
        ws="none",
        log_config=None,  # the process logs as the other commands do
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who may name a login is for the guard to say, by the address of the connection itself
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would show the stack of each request it ends
        server.should_exit = True
        thread.join(GRACE)

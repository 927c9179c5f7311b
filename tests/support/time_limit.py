"""What an application's signal handler raises in the middle of a statement, as Celery's soft time limit does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.support.fixtures.waiting import until

_WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"


class TimeLimit(Exception):
    """The time of a task is up."""


@contextmanager
def time_limit(url: str) -> Iterator[None]:
    """A block of the main thread in which TimeLimit is raised once, as soon as a statement waits for a lock."""
    main = threading.main_thread().ident
    assert main is not None
    raised = threading.Event()

    def handle(*_: Any) -> None:
        if not raised.is_set():
            raised.set()
            raise TimeLimit

    def interrupt() -> None:
        with psycopg.connect(url, autocommit=True) as observer:
            until(lambda: observer.execute(_WAITS).fetchone() == (True,), what="a statement that waits")
        while not raised.wait(0.5):  # psycopg looks for signals when none came for 0.1 s
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with ThreadPoolExecutor(1) as pool:
            interrupting = pool.submit(interrupt)
            try:
                yield
            finally:
                raised.set()
                interrupting.result()
    finally:
        signal.signal(signal.SIGUSR1, before)

"""Listening: where applications say so at each commit, the relay hears at once that the outbox has new rows.

The relay polls all the same, so nothing rests on a notification that is missed, and what was committed while
nobody listened needs no second look. LISTEN needs a session of its own: a pooler in transaction mode accepts it
and tells nothing.
"""

from __future__ import annotations

import threading
from typing import Any

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from levelq_core.database.engine import engine_for
from levelq_core.database.outbox_insert import CHANNEL
from levelq_core.database.sqlstate import in_words
from levelq_core.errors import ConfigurationError
from levelq_core.settings import Settings
from levelq_worker.support.outage import Outage
from levelq_worker.support.stop import Stop

MOST_SECONDS = 30.0  # between two attempts to listen again
_LOOK_SECONDS = 0.5  # between two looks whether to stop


class Notifier:
    """Rings for the relay when a listener has heard something, or when it is to stop."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self._lock = threading.Lock()
        self._heard: set[str] = set()

    def ring(self, *specializations: str) -> None:
        """Note what was heard of, and wake the relay."""
        with self._lock:
            self._heard.update(specializations)
        self._rung.set()

    def wait(self, seconds: float) -> set[str]:
        """Wait for the bell, `seconds` at most; what was heard of since the last time."""
        self._rung.wait(max(0.0, seconds))
        with self._lock:
            self._rung.clear()
            heard, self._heard = self._heard, set()
        return heard


class Listener(threading.Thread):
    """Rings the bell for each notification. A connection that breaks is made anew, later each time it fails.

    Raises ConfigurationError for a URL that cannot be read.
    """

    def __init__(self, settings: Settings, bell: Notifier) -> None:
        super().__init__(name="levelq-listener", daemon=True)
        self._bell = bell
        self._stopped = Stop()
        self._weather = Outage(self._stopped, most_seconds=MOST_SECONDS)
        self._engine = _engine_for(settings)

    def run(self) -> None:
        """Listen until stopped."""
        while not self._stopped.is_set():
            try:
                self._listen()
            except (DBAPIError, psycopg.Error) as error:
                cause = error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error
                self._weather.failed(f"the outbox is only polled, LISTEN failed: {in_words(cause)}")
        self._engine.dispose()

    def _listen(self) -> None:
        pooled = self._engine.raw_connection()
        try:
            connection: Any = pooled.driver_connection
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
            self._weather.passed()
            while not self._stopped.is_set():
                for notification in connection.notifies(timeout=_LOOK_SECONDS):
                    self._bell.ring(notification.payload)
        finally:
            pooled.invalidate()  # it listens, so nobody else may have it

    def stop(self) -> None:
        """Ask it to end, and wait for it."""
        self._stopped.set()
        if self.is_alive():
            self.join(2 * _LOOK_SECONDS)


def _engine_for(settings: Settings) -> Engine:
    if settings.listen_url is None:
        return engine_for(settings, name="levelq listener")
    direct = settings.model_copy(update={"database_url": settings.listen_url})
    try:
        return engine_for(direct, name="levelq listener")
    except ConfigurationError as error:
        raise ConfigurationError(f"LEVELQ_LISTEN_URL: {str(error).partition(': ')[2]}") from None

"""The listener: where applications notify at each commit, the relay learns of new rows at once.

The relay polls as well, so a missed notification only costs time. LISTEN needs a session of its own: a pooler in
transaction mode accepts it and delivers nothing.
"""

from __future__ import annotations

import threading
from queue import Queue as ThreadQueue
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

MOST_SECONDS = 30.0  # between two attempts to connect
_STOP_SECONDS = 0.5  # between two checks whether to stop


class Listener(threading.Thread):
    """Puts the specialization of each notification into a queue; reconnects with a growing delay.

    Raises ConfigurationError for a URL that cannot be read.
    """

    def __init__(self, settings: Settings, notifications: ThreadQueue[str]) -> None:
        super().__init__(name="levelq-listener", daemon=True)
        self._notifications = notifications
        self._stopped = Stop()
        self._outage = Outage(self._stopped, most_seconds=MOST_SECONDS)
        self._engine = _engine_for(settings)

    def run(self) -> None:
        """Listen until stopped."""
        while not self._stopped.is_set():
            try:
                self._listen()
            except (DBAPIError, psycopg.Error) as error:
                self._outage.failed(f"the outbox is only polled, LISTEN failed: {in_words(error)}")
        self._engine.dispose()

    def _listen(self) -> None:
        pooled = self._engine.raw_connection()
        try:
            connection: Any = pooled.driver_connection
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
            self._outage.passed()
            while not self._stopped.is_set():
                for notification in connection.notifies(timeout=_STOP_SECONDS):
                    self._notifications.put(notification.payload)
        finally:
            pooled.invalidate()  # it listens, so the pool must not lend it again

    def stop(self) -> None:
        """Ask it to end, and wait for it."""
        self._stopped.set()
        if self.is_alive():
            self.join(2 * _STOP_SECONDS)


def _engine_for(settings: Settings) -> Engine:
    direct = settings.model_copy(update={"database_url": settings.listen_url or settings.database_url})
    try:
        return engine_for(direct, name="levelq listener")
    except ConfigurationError as error:
        if settings.listen_url is None:
            raise
        raise ConfigurationError(f"LEVELQ_LISTEN_URL: {str(error).partition(': ')[2]}") from None

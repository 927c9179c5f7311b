"""The binding: a process may work only on the database that the namespace is bound to."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

from redis.exceptions import RedisError
from sqlalchemy import Engine

from levelq_core.errors import ConfigurationError, WrongDatabase
from levelq_core.lanes import namespace_binding as binding
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.namespace_binding import DatabaseIdentity
from levelq_core.log_events import log_event
from levelq_core.operations.identity import ensure_identity

from .stop import Stop


class Binding:
    """Shared by the threads of a worker: each verifies before it claims or pushes, and a refusal stops all.

    `recheck_seconds`: how long a check counts. Sweeps check that often; without them, in an ordinary RQ worker or a
    process that was suspended, `verify` checks.
    """

    def __init__(self, stop: Stop, recheck_seconds: float) -> None:
        self.refused: WrongDatabase | None = None
        self._stop = stop
        self._lock = threading.Lock()
        self._mine: DatabaseIdentity | None = None
        self._recheck_seconds = recheck_seconds
        self._checked_at = 0.0
        self._stale = False
        self._unreadable = False

    @property
    def verified(self) -> bool:
        """Whether the namespace was found bound to this process's database at least once."""
        return self._mine is not None

    def verify(self, lanes: Lanes, engine: Engine) -> None:
        """Bind the namespace if it is unbound; does nothing while the last check counts.

        Raises WrongDatabase, also later if a check refused it; RedisError and DBAPIError if it cannot be verified now.
        """
        if self.refused is not None:
            raise self.refused
        if self._mine is None or self._stale:
            mine = ensure_identity(engine)
            if self._mine is None or not mine.same_as(self._mine):
                self._require(lanes, mine)
            self._mine, self._stale = mine, False
        elif time.monotonic() - self._checked_at > self._recheck_seconds:
            with suppress(RedisError):  # on a cluster, the server of this key may be down while others are not
                self.check(lanes)

    def check(self, lanes: Lanes) -> None:
        """Restore a verified binding if Redis lost it. Raises WrongDatabase after a rebind, RedisError."""
        if self._mine is not None:
            self._require(lanes, self._mine)

    def reread(self) -> None:
        """Have `verify` read the identity again: after a failed connection, the URL may lead to another database."""
        self._stale = True

    def _require(self, lanes: Lanes, mine: DatabaseIdentity) -> None:
        with self._lock:
            self._checked_at = time.monotonic()
            try:
                binding.bind(lanes, mine)
            except WrongDatabase as error:
                self.refused = error
                self._stop.set()
                raise
            except ConfigurationError as error:
                # Unreadable, so it names no other database. `levelq status` reports it; `levelq rebuild` replaces it.
                if self._mine is None or not mine.same_as(self._mine):
                    raise
                if not self._unreadable:
                    log_event(logging.WARNING, "binding_unreadable", "%(error)s", error=error)
                self._unreadable = True
            else:
                self._unreadable = False

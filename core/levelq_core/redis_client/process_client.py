"""A client for threads that may be used after a fork."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis import Redis

from .per_process import PerProcess


class ProcessClient(Redis):
    """A client of redis-py's whose pool belongs to the process that uses it.

    redis-py's own pool notices a fork, and then waits for a lock that another thread may have held at that moment.
    """

    def __init__(
        self, make_pool: Callable[[], Any] | None = None, *, connection_pool: Any = None, **options: Any
    ) -> None:
        """`make_pool` makes one process's pool. Without it the arguments are redis-py's: it and RQ make further clients
        of a client's class, on a pool that has another owner.
        """
        self._pools = PerProcess(make_pool or (lambda: connection_pool))
        super().__init__(connection_pool=self._pools.get(), **options)
        self.auto_close_connection_pool = make_pool is not None

    @property
    def connection_pool(self) -> Any:
        """This process's pool."""
        return self._pools.get()

    @connection_pool.setter
    def connection_pool(self, pool: Any) -> None:
        """Redis's constructor sets what it was given, which is that."""

"""A client for threads that works after a fork."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis import Redis

from .per_process import PerProcess


class ProcessClient(Redis):
    """A client of redis-py whose pool belongs to the process that uses it.

    redis-py's own pool notices a fork, but then waits for a lock that another thread may have held at that moment.
    """

    def __init__(
        self, make_pool: Callable[[], Any] | None = None, *, connection_pool: Any = None, **options: Any
    ) -> None:
        """`make_pool` makes the pool of one process.

        Without it the arguments are redis-py's: redis-py and RQ make clients of this class on a pool of another owner.
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
        """Called by the constructor of Redis, with the pool that it was given."""

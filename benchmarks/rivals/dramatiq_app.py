"""Dramatiq, one message per level-up; its workers import this module and take its broker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from ..site import Site
from ..transaction import job
from ..workload import Grant
from .kinds import Promises, Workers


def actor_at(url: str) -> Any:
    """The actor on that Redis."""
    broker: Any = RedisBroker(url=url)  # type: ignore[no-untyped-call]
    dramatiq.set_broker(broker)
    return dramatiq.actor(actor_name="level_up", broker=broker)(job)


if "BENCH_DRAMATIQ" in os.environ:
    actor_at(os.environ["BENCH_DRAMATIQ"])


class DramatiqMessages:
    """Two processes; `threads` in each."""

    most = 4_000

    def __init__(self, threads: int = 4) -> None:
        self.name = "Dramatiq"
        self.how = f"2 processes of {threads} threads"
        self.promises = Promises("as the workers race", "no", "run again after a minute")
        self._threads = threads

    def fill(self, site: Site, grants: Sequence[Grant]) -> None:
        actor = actor_at(site.settings.redis_url)
        for user_id, xp in grants:
            actor.send(user_id, xp)

    def work(self, site: Site) -> Workers:
        command = ["-m", "dramatiq", "--processes", "2", "--threads", str(self._threads), __name__]
        urls = {"BENCH_DRAMATIQ": site.settings.redis_url, "BENCH_THREADS": str(self._threads)}
        return site.running(self.name, command, **urls)

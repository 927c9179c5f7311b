"""RQ, one job per level-up: its SimpleWorker with a rate limit of one per user, and its default, forking worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis
from rq import Queue
from rq.rate_limit import RateLimit
from rq.serializers import JSONSerializer

from ..site import Site
from ..workload import Grant
from .kinds import Promises, Workers

QUEUE = "level-ups"
JOB = "benchmarks.transaction.job"


class RqJobs:
    """Two workers of a kind; `limited`: one job of a user at a time."""

    def __init__(self, worker: str, *, limited: bool, most: int) -> None:
        self.name = f"RQ {worker}"
        self.how = "2 processes" + (", RateLimit(user, 1)" if limited else ", a fork per job")
        order = "whole seconds, ties at random" if limited else "as the workers race"
        self.promises = Promises(order, "no", "noticed after 4 to 21 minutes, then FAILED")
        self.most = most
        self._worker, self._limited = worker, limited

    def fill(self, site: Site, grants: Sequence[Grant]) -> None:
        queue = Queue(QUEUE, connection=Redis.from_url(site.settings.redis_url), serializer=JSONSerializer)
        for user_id, xp in grants:
            limit: dict[str, Any] = {"rate_limit": RateLimit(f"user:{user_id}", 1)} if self._limited else {}
            queue.enqueue(JOB, user_id, xp, result_ttl=0, **limit)

    def work(self, site: Site) -> Workers:
        command = ["-m", "rq.cli", "worker", "--quiet", "--url", site.settings.redis_url, "-w", f"rq.{self._worker}"]
        command += ["--serializer", "rq.serializers.JSONSerializer", QUEUE]
        return site.running(self.name, command, command)

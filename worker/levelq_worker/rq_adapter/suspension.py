"""`rq suspend`: an operator keeps all workers of an RQ from taking work."""

from __future__ import annotations

from redis import Redis
from rq.suspension import WORKERS_SUSPENDED


def suspension(rq: Redis) -> str | None:
    """What to tell while workers are suspended, None while they are not. Raises RedisError."""
    left = int(rq.ttl(WORKERS_SUSPENDED))  # -2: there is no such key; -1: it does not expire
    if left == -2:
        return None
    until = "" if left == -1 else f" for another {left} s"
    return f"workers are suspended by rq suspend{until}: they drain nothing; `rq resume` lets them go on"

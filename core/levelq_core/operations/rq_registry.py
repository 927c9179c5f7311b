"""Whether `rq suspend` is in force in RQ's Redis."""

from __future__ import annotations

from redis import Redis


def suspension(rq: Redis) -> str | None:
    """A message while `rq suspend` keeps workers from taking work, else None. Raises RedisError."""
    from rq.suspension import WORKERS_SUSPENDED  # noqa: PLC0415

    left = int(rq.ttl(WORKERS_SUSPENDED))  # -2: there is no such key; -1: it does not expire
    if left == -2:
        return None
    until = "" if left == -1 else f" for another {left} s"
    return f"workers are suspended by rq suspend{until}: they drain nothing; `rq resume` lets them go on"

"""The workers in RQ's Redis: which serve a queue, and whether `rq suspend` is in force."""

from __future__ import annotations

from redis import Redis


def workers_of(rq: Redis, queue: str) -> set[str]:
    """The RQ workers that serve a queue. A dead one stays listed, but its key expires. Raises RedisError."""
    from rq import Queue, Worker  # noqa: PLC0415 - a fifth of a second
    from rq.serializers import JSONSerializer  # noqa: PLC0415

    keys = sorted(Worker.all_keys(queue=Queue(queue, connection=rq, serializer=JSONSerializer)))
    pipeline = rq.pipeline(transaction=False)
    for key in keys:
        pipeline.exists(key)
    return {key for key, exists in zip(keys, pipeline.execute(), strict=True) if exists}


def suspension(rq: Redis) -> str | None:
    """A message while `rq suspend` keeps workers from taking work, else None. Raises RedisError."""
    from rq.suspension import WORKERS_SUSPENDED  # noqa: PLC0415

    left = int(rq.ttl(WORKERS_SUSPENDED))  # -2: there is no such key; -1: it does not expire
    if left == -2:
        return None
    until = "" if left == -1 else f" for another {left} s"
    return f"workers are suspended by rq suspend{until}: they drain nothing; `rq resume` lets them go on"

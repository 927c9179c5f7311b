"""Who serves a queue, by RQ's registry."""

from __future__ import annotations

from redis import Redis


def workers_of(redis: Redis, queue: str) -> set[str]:
    """The RQ workers that serve a queue. One that died stays listed, but its key runs out."""
    from rq import Queue, Worker  # noqa: PLC0415 - a fifth of a second
    from rq.serializers import JSONSerializer  # noqa: PLC0415

    keys = sorted(Worker.all_keys(queue=Queue(queue, connection=redis, serializer=JSONSerializer)))
    pipeline = redis.pipeline(transaction=False)
    for key in keys:
        pipeline.exists(key)
    return {key for key, there in zip(keys, pipeline.execute(), strict=True) if there}

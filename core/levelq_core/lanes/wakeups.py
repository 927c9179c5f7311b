"""Wake-ups: small RQ jobs that carry the name of a partition, and the workers that take them.

A lost or doubled wake-up changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Keys, Partition
from levelq_core.log_events import log_event
from levelq_core.redis_client.topology import topology_of
from levelq_core.redis_client.wrong_type import is_wrong_type

FUNCTION = "levelq_worker.drain"
JOB_SECONDS = 60  # by then a sweep has replaced a wake-up that no worker took
FAILURE_SECONDS = 300


class Waker:
    """Enqueues wake-ups on RQ, and keeps the registry of partitions."""

    def __init__(self, lanes: Redis, rq: Redis, keys: Keys) -> None:
        self._lanes = lanes
        self._rq = rq
        self._keys = keys
        self._queues: dict[str, Any] = {}
        self._failing = False
        self._closed = False

    def wake(self, partition: Partition) -> None:
        """Enqueue one drain of the partition. The first of several failures is logged: a sweep replaces the wake-up."""
        try:
            with self._until_closed():
                self._register(partition)
                # No timeout: RQ's is SIGALRM, which can interrupt a COMMIT that takes effect all the same.
                self._queue(self._keys.queue(partition.specialization)).enqueue_call(
                    FUNCTION,
                    args=(str(partition),),
                    timeout=-1,
                    result_ttl=0,
                    ttl=JOB_SECONDS,
                    failure_ttl=FAILURE_SECONDS,
                    description=f"drain {partition}",
                )
            self._failing = False
        except RedisError as error:
            if not self._failing:
                what = "wake-up of %(partition)s not sent (%(error)s); a worker's sweep will find the lanes"
                log_event(logging.WARNING, "wake_up_not_sent", what, partition=partition, error=error)
            self._failing = True

    def workers(self, specialization: str) -> int:
        """How many workers serve a specialization. Raises RedisError."""
        with self._until_closed():
            return len(workers_of(self._rq, self._keys.queue(specialization)))

    def close(self) -> None:
        """Close the connections. A call under way goes on, and closes those that it opens."""
        self._closed = True
        self._lanes.close()
        self._rq.close()

    @contextmanager
    def _until_closed(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._closed:
                self.close()

    def _register(self, partition: Partition) -> None:
        """Note the partition in the registry.

        Not needed if the registry is on another server than the lanes, or if its key holds another type: sweeps find
        every partition that the layouts name.
        """
        try:
            self._lanes.zadd(self._keys.registry, {str(partition): int(time.time())})
        except (RedisError, ConfigurationError) as error:
            if not topology_of(self._lanes).several_servers and not is_wrong_type(error):
                raise

    def _queue(self, name: str) -> Any:
        if name not in self._queues:
            from rq import Queue  # noqa: PLC0415 - it takes a fifth of a second, which sends without a wake-up save
            from rq.serializers import JSONSerializer  # noqa: PLC0415

            self._queues[name] = Queue(name, connection=self._rq, serializer=JSONSerializer)
        return self._queues[name]


def workers_of(rq: Redis, queue: str) -> set[str]:
    """The RQ workers that serve a queue. A dead one stays listed, but its key expires. Raises RedisError."""
    from rq import Queue, Worker  # noqa: PLC0415 - a fifth of a second
    from rq.serializers import JSONSerializer  # noqa: PLC0415

    keys = sorted(Worker.all_keys(queue=Queue(queue, connection=rq, serializer=JSONSerializer)))
    pipeline = rq.pipeline(transaction=False)
    for key in keys:
        pipeline.exists(key)
    return {key for key, exists in zip(keys, pipeline.execute(), strict=True) if exists}

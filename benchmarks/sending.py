"""What a sender pays: commands a second in bulk and one by one, beside RQ's enqueue; and the memory of what waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from redis import Redis
from rq import Queue
from rq.rate_limit import RateLimit
from rq.serializers import JSONSerializer

from levelq_core import LevelUp
from levelq_core.codec import encode
from levelq_producer import Producer

from .rivals.rq_jobs import JOB, QUEUE
from .site import PARTITION, SPECIALIZATION, Site
from .workload import Workload, level_ups

BULK, SINGLE = 100_000, 3_000
PAYLOAD = len(encode(LevelUp(user_id=1, specialization=SPECIALIZATION, xp_gained=1)))


class Sent(NamedTuple):
    """Commands a second of one process."""

    send_many: float
    send: float
    enqueue: float
    enqueue_limited: float


class Memory(NamedTuple):
    """Bytes of Redis per waiting command beyond its payload, and bytes that are left once all is applied."""

    payload: int
    deep: float
    lane_of_one: float
    left_per_lane: float


def sending(site: Site) -> Sent:
    """Measure each, on an empty Redis."""
    bulk = Workload("", 500, BULK)
    single = Workload("", 500, SINGLE).grants()
    with Producer(site.settings) as producer:
        producer.send_many(level_ups(single[:100]))  # it has its connection and its scripts
        commands = list(level_ups(bulk.grants()))
        many = _rate(site, BULK, lambda: producer.send_many(commands))
        one = _rate(site, SINGLE, lambda: _each(producer.send, level_ups(single)))
    queue = Queue(QUEUE, connection=Redis.from_url(site.settings.redis_url), serializer=JSONSerializer)
    plain = _rate(site, SINGLE, lambda: [queue.enqueue(JOB, *grant, result_ttl=0) for grant in single])
    limited = _rate(
        site,
        SINGLE,
        lambda: [
            queue.enqueue(JOB, user, xp, result_ttl=0, rate_limit=RateLimit(f"user:{user}", 1)) for user, xp in single
        ],
    )
    return Sent(many, one, plain, limited)


def _each(send: Callable[..., Any], commands: Iterable[Any]) -> None:
    for command in commands:
        send(command, reply=False)


def _rate(site: Site, number: int, work: Callable[[], Any]) -> float:
    site.redis.flushall()
    begun = time.perf_counter()
    work()
    return number / (time.perf_counter() - begun)


def memory(site: Site) -> Memory:
    """Fill a deep lane, then as many lanes of one; apply them, and see what is left."""
    number = 100_000
    deep = _bytes(site, Workload("", 1, number)) / number - PAYLOAD
    of_one = _bytes(site, Workload("", number, number)) / number - PAYLOAD
    with site.running("memory", ["-m", "levelq_worker", "worker", "--burst"]) as (worker,):
        worker.wait()
    lanes = sum(1 for _ in site.redis.scan_iter(PARTITION.key("lane") + "*", count=10_000))
    return Memory(PAYLOAD, deep, of_one, lanes / number)


def _bytes(site: Site, workload: Workload) -> float:
    site.reset(workload.users)
    before = _used(site)
    with Producer(site.settings) as producer:
        producer.send_many(level_ups(workload.grants()))
    return _used(site) - before


def _used(site: Site) -> int:
    return int(site.redis.info("memory")["used_memory_dataset"])

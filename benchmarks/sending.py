"""The cost of sending: commands a second in bulk and one by one, beside RQ's enqueue; and memory in Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

from redis import Redis
from rq import Queue
from rq.rate_limit import RateLimit
from rq.serializers import JSONSerializer

from levelq_core import LevelUp
from levelq_core.domain.codec import encode
from levelq_producer import Producer

from .rivals.rq_jobs import JOB, QUEUE
from .site import PARTITION, SPECIALIZATION, Site
from .workload import Grant, Workload, level_ups

BULK = 100_000
TURN, TURNS = 300, 15
PAYLOAD = len(encode(LevelUp(user_id=1, specialization=SPECIALIZATION, xp_gained=1)))


class Sent(NamedTuple):
    """Commands a second of one process."""

    send_many: float
    send: float
    enqueue: float
    enqueue_limited: float


class Memory(NamedTuple):
    """Bytes of Redis per waiting command beyond its payload, and keys left for each idle lane."""

    payload: int
    deep: float
    lane_of_one: float
    left_per_lane: float


def sending(site: Site) -> Sent:
    """Measure each. Those that send one by one take turns, because the machine's speed changes."""
    site.reset(500)
    with Producer(site.settings) as producer:
        producer.send_many(level_ups(Workload("", 500, 100).grants()))  # connects and loads the scripts
        site.redis.flushall()
        commands = list(level_ups(Workload("", 500, BULK).grants()))
        many = BULK / _seconds(lambda: producer.send_many(commands))
        queue = Queue(QUEUE, connection=Redis.from_url(site.settings.redis_url), serializer=JSONSerializer)

        def send(grant: Grant) -> None:
            (command,) = level_ups([grant])
            producer.send(command, reply=False)

        def enqueue(grant: Grant) -> None:
            queue.enqueue(JOB, *grant, result_ttl=0)

        def enqueue_limited(grant: Grant) -> None:
            queue.enqueue(JOB, *grant, result_ttl=0, rate_limit=RateLimit(f"user:{grant.user_id}", 1))

        return Sent(many, *_taking_turns(site, (send, enqueue, enqueue_limited)))


def _taking_turns(site: Site, ways: Sequence[Callable[[Grant], None]]) -> list[float]:
    """Commands a second of each, from the median turn."""
    grants = Workload("", 500, TURN).grants()
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(TURNS):
        for way, taken in zip(ways, seconds, strict=True):
            site.redis.flushdb()
            taken.append(_seconds(lambda way=way: [way(grant) for grant in grants]))  # type: ignore[misc]
    return [TURN / median(taken) for taken in seconds]


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def memory(site: Site) -> Memory:
    """Fill a deep lane, then as many lanes of one command; apply them, and count what is left."""
    number = 100_000
    deep = _bytes(site, Workload("", 1, number)) / number - PAYLOAD
    of_one = _bytes(site, Workload("", number, number)) / number - PAYLOAD
    with site.running("memory", ["-m", "levelq", "worker", "--burst"]) as (worker,):
        worker.wait()
    lanes = sum(1 for _ in site.redis.scan_iter(site.settings.keys.of(PARTITION, "lane") + "*", count=10_000))
    return Memory(PAYLOAD, deep, of_one, lanes / number)


def _bytes(site: Site, workload: Workload) -> float:
    site.reset(workload.users)
    before = site.redis_bytes()
    with Producer(site.settings) as producer:
        producer.send_many(level_ups(workload.grants()))
    return site.redis_bytes() - before

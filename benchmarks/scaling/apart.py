"""Costs besides those of a drain: pushes, wake-ups, idle workers, connections and pruning."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from statistics import median
from typing import NamedTuple

from redis import Redis

from benchmarks.capacity.costs import Connections, Idle, Push
from levelq_core.database.engine import engine_open
from levelq_core.lanes.wakeups import Waker
from levelq_core.operations.prune import LEAST, prune
from levelq_producer import Producer
from levelq_producer.sending import WINDOW

from ..drain import Parts
from ..site import PARTITION, Site, until
from ..workload import Workload, level_ups
from .fitting import least_squares

SINGLE, BULK = 2_000, 50_000
ROUNDS = 3
WAKES = 300
FEW_SHARDS, MANY_SHARDS, IDLE_SECONDS, IDLE_WORKERS = 1, 60, 5.0, 2
SPECIALIZATIONS = 3
SERVED = 4  # worker processes whose connections are counted
PRUNED = 30_000


class _Sends(NamedTuple):
    """Some sends to measure: how many commands, for how many users, in one call or each in its own."""

    commands: int
    users: int
    one_by_one: bool

    @property
    def row(self) -> tuple[float, float, float]:
        """Calls, lanes and commands, for each command; a window names a lane once."""
        if self.one_by_one:
            return 1.0, 1.0, 1.0
        lanes = self.users * (1 - (1 - 1 / self.users) ** WINDOW)
        return 1 / WINDOW, lanes / WINDOW, 1.0


def push(site: Site) -> Push:
    """Redis's share of sends: one by one, and in bulk to short and to deep lanes."""
    kinds = (_Sends(SINGLE, SINGLE, True), _Sends(BULK, BULK, False), _Sends(BULK, 100, False))
    spent: dict[_Sends, list[float]] = {kind: [] for kind in kinds}
    with Producer(site.settings) as producer:
        for kind in kinds * ROUNDS:
            commands = list(level_ups(Workload("", kind.users, kind.commands).grants()))
            site.redis.flushall()
            producer.send_many(commands[:10])
            before = _redis_us(site)
            if kind.one_by_one:
                for command in commands:
                    producer.send(command, reply=False)
            else:
                producer.send_many(commands)
            spent[kind].append((_redis_us(site) - before) / kind.commands)
    call, lane, command_ = least_squares([kind.row for kind in kinds], [median(us) for us in spent.values()])
    return Push(call=call, lane=lane, command=command_)


def _redis_us(site: Site) -> float:
    """The processor time of Redis so far, in microseconds."""
    cpu = site.redis.info("cpu")
    return 1e6 * (float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"]))


def wake_us(site: Site) -> float:
    """Redis's processor time for a wake-up, enqueued and taken, whose drain finds nothing."""
    site.reset(1)
    with site.running("wake", ["-m", "levelq", "worker"]), Redis.from_url(site.settings.queue_url) as rq:
        waker = Waker(site.redis, rq, site.settings.keys)
        until(lambda: rq.exists("rq:workers"), 30, "a worker")
        waker.wake(PARTITION)
        until(lambda: not _queued(site, rq), 30, "the first wake-up")
        before = _redis_us(site)
        for _ in range(WAKES):
            waker.wake(PARTITION)
        until(lambda: not _queued(site, rq), 60, "the wake-ups")
        return (_redis_us(site) - before) / WAKES


def _queued(site: Site, rq: Redis) -> int:
    return int(rq.llen(f"rq:queue:{site.settings.keys.queue(PARTITION.specialization)}"))


def idle(site: Site) -> Idle:
    """The cost of idle workers for each partition that they check."""
    few, many = (_idle(site, shards) for shards in (FEW_SHARDS, MANY_SHARDS))
    partitions = SPECIALIZATIONS * (MANY_SHARDS - FEW_SHARDS)
    more = {name: max(0.0, many[name] - few[name]) / partitions for name in few}
    return Idle(
        worker_partition_redis=more["Redis"] / IDLE_WORKERS,
        worker_partition_workers=more["workers"] / IDLE_WORKERS,
        partition_postgresql=more["PostgreSQL"],
    )


def _idle(site: Site, shards: int) -> dict[str, float]:
    """Microseconds of a core in a second, by part."""
    site.reset(1)
    command = ["-m", "levelq", "worker", "--processes", str(IDLE_WORKERS)]
    with site.running("idle", command, LEVELQ_SHARDS=str(shards)) as (process,):
        until(lambda: site.redis.scard("rq:workers") == IDLE_WORKERS, 30, "the workers")
        time.sleep(2 * site.settings.sweep_seconds)  # the first rounds unblock every partition
        parts = Parts(site, [process.pid])
        before, begun = parts.seconds(), time.monotonic()
        time.sleep(IDLE_SECONDS)  # what is measured
        seconds = time.monotonic() - begun
        return {name: 1e6 * (spent - before[name]) / seconds for name, spent in parts.seconds().items()}


def connections(site: Site) -> Connections:
    """The most connections of one worker process under load; those to the database have one purpose each."""
    site.reset(1_000)
    before = len(site.redis.client_list())
    most = 0
    with (
        site.running("connections", ["-m", "levelq", "worker", "--processes", str(SERVED)]),
        Producer(site.settings) as producer,
    ):
        until(lambda: site.redis.scard("rq:workers") == SERVED, 30, "the workers")
        producer.send_many(level_ups(Workload("", 1_000, 30_000).grants()))
        while site.waiting():
            most = max(most, len(site.redis.client_list()) - before - 1)  # the producer has one
        purposes = site.number(
            "SELECT count(DISTINCT application_name) FROM pg_stat_activity WHERE application_name LIKE 'levelq %'"
        )
    return Connections(redis=math.ceil(most / SERVED), postgresql=purposes)


def prune_rows(site: Site) -> float:
    """Rows of the ledger that one `levelq prune` removes in a second."""
    site.reset(1_000)
    with Producer(site.settings) as producer:
        producer.send_many(level_ups(Workload("", 1_000, PRUNED).grants()))
    with site.running("pruned", ["-m", "levelq", "worker", "--burst"]) as (worker,):
        worker.wait()
    site.database.execute("UPDATE levelq_ledger SET applied_at = applied_at - %s", (LEAST + timedelta(minutes=1),))
    site.database.execute("VACUUM ANALYZE levelq_ledger")
    with engine_open(site.settings) as engine:
        begun = time.monotonic()
        (pruned,) = prune(engine, site.redis, LEAST, settings=site.settings)
        assert pruned.removed == PRUNED
        return PRUNED / (time.monotonic() - begun)

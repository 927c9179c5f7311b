"""The arithmetic of `make plan`: from a load and measured costs to what the load needs."""

from __future__ import annotations

import math
from typing import NamedTuple

from levelq_core.errors import ConfigurationError
from levelq_core.settings import Settings

from .costs import Costs, Shape
from .load import Load

DAY = 86_400
PAGE = 8_192
TRIPS = 13  # between a worker and PostgreSQL for a batch: its statements, BEGIN and COMMIT
SPREAD = 4  # partitions for each node of a Redis Cluster: their slots fall on nodes by chance
MOST_SHARDS = 4_096  # LEVELQ_SHARDS


class Needs(NamedTuple):
    """What a load needs."""

    workers: int  # processes
    worker_hosts: int
    redis_nodes: int
    shards: int  # LEVELQ_SHARDS
    redis_gb: float  # for the backlog, over all nodes
    postgresql_hosts: int
    postgresql_hosts_by: dict[str, int]  # that each resource needs
    postgresql_cores: float
    postgresql_connections: int  # without a pooler
    pooled_connections: int  # in a transaction at the same time
    redis_connections: int
    wal_mb: float  # a second
    ledger_gb_a_day: float
    ledger_tb: float  # kept
    prunes: int  # `levelq prune` that run at any time
    wakes: float  # a second, at RQ's Redis
    watching: float  # the share of Redis's work that is workers checking partitions


class Model:
    """One load, at one machine's costs, with levelq's default limits of a batch."""

    def __init__(self, load: Load, costs: Costs) -> None:
        self.load, self.costs = load, costs
        defaults = Settings.model_fields
        self.partition_limit: int = defaults["partition_limit"].default
        self.slice_seconds: float = defaults["slice_seconds"].default
        commands, lanes = defaults["batch_commands"].default, defaults["batch_lanes"].default
        self.shape = Shape.of(load.commands_per_lane, commands, lanes)

    @property
    def turn_us(self) -> float:
        """For one command: a worker's own work, PostgreSQL's, and the round trips."""
        drain, batches = self.costs.drain_us, self.shape.batches
        waits = (self.costs.wait_us + 1_000 * TRIPS * self.load.trip_ms) * batches
        return drain.workers.each(self.shape) + drain.postgresql.each(self.shape) + waits

    @property
    def redis_us(self) -> float:
        """Redis's time for one command, pushed and drained."""
        load = self.load
        sent = self.costs.push_us.each(load.commands_per_send, load.commands_per_lane)
        return self.costs.drain_us.redis.each(self.shape) + sent

    @property
    def postgresql_us(self) -> float:
        """PostgreSQL's time for one command."""
        return self.costs.drain_us.postgresql.each(self.shape)

    @property
    def workers(self) -> int:
        """Processes: each does one batch at a time."""
        return self._full(self.load.most * self.turn_us)

    def _full(self, us: float, cores: float = 1) -> int:
        """How many units of `cores` cores this work needs at the given utilisation."""
        return max(1, math.ceil(us / 1e6 / (cores * self.load.utilisation) - 1e-9))

    @property
    def backlog(self) -> float:
        """Commands that wait after an outage of PostgreSQL."""
        return self.load.most * self.load.backlog_seconds

    def shards(self, nodes: int) -> int:
        """LEVELQ_SHARDS for some Redis nodes: a power of two. Raises ConfigurationError if it would be too large."""
        names = self.load.specializations
        spread = max(nodes, math.ceil(SPREAD * nodes / names)) if nodes > 1 else 1
        held = math.ceil(self.backlog / (names * self.partition_limit))
        wanted: int = 2 ** math.ceil(math.log2(max(1, spread, held)))
        if wanted > MOST_SHARDS:
            raise ConfigurationError(
                f"--rate, --backlog-seconds: expected what {MOST_SHARDS} shards hold, got {wanted} shards for "
                f"{self.backlog:,.0f} waiting commands and {nodes} Redis nodes"
            )
        return wanted

    def watching_us(self, shards: int) -> float:
        """Redis's time in each second for workers that check partitions."""
        pairs = self.workers * self.load.specializations * shards
        return pairs * self.costs.idle_us.worker_partition_redis

    def redis_nodes(self) -> int:
        """Enough for the commands and for the checks of partitions, which grow with the number of nodes."""
        nodes = 1
        pushed_us = self.load.most * self.redis_us
        while (needed := self._full(pushed_us + self.watching_us(self.shards(nodes)))) > nodes:
            nodes = needed
        return nodes

    @property
    def wal_each(self) -> float:
        """Bytes of log for one command, with the images of whole pages that a checkpoint makes necessary."""
        return self.costs.bytes.wal.each(self.shape) + sum(self.page_images().values()) / self.load.most

    def page_images(self) -> dict[str, float]:
        """Bytes a second of images: a page's first change after a checkpoint logs it as a whole.

        Of P pages, t changes at random touch P (1 - exp(-t/P)). Tables and indexes that grow only at their end, such as
        the ledger and its indexes by time, touch few.
        """
        load, sizes = self.load, self.costs.bytes
        learners = load.users * load.specializations * sizes.learner / PAGE
        index = load.rate * DAY * load.retention_days * sizes.ledger_user_index_row / PAGE
        changes = load.most * self.shape.lanes * load.checkpoint_seconds
        return {
            "learners": _touched(learners, 2 * changes) * PAGE / load.checkpoint_seconds,
            "the ledger's index by user": _touched(index, changes) * PAGE / load.checkpoint_seconds,
        }

    def needs(self) -> Needs:
        """What the load takes. Raises ConfigurationError for more than levelq's own limits allow."""
        load, costs, most = self.load, self.costs, self.load.most
        nodes, workers = self.redis_nodes(), self.workers
        shards = self.shards(nodes)
        partitions = load.specializations * shards
        worker_us = most * costs.drain_us.workers.each(self.shape)
        worker_us += workers * partitions * costs.idle_us.worker_partition_workers
        database_us = most * self.postgresql_us + partitions * costs.idle_us.partition_postgresql
        wal = most * self.wal_each / 1e6
        kept = load.rate * DAY * load.retention_days * costs.bytes.ledger_row
        lanes = min(self.backlog, load.users * load.specializations)
        watching = self.watching_us(shards)
        hosts = {
            "processor": self._full(database_us, load.cores),
            "log": math.ceil(wal / load.wal_mb),
            "disk": math.ceil(kept / 1e12 / load.disk_tb),
        }
        return Needs(
            workers=workers,
            worker_hosts=self._full(worker_us, load.cores),
            redis_nodes=nodes,
            shards=shards,
            redis_gb=(self.backlog * costs.bytes.redis_command + lanes * costs.bytes.redis_lane) / 1e9,
            postgresql_hosts=max(hosts.values()),
            postgresql_hosts_by=hosts,
            postgresql_cores=database_us / 1e6 / load.utilisation,
            postgresql_connections=math.ceil(workers * costs.connections.postgresql),
            pooled_connections=self._full(most * (self.turn_us - costs.drain_us.workers.each(self.shape))),
            redis_connections=math.ceil(workers * costs.connections.redis),
            wal_mb=wal,
            ledger_gb_a_day=load.rate * DAY * costs.bytes.ledger_row / 1e9,
            ledger_tb=kept / 1e12,
            prunes=math.ceil(load.rate / costs.prune_rows),
            wakes=workers / self.slice_seconds,
            watching=watching / (watching + most * self.redis_us),
        )


def _touched(pages: float, changes: float) -> float:
    """How many of these pages random changes touch."""
    return pages * -math.expm1(-changes / pages)

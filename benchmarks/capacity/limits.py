"""What breaks first: for each part, the rate at which one of it is full, and what to do then."""

from __future__ import annotations

from typing import NamedTuple

from .model import Model

MAX_CONNECTIONS = 100  # PostgreSQL's default
HALF = 0.5  # of Redis's work: beyond it more nodes help little


class Limit(NamedTuple):
    """`rate`: commands a second at the peak at which `what` is full."""

    what: str
    rate: float
    because: str
    remedy: str


def limits(model: Model) -> list[Limit]:
    """All limits, the lowest rate first."""
    found = [*_processors(model), *_disks(model), *_watching(model), *_counts(model)]
    return sorted(found, key=lambda limit: limit.rate)


def _processors(model: Model) -> list[Limit]:
    load, costs = model.load, model.costs
    share = 1e6 * load.utilisation
    drains = load.utilisation * 1e6 / costs.wake_us if costs.wake_us else float("inf")
    return [
        Limit("one worker process", share / model.turn_us,
              f"one batch at a time: {model.turn_us:.0f} us a command with PostgreSQL's part",
              "more processes, on any hosts"),
        Limit("one Redis", share / model.redis_us,
              f"scripts run on one core: {model.redis_us:.0f} us a command, push and drain",
              "Redis Cluster and LEVELQ_SHARDS; send_many where commands come together"),
        Limit(f"one PostgreSQL of {load.cores} cores", load.cores * share / model.postgresql_us,
              f"{model.postgresql_us:.0f} us a command (more cores than the measured machine's: extrapolated)",
              "partition by user over hosts"),
        Limit("RQ's Redis", drains * model.slice_seconds * share / model.turn_us,
              f"{costs.wake_us:.0f} us a wake-up, one each {model.slice_seconds:g} s from every busy worker",
              "LEVELQ_SLICE_SECONDS; LEVELQ_RQ_URL apart from the lanes"),
    ]  # fmt: skip


def _disks(model: Model) -> list[Limit]:
    load, costs = model.load, model.costs
    images = sum(model.page_images().values()) / load.most / model.wal_each
    a_day = load.disk_tb * 1e12 / costs.bytes.ledger_row / load.retention_days / 86_400
    return [
        Limit(f"the log of one PostgreSQL ({load.wal_mb:g} MB/s)", load.wal_mb * 1e6 / model.wal_each,
              f"{model.wal_each:,.0f} bytes a command, {images:.0%} of them images of whole pages after a checkpoint",
              "a ledger partitioned by time; longer between checkpoints; partition by user over hosts"),
        Limit(f"the ledger's disk ({load.disk_tb:g} TB, retention {load.retention_days:g} d)", a_day * load.peak,
              f"{costs.bytes.ledger_row:.0f} bytes a command with its indexes",
              "levelq prune sooner; partition by time"),
        Limit("one levelq prune", costs.prune_rows * load.peak,
              f"it removes {costs.prune_rows:,.0f} rows a second",
              "a ledger partitioned by time, whose oldest partition is dropped"),
    ]  # fmt: skip


def _watching(model: Model) -> list[Limit]:
    load, needs = model.load, model.needs()
    watching = needs.watching / (1 - needs.watching)  # as a part of the rest; it grows with the square of the rate
    return [
        Limit("sweeps and leases", load.most * HALF / watching if watching else float("inf"),
              "each worker looks at each partition: their product grows with the square of the rate",
              "workers for some specializations only (-s); LEVELQ_SWEEP_SECONDS")
    ]  # fmt: skip


def _counts(model: Model) -> list[Limit]:
    load, costs = model.load, model.costs
    workers = MAX_CONNECTIONS / costs.connections.postgresql
    found = [
        Limit(f"{MAX_CONNECTIONS} connections of PostgreSQL", workers * 1e6 * load.utilisation / model.turn_us,
              f"{costs.connections.postgresql:.0f} for each worker process",
              "a pooler in transaction mode")
    ]  # fmt: skip
    if load.backlog_seconds:
        held = load.specializations * model.partition_limit
        found.append(
            Limit("LEVELQ_PARTITION_LIMIT with one shard", held / load.backlog_seconds,
                  f"{held:,} commands may wait, and PostgreSQL may be away for {load.backlog_seconds:g} s",
                  "LEVELQ_SHARDS, or a higher limit and the memory for it")
        )  # fmt: skip
    return found

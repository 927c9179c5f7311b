"""`levelq status`: what waits, who serves, and what is wrong. What cannot be asked is a problem, not an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any

import typer
from redis import Redis
from redis.exceptions import RedisError

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes import worker_alerts as notices
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.namespace_binding import DatabaseIdentity, bound_to, require_same
from levelq_core.lanes.parked import ParkedLanes, read
from levelq_core.lanes.protocol import Status
from levelq_core.lanes.worker_alerts import WorkerAlert
from levelq_core.operations import key_faults
from levelq_core.operations.identity import identity_of
from levelq_core.operations.queries import Holder, counts
from levelq_core.operations.redischeck.health import refusal
from levelq_core.redis_client.wrong_type import is_wrong_type
from levelq_core.settings import Settings
from levelq_worker.rq_adapter.registry import suspension, workers_of
from levelq_worker.support.parked_lanes import is_locked, iso_utc
from levelq_worker.support.partition_directory import partitions

from .connecting import database_of, load, redis_of
from .problems import database_problems, lane_problems, parked_problems, redis_problems, row_holder, weather_problems
from .screen import Listing, count, duration, one_line, out, verdict

_NUMBERS = ("waiting", "ready", "claimed", "parked")
_MOST_PARKED = 100  # lanes in the JSON object


@dataclass
class Seen:
    """What could be found out. `lanes` is None if their Redis is away, `serving` if RQ's is.

    `unexplained`: how many lanes are parked without a reason in Redis.
    """

    namespace: str
    bound_to: DatabaseIdentity | None = None
    lanes: dict[Partition, Status] | None = None
    parked: dict[Partition, ParkedLanes] = field(default_factory=dict)
    unexplained: int = 0
    serving: dict[Partition, set[str]] | None = None
    notices: list[WorkerAlert] = field(default_factory=list)
    totals: dict[str, int | None] = field(default_factory=lambda: {"rejected": None, "quarantined": None})
    problems: list[str] = field(default_factory=list)

    @property
    def workers(self) -> int | None:
        """How many workers serve at least one of the partitions."""
        return None if self.serving is None else len(set().union(*self.serving.values()))


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Show what waits in the lanes, how many workers serve, and what is wrong.

    Waiting counts commands; ready, claimed and parked count lanes. Rejected and quarantined come from the
    database, if LEVELQ_DATABASE_URL is set. Below, one line for each thing that is wrong; exit code 1 if there is any.
    """
    seen = look(load())
    if as_json:
        _print_json(seen)
    if seen.lanes is None:
        if as_json:
            raise typer.Exit(2)
        raise ConfigurationError("; ".join(seen.problems))
    if not as_json:
        _print(seen, seen.lanes)
    if seen.problems:
        raise typer.Exit(1)


def look(settings: Settings) -> Seen:
    """Ask the lanes' Redis, RQ's and the database, as far as they answer."""
    seen = Seen(settings.namespace)
    with _noted(seen), redis_of(settings) as redis:
        seen.lanes = _statuses(seen, settings, redis)
        _look_for_parked(seen, settings, redis, seen.lanes)
        seen.problems += redis_problems(redis)
        seen.notices = notices.read(redis, settings.keys)
        seen.problems += weather_problems(seen.notices)
        seen.problems += map(str, key_faults.find(Lanes(redis, settings), seen.lanes))
        with suppress(ConfigurationError):  # one of those faults
            seen.bound_to = bound_to(Lanes(redis, settings))
    if seen.lanes is not None:
        with _noted(seen):
            _look_for_workers(settings, seen, seen.lanes)
    holding: Holder | None = None
    if settings.database_url is not None:
        with _noted(seen), database_of(settings) as engine, engine.connect() as connection:
            seen.problems += database_problems(connection, settings)
            if seen.unexplained or any(
                is_locked(lane.reason) for found in seen.parked.values() for lane in found.lanes
            ):
                holding = row_holder(connection, settings)
            seen.totals |= counts(connection)
            if seen.bound_to is not None:
                require_same(settings.namespace, seen.bound_to, identity_of(connection))
    seen.problems += parked_problems(seen.parked, seen.unexplained, holding)
    return seen


def _look_for_parked(seen: Seen, settings: Settings, redis: Redis, found: dict[Partition, Status]) -> None:
    """Why lanes are parked. Raises RedisError."""
    lanes = Lanes(redis, settings)
    for partition, status in found.items():
        seen.parked[partition] = parked = read(redis, settings.keys, partition)
        if status.parked > parked.total:  # or it was, a moment ago
            seen.unexplained += max(0, min(status.parked, lanes.status(partition).parked) - parked.total)


def _look_for_workers(settings: Settings, seen: Seen, lanes: dict[Partition, Status]) -> None:
    queues = {partition: settings.keys.queue(partition.specialization) for partition in lanes}
    with redis_of(settings, rq=True) as rq:
        suspended = suspension(rq)
        seen.problems += [suspended] if suspended else []
        faults = key_faults.find_in_rq(rq, sorted(set(queues.values())))
        seen.problems += map(str, faults)
        lists = refusal(rq) is None and not faults  # else a worker that works all the same cannot say that it is there
        if not faults:
            seen.serving = {partition: workers_of(rq, queue) for partition, queue in queues.items()}
    with redis_of(settings) as redis:
        explained = bool(seen.notices or suspended)
        serving = seen.serving if lists else None
        seen.problems += lane_problems(Lanes(redis, settings), settings, lanes, serving, explained=explained)


@contextmanager
def _noted(seen: Seen) -> Iterator[None]:
    """What could not be asked is one of the problems."""
    try:
        yield
    except ConfigurationError as error:
        seen.problems.append(one_line(str(error)))


def _statuses(seen: Seen, settings: Settings, redis: Redis) -> dict[Partition, Status]:
    """Of every partition that answers; of a cluster, a server may be away. Raises RedisError if none does."""
    lanes = Lanes(redis, settings)
    names = {partition.specialization for partition in lanes.partitions()} | set(settings.tracks)
    found: dict[Partition, Status] = {}
    away: dict[Partition, RedisError] = {}
    for partition in partitions(lanes, names):
        try:
            found[partition] = lanes.status(partition)
        except RedisError as error:
            away[partition] = error
    away = {partition: error for partition, error in away.items() if not is_wrong_type(error)}  # key_faults names those
    if away and not found:
        raise next(iter(away.values()))
    for why in dict.fromkeys(map(str, away.values())):
        gone = [str(partition) for partition, error in away.items() if str(error) == why]
        seen.problems.append(one_line(f"{', '.join(gone)}: their server is away: {why}"))
    return found


def _print_json(seen: Seen) -> None:
    rows = [_row(partition, found) for partition, found in (seen.lanes or {}).items()]
    bound = None if seen.bound_to is None else str(seen.bound_to)
    everything: dict[str, Any] = {"namespace": seen.namespace, "database": bound, "partitions": rows, **seen.totals}
    everything |= {"workers": seen.workers, "problems": seen.problems}
    typer.echo(json.dumps(everything | {"parked_lanes": list(islice(_parked_rows(seen), _MOST_PARKED))}))


def _parked_rows(seen: Seen) -> Iterator[dict[str, Any]]:
    for partition, found in seen.parked.items():
        for lane in found.lanes:
            yield {
                "partition": str(partition),
                "user": int(lane.user) if lane.user.isdecimal() else lane.user,
                "since": iso_utc(lane.since_ms),
                "until": None if lane.until_ms is None else iso_utc(lane.until_ms),
                "attempts": lane.attempts,
                "reason": lane.reason,
            }


def _row(partition: Partition, found: Status) -> dict[str, Any]:
    return {
        "partition": str(partition),
        "specialization": partition.specialization,
        **{name: getattr(found, name) for name in _NUMBERS},
        "oldest_seconds": round(found.oldest_seconds, 3),
    }


def _print(seen: Seen, lanes: dict[Partition, Status]) -> None:
    numbers = [name.capitalize() for name in (*_NUMBERS, "oldest")]
    shown = Listing("Partition", *numbers, right=numbers)
    for partition, found in lanes.items():
        shown.add(str(partition), *(getattr(found, name) for name in _NUMBERS), _oldest(found))
    if len(lanes) > 1:
        sums = (sum(getattr(found, name) for found in lanes.values()) for name in _NUMBERS)
        shown.end_section()
        shown.add("all", *sums, _oldest(*lanes.values()), style="bold")
    shown.print()
    rest = "".join(
        f"   {name} {'-' if number is None else format(number, ',')}" for name, number in seen.totals.items()
    )
    known = "- workers" if seen.workers is None else count(seen.workers, "worker")
    out.print(verdict(known, "" if seen.workers else "bold yellow", rest))
    bound = f"bound to {seen.bound_to}" if seen.bound_to else "not bound to a database yet"
    out.print(f"namespace {seen.namespace}, {bound}", style="dim", markup=False, highlight=False)
    for problem in seen.problems:
        out.print(verdict("wrong", "bold red", f"  {problem}"), soft_wrap=True)


def _oldest(*found: Status) -> str | None:
    ages = [status.oldest_seconds for status in found if status.waiting]
    return duration(max(ages)) if ages else None

"""The problems that `levelq status` reports, one line each: what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from operator import attrgetter

from psycopg.errors import QueryCanceled
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from levelq_core.database.schema import LICENSES, PROGRESS, schema_of
from levelq_core.errors import SchemaError
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.drift_report import DriftReport
from levelq_core.lanes.parked import ParkedLanes
from levelq_core.lanes.protocol import Status
from levelq_core.lanes.worker_alerts import WorkerAlert
from levelq_core.operations.dbcheck import check_read_only, require_spelling, sequence_problems
from levelq_core.operations.parked_advice import cause_lines, waiting_advice
from levelq_core.operations.queries import Holder, holder
from levelq_core.operations.redischeck.health import refusal, risks
from levelq_core.operations.wording import count, duration, time_of, when_utc
from levelq_core.redis_client.topology import topology_of
from levelq_core.settings import Settings

from .hot_spots import HotSpots
from .standstill import AGAIN_SECONDS, Serving, Standstill

SPELLING_MS = 2000  # however large the tables, a status must be quick


def redis_problems(redis: Redis) -> Iterator[str]:
    """What the lanes' Redis itself reports. Raises RedisError."""
    found: list[str] = []
    topology = topology_of(redis)
    for server in topology.servers():
        try:
            found += _server_problems(server)
        except RedisError:
            if not topology.several_servers:
                raise  # of several servers, the partitions report it
    yield from dict.fromkeys(found)


def _server_problems(server: Redis) -> Iterator[str]:
    why = refusal(server)
    if why is not None:
        yield f"Redis refuses pushes: {why}{_more_memory(server, why)}"
    with suppress(NoPermissionError):  # a role without INFO
        yield from (risk.problem for risk in risks(server.info()))


def _more_memory(server: Redis, why: str) -> str:
    """What ends a full Redis, with its figures; nothing for another cause, or for a role without INFO."""
    if "maxmemory" not in why:
        return ""
    with suppress(NoPermissionError):
        memory = server.info("memory")
        used, limit = int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))
        if limit:
            enough = 2 * max(used, limit)  # a limit that was lowered may be far below what is used
            shown = f"{used / 2**20:,.1f} of {limit / 2**20:,.1f} MiB used"
            return f" ({shown}); to end it: CONFIG SET maxmemory {enough}"
    return ""


def alert_problems(alerts: Iterable[WorkerAlert]) -> Iterator[str]:
    """What workers wait for, each cause once."""
    for what, same in groupby(sorted(alerts, key=attrgetter("what")), key=attrgetter("what")):
        waiting = list(same)
        who = waiting[0].worker if len(waiting) == 1 else count(len(waiting), "worker")
        advice = waiting_advice(what)
        seconds = max(alert.seconds for alert in waiting)
        yield f"{who} waiting for {duration(seconds)}: {what}" + (f"; {advice}" if advice else "")


def full_lanes(spots: HotSpots, limit: int) -> Iterator[str]:
    """Those of the longest lanes that take no more commands: their senders get LaneFull."""
    for lane in spots.longest:
        if lane.waiting >= limit and isinstance(lane.user, int):
            full = f"its lane is full ({lane.waiting:,} commands, LEVELQ_LANE_LIMIT)"
            yield f"{lane.partition}: user {lane.user}: {full}: more are refused; `levelq explain {lane.user}`"


def drift_problems(report: DriftReport | None) -> Iterator[str]:
    """The pairs out of step that the last audit of the workers found and did not repair."""
    if report is None or not report.remaining:
        return
    first = ", ".join(
        f"user {pair.user_id} {pair.specialization} ({_level(pair.progress_level)}, {_level(pair.license_level)})"
        for pair in report.examples
    )
    more = ", ..." if report.remaining > len(report.examples) else ""
    found = f"{report.remaining:,} of {count(report.compared, 'pair')} out of step (progress, license)"
    advice = "`levelq check` says why no command repairs them"
    if report.remaining > report.unrepairable:
        advice = "`levelq sync --all --source higher` repairs them, or LEVELQ_DRIFT_POLICY"
    yield f"{found}, audited {when_utc(time_of(report.finished_ms))}: {first}{more}; {advice}"


def _level(level: int | None) -> str:
    return "none" if level is None else str(level)


def lane_problems(
    lanes: Lanes,
    settings: Settings,
    found: Mapping[Partition, Status],
    serving: Serving | None,
    *,
    explained: bool,
    again_seconds: float = AGAIN_SECONDS,
) -> Iterator[str]:
    """Partitions that make no progress though they could, and changes of shards that are held up.

    `serving` is None where RQ cannot list workers. `explained`: another problem is why nothing moves.
    `again_seconds`: after which a partition that seems to stand still is read again. Raises RedisError.
    """
    layouts = lanes.read_layouts({partition.specialization for partition in found}).found
    for name, layout in layouts.items():
        parked = sum(found[partition].parked for partition in layout.previous_partitions(name) if partition in found)
        if parked:
            lanes_left = count(parked, "parked lane")
            yield f"{name}: the change to {layout.shards} shards waits for {lanes_left} of the old ones"
    known = [partition for partition in found if partition.specialization in layouts]
    holding = [p for p in known if (found[p].waiting or found[p].ready) and not layouts[p.specialization].is_blocked(p)]
    yield from Standstill(lanes, settings, found, serving, again_seconds).problems(holding, explained=explained)


def database_problems(connection: Connection, settings: Settings, newest: int | None = None) -> Iterator[str]:
    """What keeps the database from taking batches. Raises SchemaError for what it lacks, and DBAPIError.

    `newest`: how many rows of each large table are looked at, None for all.
    """
    for finding in check_read_only(connection):
        by_itself = ", each statement by itself" if len(finding.fix) > 1 else ""  # `psql -c` would make them one
        yield f"{finding.problem}; to end it{by_itself}: {' '.join(finding.fix).removeprefix('-- ')}"
    schema_of(connection)
    yield from sequence_problems(connection)
    yield from _spelling_problems(connection, settings, newest)


def _spelling_problems(connection: Connection, settings: Settings, newest: int | None) -> Iterator[str]:
    """Rows that levelq would not find, if the tables can be read in time; workers take the time they need."""
    connection.execute(text("SAVEPOINT spelling"))
    connection.execute(text("SELECT set_config('statement_timeout', :ms, true)"), {"ms": str(SPELLING_MS)})
    try:
        require_spelling(connection, settings.tracks, newest=newest)
    except SchemaError as error:
        yield str(error)
    except OperationalError as error:
        if not isinstance(error.orig, QueryCanceled):
            raise
    finally:
        connection.execute(text("ROLLBACK TO SAVEPOINT spelling"))


def row_holder(connection: Connection, settings: Settings) -> Holder | None:
    """The session that holds rows of the lanes' tables for longest. Raises SchemaError and DBAPIError."""
    parents = {parent.table for keys in schema_of(connection).parents.values() for parent in keys}
    return holder(connection, {PROGRESS, LICENSES, *parents}, settings.lock_ms / 1000)


def parked_problems(found: Mapping[Partition, ParkedLanes], unexplained: int, holding: Holder | None) -> Iterator[str]:
    """Why lanes are parked, and what to do. `unexplained`: how many lanes have no reason in Redis."""
    held = held_by(holding)
    for partition, parked in found.items():
        yield from cause_lines(partition, parked, held)
    if unexplained:
        otherwise = "rows held by other code, a newer version or a key that is no list; the workers' log says which"
        yield f"{count(unexplained, 'lane')} parked for later: {held or otherwise}"


def held_by(holding: Holder | None) -> str | None:
    """Which session holds rows, for how long, and how to end it."""
    if holding is None:
        return None
    state = holding.state or "in a transaction"
    for_long = f" for {duration(holding.seconds)}" if holding.seconds is not None else ""
    end = f"SELECT pg_terminate_backend({holding.pid})"
    return f"session {holding.pid} ({holding.name}, {state}{for_long}) holds rows; to end it: {end}"

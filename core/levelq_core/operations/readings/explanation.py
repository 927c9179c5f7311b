"""`levelq explain`: everything about one user over Redis and PostgreSQL, and in one sentence why nothing happens."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from levelq_core.errors import InvalidArgument
from levelq_core.operations.connections import database_of, redis_of, require_engine
from levelq_core.settings import Settings

from .causes import explain_cause, other_causes
from .found import Found, read_database, read_redis, read_rq
from .history import Wanted, wanted_of
from .lane_facts import LaneFacts
from .levels import Levels, RowHolder
from .records import Reading
from .timeline import Event, waiting_events
from .waiting import FIRST, OutboxRows, WaitingLane

MOST_FIRST = 100


class LaneExplanation(Reading):
    """One of the user's specializations: its levels, what waits, who holds it, and why.

    `lanes`: those in Redis that hold commands or are parked; two while the number of shards changes. `workers`: how
    many serve it, None if that was not read. `holders`: sessions that hold locks on its rows now. `cause`: by name;
    `conclusion`: the reason and the next step in one sentence. `also`: the same for what else is wrong.
    """

    specialization: str
    levels: Levels | None
    lanes: tuple[WaitingLane, ...]
    outbox: OutboxRows | None
    workers: int | None
    holders: tuple[RowHolder, ...]
    cause: str
    conclusion: str
    also: tuple[str, ...] = ()


class Explanation(Reading):
    """What `levelq explain` prints; `model_dump_json()` is what `levelq explain --json` prints.

    `lanes`: the user's specializations, the one with the worst cause last. `events`: in time order. `unread`: by
    consumer of level events, how many of this user's it has yet to read, among the first 5,000 commands. `problems`:
    what could not be read. `notes`: that the user has most commands of a partition. `conclusion`: the reason and the
    next step in one sentence.
    """

    user_id: int
    lanes: tuple[LaneExplanation, ...]
    events: tuple[Event, ...]
    unread: dict[str, int]
    problems: tuple[str, ...]
    cause: str
    conclusion: str
    notes: tuple[str, ...] = ()


def explain(
    settings: Settings | None,
    user_id: int,
    specialization: str | None = None,
    *,
    since: datetime | None = None,
    limit: int = 20,
    first: int = FIRST,
    engine: Engine | None = None,
) -> Explanation:
    """Explain what waits for a user and why, what was decided, and what to do next: what `levelq explain` prints.

    `settings`: None for those of the environment. `since`: leave out older events; `limit`: the newest events of
    each kind, 1 to 10,000; `first`: how many waiting commands of each lane to read, 1 to 100. `engine`: a SQLAlchemy
    Engine on psycopg 3, the application's own, to use instead of LEVELQ_DATABASE_URL.

    It changes and locks nothing. A server that does not answer is a problem in the result; nothing is raised for it. It
    blocks: on an event loop, run it in a thread. Raises ConfigurationError if the settings cannot be read,
    InvalidArgument, TypeError.
    """
    wanted = wanted_of(user_id, limit, specialization, since=since)
    if type(first) is not int or not 1 <= first <= MOST_FIRST:
        message = f"first: expected an integer from 1 to {MOST_FIRST}, got {first!r}"
        raise InvalidArgument(message, field="first", value=first)
    settings = Settings.of(settings)
    if engine is not None:
        require_engine(engine)
    found = Found()
    with found.noting("redis"), redis_of(settings) as redis:
        read_redis(found, redis, settings, wanted, first)
    if engine is None and settings.database_url is None:
        found.database = "LEVELQ_DATABASE_URL is not set"
    else:
        reading = database_of(settings, engine, name="levelq explain")
        with found.noting("database"), reading as used, used.connect() as connection:
            read_database(found, connection, settings, wanted, limit, first)
    if found.lanes or found.outbox:
        with found.noting("rq"):
            read_rq(found, settings)
    return _explanation(found, settings, wanted)


def _explanation(found: Found, settings: Settings, wanted: Wanted) -> Explanation:
    for name, in_redis in found.lanes.items():
        for one in in_redis:
            found.events += waiting_events(one.first, name, one.lane.waiting or 0)
    names = {*found.lanes, *found.outbox, *found.rows, *(e.specialization for e in found.events if e.specialization)}
    if wanted.specialization is not None:
        names = {wanted.specialization}
    explained = sorted((_lane(found, settings, wanted.user_id, name) for name in names), key=lambda ranked: -ranked[0])
    lanes = tuple(lane for _, lane in explained)
    known = bool(found.events or found.rows or found.lanes or found.outbox)
    if known or found.problems:
        cause, conclusion = (lanes[-1].cause, lanes[-1].conclusion) if lanes else _nothing(found, wanted.user_id)
    else:
        cause = "unknown_user"
        conclusion = (
            f"user {wanted.user_id} is unknown here: no rows, nothing waits, nothing was decided; check the id, and "
            "`levelq namespace show` for whether these are the servers you mean"
        )
    return Explanation(
        user_id=wanted.user_id,
        lanes=lanes,
        events=tuple(sorted(found.events, key=lambda event: event.at)),
        unread=found.unread,
        problems=tuple(found.problems),
        cause=cause,
        conclusion=conclusion,
        notes=tuple(found.notes),
    )


def _nothing(found: Found, user_id: int) -> tuple[str, str]:
    """The cause where no lane of the user is known: nothing is there, or a server cannot be read."""
    if found.redis:
        return "redis_away", f"user {user_id}: nothing else is known of this user; what waits is unknown: {found.redis}"
    if found.problems:
        why = found.database or "; ".join(found.problems)
        return "database_unread", f"user {user_id}: nothing waits in Redis; all else is unknown: {why}"
    return "fine", f"user {user_id}: no rows, nothing waits, and nothing was decided: nothing to do"


def _lane(found: Found, settings: Settings, user_id: int, name: str) -> tuple[int, LaneExplanation]:
    """One specialization, and the rank of its cause."""
    in_redis = found.lanes.get(name, [])
    first = in_redis[0] if in_redis else None
    held = next((f"{h.in_words()} holds its rows" for h in found.holders.get(name, ()) if not h.is_worker), found.held)
    lanes = tuple(WaitingLane.of(one.lane, one.first, held, one.paused) for one in in_redis)
    rows, outbox = found.rows.get(name), found.outbox.get(name)
    past: Any = [event for event in found.events if event.specialization == name and event.what in _DECIDED]
    seen = LaneFacts(
        user_id=user_id,
        specialization=name,
        claim_seconds=settings.claim_seconds,
        sweep_seconds=settings.sweep_seconds,
        rq_url="LEVELQ_RQ_URL" if settings.rq_url else "LEVELQ_REDIS_URL",
        redis=found.redis,
        database=found.database,
        lane=lanes[0] if lanes else None,
        outbox=outbox,
        levels=rows.levels if rows else None,
        known=name in settings.tracks,
        suspended=found.suspended,
        workers=found.workers.get(name),
        drains=first.progress.drains if first else 0,
        idle_seconds=first.progress.since if first else None,
        blocked=first.blocked if first else False,
        restoring=first.progress.restoring if first else False,
        alert=found.alert,
        silent=first.silent if first else 0.0,
        holders=found.holders.get(name, ()),
        repair=found.repairs.get(name, ""),
        drift_policy=found.drift_policy,
        last=max(past, key=lambda event: event.at, default=None),
    )
    rank, cause, conclusion = explain_cause(seen)
    return rank, LaneExplanation(
        specialization=name,
        levels=seen.levels,
        lanes=lanes,
        outbox=outbox,
        workers=seen.workers,
        holders=seen.holders,
        cause=cause,
        conclusion=conclusion,
        also=other_causes(seen, cause),
    )


_DECIDED = ("applied", "rejected", "quarantined")

"""Parked lanes for an operator: how many, since when, why, and what to do about it. One line for each cause."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.parked import NEWER_VERSION, WRONG_TYPE, ParkedLane, ParkedLanes, cause_of, read
from levelq_core.lanes.pauses import PARKED_REASON

from .wording import count, time_of, users_named, when_utc

MOST_CAUSES = 5  # of one partition that have a line of their own
_LOCKED = "other code holds its rows"  # isolate.LOCKED_REASON begins so

_BY_WORDS = (
    (_LOCKED, "commit or end the transaction that holds them"),
    (NEWER_VERSION, "start workers of the version that sent it"),
    (WRONG_TYPE, "other code wrote that key: move it away with RENAME"),
)
# By SQLSTATE; the first that fits. Names in braces are read from the message.
_BY_STATE = (
    ("P0", "a trigger or function of the database raised this: change what it checks, or the trigger"),
    (
        "2200H",
        "ALTER SEQUENCE {sequence} AS bigint (its column, too), or setval('{sequence}', ...) to where numbers are free",
    ),
    ("23502", "ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT ..., or DROP NOT NULL"),
    ("23", "a constraint of the database refuses it: change the rows it looks at, or the constraint"),
    ("42501", "GRANT the workers' role what it lacks"),
    ("42", "`levelq db check` says what the tables lack"),
    ("", "fix its cause; PostgreSQL's log has the details"),
)
_STATE = re.compile(r"\(SQLSTATE (\w{5})\)$")
_NAMES = (
    re.compile(r'sequence "(?P<sequence>[^"]+)"'),
    re.compile(r'"(?P<column>[^"]+)" of relation "(?P<table>[^"]+)"'),
)


def advice(reason: str) -> str:
    """What to do about the reason that keeps a lane parked."""
    for words, what in _BY_WORDS:
        if reason.startswith(words):
            return what
    found = _STATE.search(reason)
    state = found[1] if found else ""
    if state == "23505" and "_pkey" in reason:
        return "a sequence lags behind the rows, as after a restore: setval() it to the greatest id"
    what = next(what for begins, what in _BY_STATE if state.startswith(begins))
    names = {"sequence": "SEQUENCE", "column": "COLUMN", "table": "TABLE"}
    for pattern in _NAMES:
        if named := pattern.search(reason):
            names |= named.groupdict()
    return what.format(**names)


def waiting_advice(what: str) -> str | None:
    """The same for what workers wait for; None if they can only wait."""
    found = _STATE.search(what)
    return advice(what) if found and found[1].startswith(("P0", "2200H", "23", "42")) else None


def is_locked(reason: str) -> bool:
    """Whether a lane is parked because other code holds its rows."""
    return reason.startswith(_LOCKED)


def is_raised_by_code(reason: str) -> bool:
    """Whether a trigger or function of the database raised it."""
    found = _STATE.search(reason)
    return found is not None and found[1].startswith("P0")


def remedy(lane: ParkedLane, held: str | None) -> str:
    """What to do about a lane. `held`: what to do about rows that other code holds, if that is known."""
    if lane.reason.startswith(PARKED_REASON):
        return f"`levelq resume --user {lane.user}` ends the pause"
    return held if held and is_locked(lane.reason) else advice(lane.reason)


def cause_lines(partition: Partition, found: ParkedLanes, held: str | None = None) -> Iterator[str]:
    """One line for each cause but pauses, the most frequent first. `held`: what to do about rows that others hold."""
    groups: dict[str, list[ParkedLane]] = {}
    lanes = [lane for lane in found.lanes if not lane.reason.startswith(PARKED_REASON)]
    for lane in lanes:
        groups.setdefault(cause_of(lane.reason), []).append(lane)
    most_first = sorted(groups.values(), key=len, reverse=True)
    for group in most_first[:MOST_CAUSES]:
        first = group[0]  # the oldest
        what = remedy(first, held)
        since = f"parked since {when_utc(time_of(first.since_ms))}, {_next_attempt(group)}"
        whose = users_named([lane.user for lane in group])
        yield f"{partition}: {count(len(group), 'lane')} {since}{whose}: {first.reason}; {what}"
    rest = found.total - (len(found.lanes) - len(lanes)) - sum(map(len, most_first[:MOST_CAUSES]))
    if rest > 0:
        yield f"{partition}: {count(rest, 'lane')} more parked for other causes: levelq status --json"


def _next_attempt(group: Sequence[ParkedLane]) -> str:
    """When the first of these is tried again by itself; empty if it is due, or while a drain holds it."""
    attempts = [time_of(lane.until_ms) for lane in group if lane.until_ms is not None]
    first = min(attempts, default=None)
    return "" if first is None or first <= datetime.now(UTC) else f"next attempt at {first:%H:%M:%S} UTC, "


def burst_lines(lanes: Lanes, partitions: Sequence[Partition], paused: Sequence[str] = ()) -> Iterator[str]:
    """After a burst: how many lanes are parked, and why; and lines about what is `paused`. Raises RedisError."""
    parked, lines = 0, list[str]()
    for partition in partitions:
        found = read(lanes.redis, lanes.keys, partition)
        parked += max(found.total, lanes.status(partition).parked)  # a short delay may have passed by now
        lines += cause_lines(partition, found)
    yield f"done: nothing is due{' but what is paused' if paused else ''}; lanes parked for later: {parked}"
    yield from (*lines, *paused)

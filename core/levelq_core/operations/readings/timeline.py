"""What is known of a user, as events in time order: what was decided, what waits, what others did."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy import Connection, text

from levelq_core.database.table_names import AUDIT, LEDGER, LICENSES, POSITIONS, PROGRESSIONS
from levelq_core.domain.commands import retry_id
from levelq_core.operations.audit import user_target
from levelq_core.operations.wording import count, one_line
from levelq_core.untrusted_text import printable

from .audit_lines import OF_TARGET
from .history import HistoryEntry, QuarantinedEntry, Wanted
from .records import Reading, Time
from .row_list import MOST_SEARCHED
from .waiting import WaitingCommand

What = Literal["applied", "rejected", "progressed", "quarantined", "audit", "waiting"]
MOST_SHOWN = 300  # characters of a text of others


class Event(Reading):
    """Something that happened to a user's lane, or that waits in it.

    `summary`: on one line, without control characters. `detail`: by name, what the summary leaves out.
    """

    at: Time
    what: What
    specialization: str | None
    summary: str
    command_id: UUID | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


def decided_events(connection: Connection, entries: Sequence[HistoryEntry]) -> Iterator[Event]:
    """The decided commands, each rejected one with the command that retried it. Raises DBAPIError."""
    retries = {retry_id(entry.command_id): entry.command_id for entry in entries if entry.status == "rejected"}
    found = connection.execute(_STATUSES, {"ids": list(retries)}).all() if retries else []
    retried = {retries[command_id]: (command_id, status) for command_id, status in found}
    for entry in entries:
        content = entry.model_dump(exclude={"command_id", "at", "specialization", "user_id"})
        said = [_decision(entry)]
        if entry.command_id in retried:
            command_id, status = retried[entry.command_id]
            said.append(f"retried as {command_id}: {status}")
        if entry.command_id in retries:
            said.append(f"the retry of {retries[entry.command_id]}")
        yield Event(
            at=entry.at,
            what=entry.status,
            specialization=entry.specialization,
            summary="; ".join([f"{entry.in_words()}: {said[0]}{entry.origin()}", *said[1:]]),
            command_id=entry.command_id,
            detail=content,
        )


def _decision(entry: HistoryEntry) -> str:
    if entry.status == "rejected":
        return one_line(entry.message)[:MOST_SHOWN]
    old, new = entry.from_level, entry.to_level
    said = f"level {old} -> {new}" if old != new else f"level stays {new}"
    if entry.before and entry.after and entry.before.total_xp != entry.after.total_xp:
        said += f", {entry.before.total_xp:,} -> {entry.after.total_xp:,} XP"
    return said


def complete(kinds: Sequence[Sequence[Event]], limit: int) -> Iterator[Event]:
    """The events of all kinds from the time on from which each kind is complete: `limit` of each were read at most.

    Each kind was read from the newest to the oldest, and is given the other way: a batch has one time for all.
    Progressions that a command among them wrote are left out: the command's event says the same.
    """
    start = max((min(e.at for e in events) for events in kinds if len(events) >= limit), default=None)
    written = {
        (e.at, e.specialization, e.detail.get("from_level"), e.detail.get("to_level"))
        for e in chain.from_iterable(kinds)
        if e.what == "applied"
    }
    for event in chain.from_iterable(map(reversed, kinds)):
        said = (event.at, event.specialization, event.detail.get("from_level"), event.detail.get("to_level"))
        if (start is None or event.at >= start) and not (event.what == "progressed" and said in written):
            yield event


def progression_events(connection: Connection, wanted: Wanted, limit: int) -> Iterator[Event]:
    """The newest rows of license_progressions, whoever wrote them. Raises DBAPIError."""
    for row in connection.execute(_PROGRESSIONS, {**wanted._asdict(), "limit": limit}):
        said = f"license {row.from_level} -> {row.to_level}"
        author = f"; by {row.advanced_by}" if row.advanced_by is not None else ""
        reason = f'; "{printable(row.reason, MOST_SHOWN)}"' if row.reason else ""
        yield Event(
            at=_in_utc(row.at),
            what="progressed",
            specialization=row.specialization,
            summary=said + author + reason,
            detail={"from_level": row.from_level, "to_level": row.to_level},
        )


def quarantined_events(entries: Iterable[QuarantinedEntry]) -> Iterator[Event]:
    """What workers took out of the lanes because it was no command."""
    for entry in entries:
        summary = f"{printable(entry.reason, MOST_SHOWN)}; {count(entry.length, 'byte')}, {entry.raw[:24]!r}"
        yield Event(at=entry.at, what="quarantined", specialization=entry.specialization, summary=summary)


def audit_events(connection: Connection, wanted: Wanted, limit: int) -> Iterator[Event]:
    """What operators did to the user's lanes, the newest lines of the audit about this user. Raises DBAPIError."""
    values = {**wanted._asdict(), "limit": limit, "target": user_target(wanted.user_id)}
    for row in connection.execute(_AUDIT, values):
        detail = "" if row.detail is None else f": {printable(json.dumps(row.detail), MOST_SHOWN)}"
        summary = f"{row.action} {row.target} by {row.actor} from {row.origin}"
        yield Event(at=row.at, what="audit", specialization=None, summary=printable(summary, MOST_SHOWN) + detail)


def waiting_events(commands: Iterable[WaitingCommand], specialization: str, total: int) -> Iterator[Event]:
    """The first commands that wait in a lane, or in the outbox, of `total`."""
    for waits in commands:
        if waits.sent_at is not None:
            yield Event(
                at=waits.sent_at,
                what="waiting",
                specialization=specialization,
                summary=f"{waits.in_words()}; {waits.position} of {total} in the {waits.held_in}",
                command_id=None if waits.command is None else waits.command.command_id,
                detail={"held_in": waits.held_in},
            )


def unread_events(connection: Connection, wanted: Wanted) -> dict[str, int]:
    """By consumer, how many of the user's level changes it has yet to read. Raises DBAPIError.

    Counted among the first 5,000 of the user's commands that it has yet to read. Those of transactions that committed
    late are left out.
    """
    rows = connection.execute(_UNREAD, wanted._asdict())
    return {printable(row.consumer, MOST_SHOWN): row.unread for row in rows}


def _in_utc(moment: datetime) -> datetime:
    """Times without a zone are in UTC, as levelq writes them."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


# Which of these commands were decided, and how.
_STATUSES = text(f"SELECT command_id, status FROM {LEDGER} WHERE command_id = ANY(CAST(:ids AS uuid[]))")

# The newest progressions of a user.
_PROGRESSIONS = text(f"""
    SELECT g.from_level, g.to_level, g.advanced_by, g.advancement_reason AS reason, g.advanced_at AS at,
           l.specialization_type AS specialization
    FROM {PROGRESSIONS} g JOIN {LICENSES} l ON l.id = g.user_license_id
    WHERE l.user_id = :user_id
        AND (CAST(:specialization AS text) IS NULL OR l.specialization_type = :specialization)
        AND (CAST(:since AS timestamptz) IS NULL OR g.advanced_at >= :since)
    ORDER BY g.id DESC LIMIT :limit
""")

# The newest lines of the audit about a user.
_AUDIT = text(f"""
    SELECT at, actor, origin, action, target, detail FROM {AUDIT}
    WHERE {OF_TARGET}
        AND (CAST(:specialization AS text) IS NULL OR target IN (:target, :target || ' ' || :specialization))
        AND (CAST(:since AS timestamptz) IS NULL OR at >= :since)
    ORDER BY id DESC LIMIT :limit
""")

# How many level changes of a user each consumer has yet to read, among the first rows that it has yet to read.
_UNREAD = text(f"""
    SELECT c.consumer, (
        SELECT count(*) FILTER (WHERE e.from_level <> e.to_level
            AND (CAST(:specialization AS text) IS NULL OR e.specialization = :specialization))
        FROM (SELECT specialization, from_level, to_level FROM {LEDGER}
              WHERE user_id = :user_id AND id > c.position ORDER BY id LIMIT {MOST_SEARCHED}) AS e
    ) AS unread
    FROM {POSITIONS} c ORDER BY c.consumer LIMIT 20
""")

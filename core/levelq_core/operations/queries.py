"""Questions to the database for people and for handles: outcomes, histories, pairs out of step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from levelq_core.coupler.ledger import COMMAND_COLUMNS, answer, prior_in, record_in
from levelq_core.domain.outcome import Outcome, outcome


class Entry(NamedTuple):
    """One decided command in a user's history."""

    at: datetime
    command_id: UUID
    specialization: str
    kind: str
    status: str
    message: str
    xp: int
    from_level: int | None
    to_level: int | None


class Quarantined(NamedTuple):
    """One entry of a lane that was no command."""

    at: datetime
    specialization: str
    reason: str
    length: int
    raw: bytes


class Holder(NamedTuple):
    """A session that holds rows of the tables, or means to; what its owner hides from us is None."""

    pid: int
    name: str
    state: str | None
    seconds: float | None


class Pair(NamedTuple):
    """Two rows of one lane that do not agree; a level of None is a row that is missing."""

    user_id: int
    specialization: str
    progress_level: int | None
    license_level: int | None


class WrongAnswer(RuntimeError):
    """The connection answered another question than was asked: another process uses it, too."""


def outcome_of(connection: Connection, command_id: UUID, digest: bytes | None = None) -> Outcome | None:
    """The decision on a command as the ledger has it; None if there is none.

    With the `digest` of what was sent: a conflict if the id was first used for other content. Raises WrongAnswer.
    """
    return outcomes_of(connection, [(command_id, digest)])[0]


def outcomes_of(connection: Connection, questions: Sequence[tuple[UUID, bytes | None]]) -> list[Outcome | None]:
    """The same for many commands in one query, in the order of the questions. Raises WrongAnswer."""
    asked = {command_id for command_id, _ in questions}
    rows = {row.command_id: row for row in connection.execute(_OUTCOMES, {"ids": list(asked)})}
    if not rows.keys() <= asked:
        raise WrongAnswer(f"asked for {len(asked)} commands, told of others")
    return [_outcome(rows[command_id], digest) if command_id in rows else None for command_id, digest in questions]


def _outcome(row: Any, digest: bytes | None) -> Outcome:
    known, record = prior_in(row[:_KNOWN]), record_in(row)
    if digest is not None and digest != known.digest:
        return outcome(known.lane, record, answer(known, record._replace(digest=digest)))
    return outcome(known.lane, record, known.decision)


def history(connection: Connection, user_id: int, limit: int = 50) -> list[Entry]:
    """A user's latest decided commands, newest first."""
    return [Entry(*row) for row in connection.execute(_HISTORY, {"user": user_id, "limit": limit})]


def quarantined(connection: Connection, user_id: int, limit: int = 50) -> list[Quarantined]:
    """A user's latest quarantined entries, newest first."""
    return [Quarantined(*row) for row in connection.execute(_QUARANTINED, {"user": user_id, "limit": limit})]


def counts(connection: Connection) -> dict[str, int]:
    """How many commands were ever rejected and how many entries quarantined, within retention."""
    rejected, quarantined_ = connection.execute(_COUNTS).one()
    return {"rejected": rejected, "quarantined": quarantined_}


def holder(connection: Connection, tables: Iterable[str], seconds: float) -> Holder | None:
    """The session whose transaction has held rows of these tables, or a lock on one, for longest and this long."""
    row = connection.execute(_HOLDER, {"tables": list(tables), "seconds": seconds}).one_or_none()
    return None if row is None else Holder(*row)


def out_of_step(connection: Connection) -> Iterator[Pair]:
    """Every lane whose two rows differ, or of which one is missing, as one snapshot sees them."""
    for row in connection.execute(_OUT_OF_STEP, execution_options={"yield_per": 1000}):
        yield Pair(*row)


# The columns of ledger.prior_in, then those of the command.
_KNOWN = 10
_OUTCOMES = text(f"""
    SELECT command_id, digest, user_id, specialization, error, message, from_level, to_level, before, after,
           {COMMAND_COLUMNS}
    FROM levelq_ledger WHERE command_id = ANY(CAST(:ids AS uuid[]))
""")

# Newest first by id, which ascends in the order of effect; applied_at is when the transaction began.
_HISTORY = text("""
    SELECT applied_at, command_id, specialization, kind, status, coalesce(message, ''), xp, from_level, to_level
    FROM levelq_ledger WHERE user_id = :user ORDER BY id DESC LIMIT :limit
""")

_QUARANTINED = text("""
    SELECT at, specialization, reason, length, raw FROM levelq_quarantine
    WHERE user_id = :user ORDER BY id DESC LIMIT :limit
""")

_COUNTS = text("""
    SELECT (SELECT count(*) FROM levelq_ledger WHERE status = 'rejected'), (SELECT count(*) FROM levelq_quarantine)
""")

# Reading alone, in AccessShareLock, keeps nobody from a row.
_HOLDER = text("""
    SELECT a.pid, coalesce(nullif(a.application_name, ''), a.usename, 'unknown'), a.state,
           CAST(extract(epoch FROM now() - a.xact_start) AS float)
    FROM pg_stat_activity a
    WHERE a.pid <> pg_backend_pid() AND a.xact_start < now() - make_interval(secs => :seconds) IS NOT FALSE
        AND a.pid IN (SELECT l.pid FROM pg_locks l JOIN unnest(CAST(:tables AS text[])) AS wanted(name)
                      ON l.relation = to_regclass(wanted.name)
                      WHERE l.granted AND l.mode <> 'AccessShareLock'
                        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    ORDER BY a.xact_start LIMIT 1
""")

_OUT_OF_STEP = text("""
    SELECT coalesce(p.student_id, l.user_id), coalesce(p.specialization_id, l.specialization_type),
           p.current_level, l.current_level
    FROM specialization_progress p
    FULL JOIN user_licenses l ON l.user_id = p.student_id AND l.specialization_type = p.specialization_id
    WHERE p.current_level IS DISTINCT FROM l.current_level
    ORDER BY 1, 2
""")

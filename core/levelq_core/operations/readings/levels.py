"""A user's rows in the two tables of levels, and the sessions that hold locks on them now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from levelq_core.database.table_names import LICENSES, PROGRESS
from levelq_core.operations.queries import side_by_side
from levelq_core.operations.wording import duration, when_utc
from levelq_core.untrusted_text import printable

from .records import Reading, Time

MOST_QUERY = 120  # characters of a query


class Levels(Reading):
    """Both rows of a lane: the levels, the highest license level ever, and when each row last changed.

    None: the row is missing, or its column is NULL.
    """

    specialization: str
    progress_level: int | None
    license_level: int | None
    max_achieved_level: int | None
    total_xp: int | None
    progress_at: Time | None
    license_at: Time | None

    @property
    def in_step(self) -> bool:
        """Whether both rows have the same level."""
        return self.progress_level == self.license_level

    def in_words(self) -> str:
        """Both levels on one line; where they differ, when each row last changed."""
        progress, license_ = ("none" if n is None else str(n) for n in (self.progress_level, self.license_level))
        if self.in_step:
            highest = "" if self.max_achieved_level == self.license_level else f", highest {self.max_achieved_level}"
            return f"level {progress}{highest}, {self.total_xp or 0:,} XP"
        since = ["" if at is None else f" since {when_utc(at)}" for at in (self.progress_at, self.license_at)]
        return f"out of step: progress {progress}{since[0]}, license {license_}{since[1]}"


class RowHolder(Reading):
    """A session whose transaction has locked a row of a lane. What this role may not see is None."""

    pid: int
    user: str | None
    application: str
    client: str | None
    state: str | None
    seconds: float | None
    query: str

    def in_words(self) -> str:
        """Who it is, from where, and for how long its transaction has been open."""
        who = ", ".join(filter(None, (self.application, self.user and f"user {self.user}", self.client)))
        for_long = "" if self.seconds is None else f" for {duration(self.seconds)}"
        return f"session {self.pid} ({who}; {self.state or 'in a transaction'}{for_long})"

    @property
    def is_worker(self) -> bool:
        """Whether it is a worker's: it is applying commands."""
        return self.application == "levelq worker"


class FoundRows(Reading):
    """The rows of a lane, and what the lock of each holds: a transaction's id, or that of a group of them."""

    levels: Levels
    lockers: tuple[int, ...]


def rows_of(connection: Connection, user_id: int) -> Iterator[FoundRows]:
    """The rows of a user, by specialization. Raises DBAPIError."""
    for row in connection.execute(_ROWS, {"user": user_id}).mappings():
        lockers = tuple(int(number) for number in (row["progress_lock"], row["license_lock"]) if number)
        yield FoundRows(levels=Levels.model_validate({n: row[n] for n in Levels.model_fields}), lockers=lockers)


def holders(connection: Connection, lockers: Iterable[int]) -> tuple[RowHolder, ...]:
    """The sessions behind the locks of some rows, the one that began first is first. Raises DBAPIError.

    A row keeps the number of its last locker, so only one that is still open counts. Nothing is locked to find out.
    """
    numbers = list(dict.fromkeys(lockers))
    if not numbers:
        return ()
    found = _sessions(connection, numbers)
    members = [] if found else [member for number in numbers for member in _members(connection, number)]
    return found or (_sessions(connection, members) if members else ())


def _sessions(connection: Connection, xids: list[int]) -> tuple[RowHolder, ...]:
    rows = connection.execute(_SESSIONS, {"xids": xids, "tables": [PROGRESS, LICENSES]}).mappings()
    return tuple(RowHolder.model_validate({**row, "query": printable(row["query"], MOST_QUERY)}) for row in rows)


def _members(connection: Connection, number: int) -> list[int]:
    """The transactions of a row that several have locked; none if the number is that of one transaction."""
    try:
        with connection.begin_nested():
            rows: Any = connection.execute(_MEMBERS, {"number": str(number)}).scalars()
            return list(rows)
    except DBAPIError:
        return []


def _half(table: str, user: str) -> str:
    return f"(SELECT *, CAST(CAST(xmax AS text) AS bigint) AS locker FROM {table} WHERE {user} = :user)"


# Both rows of each of a user's lanes.
_ROWS = text(f"""
    SELECT coalesce(p.specialization_id, l.specialization_type) AS specialization,
           p.current_level AS progress_level, l.current_level AS license_level, l.max_achieved_level, p.total_xp,
           p.last_activity AS progress_at, l.last_advanced_at AS license_at,
           p.locker AS progress_lock, l.locker AS license_lock
    FROM {side_by_side(_half(PROGRESS, "student_id"), _half(LICENSES, "user_id"))} ORDER BY 1
""")

# The sessions of open transactions that hold locks on the tables.
_SESSIONS = text("""
    SELECT a.pid, a.usename AS user, coalesce(a.application_name, '') AS application,
           host(a.client_addr) AS client, a.state, coalesce(a.query, '') AS query,
           CAST(extract(epoch FROM clock_timestamp() - a.xact_start) AS float) AS seconds
    FROM pg_stat_activity a
    WHERE a.pid <> pg_backend_pid()
        AND a.pid IN (SELECT pid FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted
                      AND CAST(CAST(transactionid AS text) AS bigint) = ANY(CAST(:xids AS bigint[])))
        AND a.pid IN (SELECT l.pid FROM pg_locks l JOIN unnest(CAST(:tables AS text[])) AS wanted(name)
                      ON l.relation = to_regclass(wanted.name)
                      WHERE l.granted AND l.mode <> 'AccessShareLock'
                        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    ORDER BY a.xact_start
""")

# The transactions of a group whose locks exclude a worker's.
_MEMBERS = text("""
    SELECT CAST(CAST(xid AS text) AS bigint) FROM pg_get_multixact_members(CAST(:number AS xid)) WHERE mode <> 'keysh'
""")

"""What readings and handles read from the database: outcomes, counts, pairs out of step, rows by age."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, Self
from uuid import UUID

from sqlalchemy import Connection, text

from levelq_core.coupler.ledger import COMMAND_COLUMNS, answer, prior_in, record_in
from levelq_core.database.table_names import LEDGER, LICENSES, OPEN_REJECTION, OUTBOX, PROGRESS, QUARANTINE
from levelq_core.domain.outcome import Outcome, outcome

MOST_COUNTED = 10_000  # rows that a status counts one by one, in some 2 ms


class Holder(NamedTuple):
    """A session that holds rows of the tables, or waits for them; what this role may not see is None."""

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

    @classmethod
    def read(cls, row: Iterable[Any]) -> Self:
        """Make one of a row, in which numbers of numeric columns are Decimals."""
        return cls._make(int(n) if isinstance(n, Decimal) and n == n.to_integral() else n for n in row)


class WrongAnswer(RuntimeError):
    """The connection returned the rows of another query: another process uses it, too."""


def outcome_of(connection: Connection, command_id: UUID, digest: bytes | None = None) -> Outcome | None:
    """The decision on a command as the ledger has it; None if there is none.

    With the `digest` of what was sent: a conflict if the id was first used for other content. Raises WrongAnswer.
    """
    return outcomes_of(connection, [(command_id, digest)])[0]


def outcomes_of(connection: Connection, commands: Sequence[tuple[UUID, bytes | None]]) -> list[Outcome | None]:
    """The same for many commands, each with its digest, in one query and in their order. Raises WrongAnswer."""
    ids = {command_id for command_id, _ in commands}
    rows = {row.command_id: row for row in connection.execute(_OUTCOMES, {"ids": list(ids)})}
    if not rows.keys() <= ids:
        raise WrongAnswer(f"expected rows of {len(ids)} commands, got rows of others")
    return [_outcome(rows[command_id], digest) if command_id in rows else None for command_id, digest in commands]


def last_in_outbox(
    connection: Connection, user_id: int, specialization: str, first: int = 0, last: int = 2**63 - 1
) -> int | None:
    """The greatest id of a lane's rows in the outbox from `first` to `last`; None if there is none."""
    values = {"user": user_id, "specialization": specialization, "first": first, "last": last}
    found: int | None = connection.execute(_LAST_IN_OUTBOX, values).scalar_one()
    return found


def in_outbox(connection: Connection, command_id: UUID) -> str | None:
    """The specialization of a command that is in the outbox; None if it is not there."""
    name: str | None = connection.execute(_IN_OUTBOX, {"id": command_id}).scalar_one_or_none()
    return name


def _outcome(row: Any, digest: bytes | None) -> Outcome:
    known, record = prior_in(row[:_KNOWN]), record_in(row)
    if digest is not None and digest != known.digest:
        return outcome(known.lane, record, answer(known, record._replace(digest=digest)))
    return outcome(known.lane, record, known.decision)


def counts(connection: Connection) -> dict[str, int]:
    """How many commands were ever rejected and how many entries quarantined, within retention.

    `rejected_open`: those that were neither retried, discarded, cancelled nor forgotten.
    """
    return dict(connection.execute(_COUNTS).mappings().one())


class Totals(NamedTuple):
    """The same numbers, each exact up to MOST_COUNTED. `estimated`: the names of those above, which are estimates."""

    numbers: dict[str, int]
    estimated: tuple[str, ...]


def bounded_counts(connection: Connection) -> Totals:
    """The same in bounded time. An estimate is as old as the last VACUUM or ANALYZE of the table. Raises DBAPIError."""
    row = connection.execute(_BOUNDED_COUNTS, {"most": MOST_COUNTED + 1}).mappings().one()
    numbers = {name: int(row[name]) for name in ("rejected", "rejected_open", "quarantined")}
    estimated = tuple(name for name, number in numbers.items() if number > MOST_COUNTED)
    return Totals(
        numbers | {name: max(numbers[name], int(row[f"{name}_estimate"] or 0)) for name in estimated}, estimated
    )


def holder(connection: Connection, tables: Iterable[str], seconds: float) -> Holder | None:
    """The session whose transaction has held rows of these tables, or a lock on one, for longest and this long."""
    row = connection.execute(_HOLDER, {"tables": list(tables), "seconds": seconds}).one_or_none()
    return None if row is None else Holder(*row)


def out_of_step(connection: Connection) -> Iterator[Pair]:
    """Every lane whose two rows differ, or of which one is missing, as one snapshot sees them."""
    for row in connection.execute(_OUT_OF_STEP, execution_options={"yield_per": 1000}):
        yield Pair.read(row)


def side_by_side(progress: str = PROGRESS, licenses: str = LICENSES) -> str:
    """The FROM clause of the two rows of each lane, as p and l; one of them may be missing."""
    same = "l.user_id = p.student_id AND l.specialization_type = p.specialization_id"
    return f"{progress} p FULL JOIN {licenses} l ON {same}"


def last_id_before(connection: Connection, table: str, moment: str, before: datetime) -> int:
    """The id up to which rows are older than `before` by the column `moment`, found by bisection over the primary key.

    Ids and times ascend together to within the length of a transaction: rows near the bound may lie on either side.
    """
    found = connection.execute(text(_BISECTION.format(table=table, moment=moment)), {"before": before})
    return int(found.scalar_one_or_none() or 0)


# In one statement: each step reads the row at or below the middle, by the primary key.
_BISECTION = """
    WITH RECURSIVE bounds(low, high) AS (
        SELECT min(id) - 1, max(id) FROM {table} HAVING min(id) IS NOT NULL
        UNION ALL
        SELECT CASE WHEN coalesce(nearest.older, true) THEN half.middle ELSE half.low END,
               CASE WHEN coalesce(nearest.older, true) THEN half.high ELSE nearest.id - 1 END
        FROM (SELECT low, high, low + (high - low + 1) / 2 AS middle FROM bounds WHERE low < high) AS half
        LEFT JOIN LATERAL (SELECT id, {moment} < :before AS older FROM {table}
                           WHERE id <= half.middle ORDER BY id DESC LIMIT 1) AS nearest ON true
    )
    SELECT low FROM bounds WHERE low >= high
"""

# The columns of ledger.prior_in, then those of the command.
_KNOWN = 10
_OUTCOMES = text(f"""
    SELECT command_id, digest, user_id, specialization, error, message, from_level, to_level, before, after,
           {COMMAND_COLUMNS}
    FROM {LEDGER} WHERE command_id = ANY(CAST(:ids AS uuid[]))
""")

_LAST_IN_OUTBOX = text(f"""
    SELECT max(id) FROM {OUTBOX}
    WHERE user_id = :user AND specialization = :specialization AND id BETWEEN :first AND :last
""")

_IN_OUTBOX = text(f"SELECT specialization FROM {OUTBOX} WHERE command_id = :id")

_COUNTS = text(f"""
    SELECT (SELECT count(*) FROM {LEDGER} WHERE status = 'rejected') AS rejected,
           (SELECT count(*) FROM {LEDGER} WHERE {OPEN_REJECTION}) AS rejected_open,
           (SELECT count(*) FROM {QUARANTINE}) AS quarantined
""")

# The first rows of each by the index that has only these, and how many entries the index had lately.
_BOUNDED_COUNTS = text(f"""
    SELECT (SELECT count(*) FROM (SELECT FROM {LEDGER} WHERE status = 'rejected' ORDER BY id LIMIT :most) AS first)
               AS rejected,
           (SELECT count(*) FROM (SELECT FROM {LEDGER} WHERE {OPEN_REJECTION} ORDER BY id LIMIT :most) AS first)
               AS rejected_open,
           (SELECT count(*) FROM (SELECT FROM {QUARANTINE} ORDER BY id LIMIT :most) AS first) AS quarantined,
           (SELECT reltuples FROM pg_class WHERE oid = to_regclass('{LEDGER}_rejected')) AS rejected_estimate,
           (SELECT reltuples FROM pg_class WHERE oid = to_regclass('{LEDGER}_open')) AS rejected_open_estimate,
           (SELECT reltuples FROM pg_class WHERE oid = to_regclass('{QUARANTINE}')) AS quarantined_estimate
""")

# Reading takes AccessShareLock, which blocks no writer of rows.
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

_OUT_OF_STEP = text(f"""
    SELECT coalesce(p.student_id, l.user_id), coalesce(p.specialization_id, l.specialization_type),
           p.current_level, l.current_level
    FROM {side_by_side()}
    WHERE p.current_level IS DISTINCT FROM l.current_level
    ORDER BY 1, 2
""")

"""The temporary tables that the checks read: what fills them, and when they are emptied.

What is compared with the database is loaded once: the history, and what stands in the lanes. The rows of one range of
users are loaded range by range, so memory is bounded.

Arrays in the ledger are those of `levelq_core.Totals`, counted from 1: progress level, license level, highest level,
then the five totals. Rows of user 0 are those of forgotten users: their ids count, their numbers are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from levelq_core.database.schema import LEDGER, LICENSES, OUTBOX, PROGRESS
from levelq_core.database.table_names import TOTALS
from levelq_core.lanes.scan import Entry, user_id_of
from levelq_core.operations.queries import side_by_side

from .send_log import Acknowledged, Claimed, Line, Recovery, Send

HISTORY, IDS, SENT = "levelq_verify_history", "levelq_verify_ids", "levelq_verify_sent"
STANDING, LATER, TOUCHED = "levelq_verify_standing", "levelq_verify_later", "levelq_verify_touched"
ROWS, LANES, CHANGES = "levelq_verify_rows", "levelq_verify_lanes", "levelq_verify_changes"
PAIRS, GAPS = "levelq_verify_pairs", "levelq_verify_gaps"

INTENT, REFUSED, ACKNOWLEDGED, UNKNOWN = -1, 0, 1, 2

_SENDS = (
    "command_id uuid, user_id bigint, specialization text, source int, seq bigint, due boolean, acknowledged boolean, "
    "possible boolean, ordered boolean"
)
_ENTRY = "partition text, lane bytea, specialization text, user_id bigint, command_id uuid, sha256 bytea"
_TABLES = {
    # One row per line of the history: a send (`late`: recorded after the lanes were read), or a claim
    # that was granted (token), or an acknowledgement (token, removed).
    HISTORY: "source int, seq bigint, late boolean, command_id uuid, user_id bigint, specialization text, "
    "digest bytea, sent_at double precision, state int, partition text, lane text, token text, removed int",
    # One row per command of the history: what its sends came to.
    IDS: _SENDS,
    # The entries in the lanes before the snapshot, and those of the undecided ones that are there after it.
    STANDING: _ENTRY,
    LATER: _ENTRY,
    # With --since: the users that ledger rows or the history name, some more than once, and how many rows each time.
    TOUCHED: "user_id bigint, rows bigint",
}
# COMMIT empties them at the end of a range.
_RANGE_TABLES = {
    # The commands of the history of one range of users, and where they are.
    SENT: f"{_SENDS}, ledger_id bigint, in_lane boolean, in_outbox boolean",
    # The ledger's rows of the users.
    ROWS: "id bigint, command_id uuid, user_id bigint, specialization text, status text, cancelled bool, "
    "effect bigint[], from_level int, to_level int, before bigint[], after bigint[], batch uuid, "
    "applied_at timestamptz",
    # One row per lane with applied commands: how many, how many of them changed the level, the first and the last.
    LANES: "user_id bigint, specialization text, applied bigint, changes bigint, "
    "first_id bigint, first_command uuid, started bigint[], first_at timestamptz, "
    "last_id bigint, last_command uuid, ended bigint[], last_at timestamptz",
    # The applied commands that changed a license's level.
    CHANGES: "user_id bigint, specialization text, id bigint, command_id uuid, from_level int, to_level int",
    # One row per pair of rows in the two tables; `totals` is NULL if there is no progress row.
    PAIRS: "user_id bigint, specialization text, progress_level bigint, license_level bigint, highest bigint, "
    "totals numeric[]",
    # Where a lane was left (`was`) and what was found there next, if they differ: by the lane's next command (`later`),
    # or, if that is NULL, in the tables now.
    GAPS: "user_id bigint, specialization text, earlier_id bigint, earlier uuid, later uuid, was numeric[], "
    "found numeric[], was_at timestamptz, found_at timestamptz",
}


@contextmanager
def workspace(connection: Connection) -> Iterator[None]:
    """The temporary tables, for as long as it takes. They are this connection's alone."""
    with connection.begin():
        _drop(connection)
        for name, columns in _TABLES.items():
            connection.execute(text(f"CREATE TEMPORARY TABLE {name} ({columns})"))
        for name, columns in _RANGE_TABLES.items():
            connection.execute(text(f"CREATE TEMPORARY TABLE {name} ({columns}) ON COMMIT DELETE ROWS"))
    try:
        yield
    finally:
        if not connection.invalidated:
            with connection.begin():
                _drop(connection)


def _drop(connection: Connection) -> None:
    for name in (*_TABLES, *_RANGE_TABLES):
        connection.execute(text(f"DROP TABLE IF EXISTS pg_temp.{name}"))


@contextmanager
def _copying(connection: Connection, table: str) -> Iterator[psycopg.Copy]:
    """Copy rows into a table; psycopg's errors become SQLAlchemy's."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    try:
        with raw.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
            yield copy
    except psycopg.Error as error:
        raise DBAPIError.instance("COPY", None, error, psycopg.Error, dialect=connection.dialect) from error


def load_history(connection: Connection, lines: Iterable[tuple[int, int, Line]], *, late: bool) -> list[Recovery]:
    """Load what the files hold; returns the recoveries, of which there are few."""
    recoveries: list[Recovery] = []
    with _copying(connection, HISTORY) as copy:
        for source, seq, line in lines:
            if isinstance(line, Recovery):
                recoveries.append(line)
            else:
                row = _send_row(line) if isinstance(line, Send) else _trace_row(line)
                copy.write_row((source, seq, late, *row))
    return recoveries


def _send_row(line: Send) -> tuple[Any, ...]:
    state = {True: ACKNOWLEDGED, False: REFUSED, None: INTENT if line.intent else UNKNOWN}[line.acknowledged]
    command = (line.command_id, line.user_id, line.specialization, bytes.fromhex(line.digest))
    return (*command, line.sent_at, state, None, None, None, None)


def _trace_row(line: Claimed | Acknowledged) -> tuple[Any, ...]:
    token, removed = (line.claim, None) if isinstance(line, Claimed) else (line.ack, line.removed)
    return (*[None] * 6, line.partition, line.lane, token, removed)


def load_entries(connection: Connection, table: str, entries: Iterable[Entry]) -> None:
    """Load what stands in lanes, as it is read."""
    with _copying(connection, table) as copy:
        for entry in entries:
            lane = (str(entry.partition), entry.user, entry.partition.specialization, user_id_of(entry.user))
            copy.write_row((*lane, entry.command_id, entry.sha256))


def index(connection: Connection, table: str, *columns: str) -> None:
    """Make the indexes and the statistics that the planner needs, once a table is loaded."""
    for column in columns:
        connection.execute(text(f"CREATE INDEX {table}_{column} ON {table} ({column})"))
    connection.execute(text(f"ANALYZE {table}"))


# What the sends of each command came to: `due` if it must be somewhere, `possible` if it may have been
# queued at all, `ordered` if its position among its lane's commands is known. A page of the commands at a time.
FILL_IDS = f"""
    INSERT INTO {IDS}
    SELECT command_id, min(user_id), min(specialization), min(source), min(seq),
           bool_or(state = 1 AND NOT late AND sent_at >= :horizon), bool_or(state = 1),
           bool_or(state > 0) OR count(*) FILTER (WHERE state < 0) > count(*) FILTER (WHERE state >= 0),
           min(source) = max(source) AND min(user_id) = max(user_id) AND min(specialization) = max(specialization)
               AND coalesce((array_agg(state ORDER BY seq) FILTER (WHERE state >= 0))[1] = 1, false)
    FROM {HISTORY} WHERE command_id IS NOT NULL AND (CAST(:back AS uuid) IS NULL OR command_id > :back)
        AND (CAST(:upto AS uuid) IS NULL OR command_id <= :upto) GROUP BY command_id
"""
NEXT_COMMAND = f"""
    SELECT command_id FROM {HISTORY}
    WHERE command_id IS NOT NULL AND (CAST(:back AS uuid) IS NULL OR command_id > :back)
    ORDER BY command_id OFFSET :rows LIMIT 1
"""
BEGUN = f"SELECT to_timestamp(min(sent_at)) FROM {HISTORY}"

# Where the commands of the range's users are now. Commands of forgotten users and cancelled commands have no
# position: cancelling does not wait for earlier commands.
FILL_SENT = f"""
    INSERT INTO {SENT}
    SELECT i.command_id, i.user_id, i.specialization, i.source, i.seq, i.due, i.acknowledged, i.possible,
           i.ordered AND g.apart IS NOT TRUE, g.id,
           (SELECT true FROM {STANDING} e WHERE e.command_id = i.command_id LIMIT 1) IS NOT NULL,
           (SELECT true FROM {OUTBOX} o WHERE o.command_id = i.command_id LIMIT 1) IS NOT NULL
    FROM {IDS} i CROSS JOIN LATERAL (
        SELECT min(id) AS id, bool_or(user_id = 0 OR error = 'cancelled') AS apart
        FROM {LEDGER} WHERE command_id = i.command_id
    ) g WHERE i.user_id > :low AND i.user_id <= :high
"""

# With --since: the users of a page of the ledger.
TOUCH = f"""
    INSERT INTO {TOUCHED} SELECT user_id, count(*) FROM {LEDGER}
    WHERE id > :before AND id <= :upto AND user_id > 0 GROUP BY user_id
"""

# What an applied command adds to the five totals, by its ledger row. A Reset sets them, so it adds the difference to
# what it found.
_NUMBERS = ("xp", "sessions", "projects", "theory_hours", "practice_hours")
_ADDED = ", ".join(f"{name} - CASE kind WHEN 'reset' THEN before[{n}] ELSE 0 END" for n, name in enumerate(_NUMBERS, 4))
EFFECT = f"ARRAY[{_ADDED}]::bigint[]"

_COLUMNS = (
    "id, command_id, user_id, specialization, status, error IS NOT DISTINCT FROM 'cancelled' AS cancelled, "
    f"{EFFECT} AS effect, from_level, to_level, before, after, batch, applied_at"
)


def of_users(column: str, since: bool) -> str:
    """The condition that the column names a user of the range; with --since one that was touched."""
    inside = f"{column} > :low AND {column} <= :high"
    if not since:
        return inside
    return f"{inside} AND {column} IN (SELECT user_id FROM {TOUCHED} WHERE user_id > :low AND user_id <= :high)"


def fill_rows(since: bool) -> str:
    """Load the ledger's rows of the range."""
    return f"""
        INSERT INTO {ROWS} SELECT {_COLUMNS} FROM {LEDGER}
        WHERE user_id > 0 AND id > :after AND {of_users("user_id", since)}
    """


# A lane too long to load is read from the ledger by its index, not from ROWS.
LANE_ROWS = (
    f"(SELECT {_COLUMNS} FROM {LEDGER} WHERE user_id = :user AND specialization = :specialization AND id > :after)"
)
LANES_OF_USER = f"SELECT DISTINCT specialization FROM {LEDGER} WHERE user_id = :high AND id > :after"

FILL_LANES = f"""
    INSERT INTO {LANES}
    SELECT s.user_id, s.specialization, s.applied, s.changes, f.id, f.command_id, f.before, f.applied_at,
           g.id, g.command_id, g.after, g.applied_at
    FROM (SELECT user_id, specialization, count(*) AS applied, min(id) AS first_id, max(id) AS last_id,
                 count(*) FILTER (WHERE from_level <> to_level) AS changes
          FROM {ROWS} r WHERE status = 'applied' GROUP BY user_id, specialization) s
    JOIN {ROWS} f ON f.id = s.first_id JOIN {ROWS} g ON g.id = s.last_id
"""

FILL_CHANGES = f"""
    INSERT INTO {CHANGES} SELECT user_id, specialization, id, command_id, from_level, to_level
    FROM {ROWS} r WHERE status = 'applied' AND from_level <> to_level
"""

# Between two commands of the ledger.
FILL_GAPS = f"""
    INSERT INTO {GAPS}
    SELECT user_id, specialization, earlier_id, earlier, command_id, was, before, was_at, applied_at FROM (
        SELECT user_id, specialization, command_id, before, applied_at, lag(id) OVER lane AS earlier_id,
               lag(command_id) OVER lane AS earlier, lag(after) OVER lane AS was, lag(applied_at) OVER lane AS was_at
        FROM {ROWS} r WHERE status = 'applied' WINDOW lane AS (PARTITION BY user_id, specialization ORDER BY id)
    ) steps WHERE before <> was
"""

# With --since: between the last command before that time and the first one after.
FILL_EARLIER_GAPS = f"""
    INSERT INTO {GAPS}
    SELECT t.user_id, t.specialization, g.id, g.command_id, t.first_command, g.after, t.started, g.applied_at,
           t.first_at
    FROM {LANES} t CROSS JOIN LATERAL (
        SELECT id, command_id, after, applied_at FROM {LEDGER}
        WHERE user_id = t.user_id AND specialization = t.specialization AND status = 'applied' AND id < t.first_id
        ORDER BY id DESC LIMIT 1
    ) g WHERE g.after <> t.started
"""

# Between the last command and the tables now; totals without their fractions.
FILL_LAST_GAPS = f"""
    INSERT INTO {GAPS}
    SELECT t.user_id, t.specialization, t.last_id, t.last_command, NULL, t.ended, f.found, t.last_at, now()
    FROM {LANES} t LEFT JOIN {PAIRS} p ON p.user_id = t.user_id AND p.specialization = t.specialization
    CROSS JOIN LATERAL (
        SELECT ARRAY[coalesce(p.progress_level, 1), coalesce(p.license_level, 1),
                     coalesce(p.highest, p.license_level, 1)]::numeric[]
               || coalesce(p.totals, ARRAY[NULL, NULL, NULL, NULL, NULL]::numeric[]) AS found
    ) f WHERE f.found IS DISTINCT FROM t.ended::numeric[]
"""


def fill_pairs(since: bool) -> str:
    """Load both tables' rows of the range, side by side."""
    totals = ", ".join(f"floor(coalesce(p.{name}, 0)::numeric)" for name in TOTALS)
    pairs = side_by_side(
        f"(SELECT * FROM {PROGRESS} WHERE {of_users('student_id', since)})",
        f"(SELECT * FROM {LICENSES} WHERE {of_users('user_id', since)})",
    )
    return f"""
        INSERT INTO {PAIRS}
        SELECT coalesce(p.student_id, l.user_id), coalesce(p.specialization_id, l.specialization_type), p.current_level,
               l.current_level, l.max_achieved_level, CASE WHEN p.student_id IS NOT NULL THEN ARRAY[{totals}] END
        FROM {pairs}
    """

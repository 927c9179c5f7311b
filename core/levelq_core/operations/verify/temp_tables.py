"""What is compared with the database travels into temporary tables: the history, and what stands in the lanes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Cursor
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from levelq_core.lanes.scan import Entry, user_id_of

from .rows import RANGE_TABLES, WHOLE_TABLES
from .send_log import Acknowledged, Claimed, Line, Recovery, Send

HISTORY, IDS, SENT = "levelq_verify_history", "levelq_verify_ids", "levelq_verify_sent"
STANDING, LATER = "levelq_verify_standing", "levelq_verify_later"

INTENT, REFUSED, ACKNOWLEDGED, UNKNOWN = -1, 0, 1, 2

_SENDS = (
    "command_id uuid, user_id bigint, specialization text, source int, seq bigint, due boolean, acknowledged boolean, "
    "possible boolean, placed boolean"
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
    **WHOLE_TABLES,
}
# The same commands of one range of users, and where they are.
_RANGE_TABLES = {SENT: f"{_SENDS}, ledger_id bigint, in_lane boolean, in_outbox boolean", **RANGE_TABLES}


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
def copying(connection: Connection) -> Iterator[Cursor[Any]]:
    """psycopg's own cursor, for COPY; its errors become SQLAlchemy's."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    try:
        with raw.cursor() as cursor:
            yield cursor
    except psycopg.Error as error:
        raise DBAPIError.instance("COPY", None, error, psycopg.Error, dialect=connection.dialect) from error


def load_history(connection: Connection, lines: Iterable[tuple[int, int, Line]], *, late: bool) -> list[Recovery]:
    """Load what the files hold; returns the recoveries, of which there are few."""
    recoveries: list[Recovery] = []
    with copying(connection) as cursor, cursor.copy(f"COPY {HISTORY} FROM STDIN") as copy:
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


def load_entries(connection: Connection, table: str, entries: Iterable[Entry]) -> int:
    """Load what stands in lanes, as it is read; returns how many entries came."""
    count = 0
    with copying(connection) as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
        for count, entry in enumerate(entries, 1):  # noqa: B007
            place = (str(entry.partition), entry.user, entry.partition.specialization, user_id_of(entry.user))
            copy.write_row((*place, entry.command_id, entry.sha256))
    return count


def index(connection: Connection, table: str, *columns: str) -> None:
    """What the planner needs, once a table is filled."""
    for column in columns:
        connection.execute(text(f"CREATE INDEX {table}_{column} ON {table} ({column})"))
    connection.execute(text(f"ANALYZE {table}"))

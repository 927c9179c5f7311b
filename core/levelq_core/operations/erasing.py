"""Forget a user: delete their rows, and set the user id of their ledger rows to 0.

The ledger keeps the ids and digests of the commands, by which levelq recognizes a second send, and the numbers. Older
ledger rows are cleared first, in small transactions. One last transaction locks the user's rows in the coupler's order
and changes the remaining ledger rows, the three tables and the audit. So the ledger explains the tables at any moment,
and the next run finishes one that was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, text

from levelq_core.database.schema import Column, Schema, schema_of
from levelq_core.database.table_names import AUDIT, LEDGER, LICENSES, PAIR, PROGRESS, PROGRESSIONS, QUARANTINE

from . import audit
from .connections import limit_act

FORGOTTEN = 0  # the user id of ledger rows whose user was forgotten; no user has it
BATCH = 1_000  # ledger rows in one transaction
SPAN = 50_000  # ledger ids that one transaction searches for rows that name the user as author
PERSONAL = ("message", "reason", "advanced_by")  # of the ledger, as far as it has these columns


class Erased(NamedTuple):
    """How many rows there are to delete or to clear, or how many were."""

    progress: int
    licenses: int
    progressions: int
    ledger: int
    quarantine: int
    authored: int  # rows of other users that name this one as their author
    audit: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def count(connection: Connection, user_id: int) -> Erased:
    """Count the rows that `erase` would delete or clear. Changes nothing. Raises SchemaError, DBAPIError."""
    schema = schema_of(connection)
    authored = [f"(SELECT count(*) FROM {PROGRESSIONS} p WHERE p.advanced_by = :user AND NOT ({_OWN}))"]
    if "advanced_by" in schema.columns[LEDGER]:
        authored.append(f"(SELECT count(*) FROM {LEDGER} WHERE advanced_by = :user AND user_id <> :user)")
    statement = text(_COUNT.format(authored=" + ".join(authored)))
    return Erased(*connection.execute(statement, {"user": user_id, "target": audit.user_target(user_id)}).one())


def erase(
    engine: Engine,
    user_id: int,
    *,
    lock_ms: int,
    record: Callable[[Connection, Erased], object] = lambda connection, erased: None,
    batch: int = BATCH,
) -> Erased:
    """Forget a user whose waiting commands were cancelled; returns what was deleted and cleared.

    `record` is called in the last transaction, which waits `lock_ms` at most for each lock. Waiting commands of other
    users that name this user as their author are not searched. Raises SchemaError, DBAPIError; what was cleared before
    stays cleared, and the next run finishes it.
    """
    with engine.connect() as connection:
        schema = schema_of(connection)
    cleared, clear = 0, text(_clear(schema.columns[LEDGER]))
    while True:
        with engine.begin() as connection:
            left = connection.execute(_LEFT, {"user": user_id, "most": batch + 1}).scalar_one()
            if left <= batch:
                break
            cleared += connection.execute(clear, {"user": user_id, "most": batch}).rowcount
    authored = _clear_author(engine, user_id) if "advanced_by" in schema.columns[LEDGER] else 0
    with engine.begin() as connection:
        limit_act(connection, lock_ms=lock_ms)
        erased = _erase(connection, schema, user_id, clear)
        erased = erased._replace(ledger=erased.ledger + cleared, authored=erased.authored + authored)
        if erased.total:
            record(connection, erased)
    return erased


def _erase(connection: Connection, schema: Schema, user_id: int, clear: Any) -> Erased:
    """The last transaction, with its locks in the coupler's order: progress, then licenses, each by specialization.

    A worker may commit a command for rows that were not there to be locked. Its rows are in the ledger then, too: what
    it wrote is deleted again, until the ledger has nothing more of the user. What commits later starts a new learner.
    """
    user = {"user": user_id}
    ledger, deleted, cleared = 0, [0, 0, 0], -1
    while cleared:
        for statement in _LOCKS:
            connection.execute(statement, user)
        for n, statement in enumerate(_DELETES):
            deleted[n] += connection.execute(statement, user).rowcount
        cleared = connection.execute(clear, user | {"most": BATCH}).rowcount
        ledger += cleared
    quarantined = connection.execute(_CLEAR_QUARANTINE, user).rowcount
    authored = connection.execute(_CLEAR_AUTHOR, user).rowcount
    lines = audit.forget_user(connection, user_id)
    progressions, licenses, progress = deleted
    return Erased(progress, licenses, progressions, ledger, quarantined, authored, lines)


def _clear_author(engine: Engine, user_id: int) -> int:
    """Clear the author in ledger rows of others, which no index finds: a span of ids at a time."""
    with engine.connect() as connection:
        first, last = connection.execute(text(f"SELECT min(id), max(id) FROM {LEDGER}")).one()
    cleared, at = 0, (first or 1) - 1
    while last is not None and at < last:
        with engine.begin() as connection:
            span = {"user": user_id, "after": at, "last": at + SPAN}
            cleared += connection.execute(_CLEAR_LEDGER_AUTHOR, span).rowcount
        at += SPAN
    return cleared


def _clear(columns: dict[str, Column]) -> str:
    """The statement that clears some of the user's ledger rows, oldest first."""
    personal = {name: columns[name] for name in PERSONAL if name in columns}
    cleared = {name: "NULL" if c.nullable else "''" if c.type == "text" else "0" for name, c in personal.items()}
    assignments = ", ".join(f"{name} = {value}" for name, value in {"user_id": str(FORGOTTEN), **cleared}.items())
    return f"""
        UPDATE {LEDGER} l SET {assignments}
        FROM (SELECT id FROM {LEDGER} WHERE user_id = :user ORDER BY id LIMIT :most) k WHERE l.id = k.id
    """


# Progressions of the user's own licenses.
_OWN = f"p.user_license_id IN (SELECT l.id FROM {LICENSES} l WHERE l.user_id = :user)"

_COUNT = f"""
    SELECT (SELECT count(*) FROM {PROGRESS} WHERE student_id = :user),
           (SELECT count(*) FROM {LICENSES} WHERE user_id = :user),
           (SELECT count(*) FROM {PROGRESSIONS} p WHERE {_OWN}),
           (SELECT count(*) FROM {LEDGER} WHERE user_id = :user),
           (SELECT count(*) FROM {QUARANTINE} WHERE user_id = :user),
           {{authored}},
           (SELECT count(*) FROM {AUDIT} WHERE target = :target OR starts_with(target, :target || ' '))
"""

_LEFT = text(f"SELECT count(*) FROM (SELECT FROM {LEDGER} WHERE user_id = :user LIMIT :most) AS rows")

_LOCKS = [
    text(f'SELECT FROM {table} WHERE {user} = :user ORDER BY {name} COLLATE "C" FOR UPDATE')
    for table, (user, name) in PAIR.items()
]

_DELETES = [
    text(f"DELETE FROM {PROGRESSIONS} p WHERE {_OWN}"),
    text(f"DELETE FROM {LICENSES} WHERE user_id = :user"),
    text(f"DELETE FROM {PROGRESS} WHERE student_id = :user"),
]

# The content is cleared; the row, its length and its hash stay.
_CLEAR_QUARANTINE = text(f"UPDATE {QUARANTINE} SET user_id = NULL, raw = ''::bytea WHERE user_id = :user")

_CLEAR_AUTHOR = text(f"UPDATE {PROGRESSIONS} SET advanced_by = NULL WHERE advanced_by = :user")

_CLEAR_LEDGER_AUTHOR = text(f"""
    UPDATE {LEDGER} SET advanced_by = NULL
    WHERE advanced_by = :user AND user_id <> :user AND id > :after AND id <= :last
""")

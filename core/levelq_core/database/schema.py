"""What the connected database looks like: types, bounds and foreign keys, read once per engine.

An application's own tables differ from ours: int4 or int8, varchar or text, naive timestamps, other
columns, foreign keys to its users. Statements and bounds follow what is there, so nothing guesses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, Pool, text

from levelq_core.domain.rules import Limits
from levelq_core.errors import SchemaError

from .catalog_queries import COLUMNS, DEFERRED, PARENTS, UNIQUE
from .column_spec import Column, fault_of
from .extra_times import ExtraTimes, read_extra_times
from .fingerprint import FINGERPRINT
from .relations import elsewhere, not_tables
from .table_names import (
    AUDIT,
    IDENTITY,
    LEDGER,
    LICENSES,
    OUTBOX,
    PAIR_KEYS,
    PROGRESS,
    PROGRESSIONS,
    QUARANTINE,
    REQUIRED,
)
from .transactions import check_schema

__all__ = [
    "AUDIT",
    "IDENTITY",
    "LEDGER",
    "LICENSES",
    "OUTBOX",
    "PAIR_KEYS",
    "PROGRESS",
    "PROGRESSIONS",
    "QUARANTINE",
    "REQUIRED",
    "Column",
    "Parent",
    "Schema",
    "encoding_fault",
    "forget",
    "read",
    "reread",
    "schema_of",
]


@dataclass(frozen=True)
class Parent:
    """A foreign key from a column that names a user to the application's users."""

    table: str
    column: str
    constraint: str


@dataclass(frozen=True, eq=False)
class Schema:
    """The eight tables as they are in this database. Compared by identity: each reading is its own.

    `leading`: (table, column) pairs by which a unique index of the table can be searched. `encoding`: the database's.
    `kinds`: by name, what is not a table ("a view"). `elsewhere`: by table that the search path does not find, the
    schemas that have one.
    `fingerprint`: see fingerprint.py; empty if this was not read from a database.
    `times`: see extra_times.py, by table.
    """

    columns: dict[str, dict[str, Column]]
    parents: dict[str, tuple[Parent, ...]]
    unique: dict[str, frozenset[frozenset[str]]]
    deferred: tuple[str, ...] = ()
    encoding: str = "UTF8"
    leading: frozenset[tuple[str, str]] = frozenset()
    kinds: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fingerprint: str = ""
    times: Mapping[str, ExtraTimes] = field(default_factory=dict)

    def column(self, table: str, name: str) -> Column:
        """A column that the schema was checked to have."""
        return self.columns[table][name]

    @cached_property
    def limits(self) -> Limits:
        """The greatest values these columns hold."""
        progress, license_, audit = (self.columns[t] for t in (PROGRESS, LICENSES, PROGRESSIONS))
        totals = ("total_xp", "completed_sessions", "completed_projects", "theory_hours_completed")
        lengths = (progress["specialization_id"].length, license_["specialization_type"].length)
        return Limits(
            totals=tuple(progress[name].most for name in (*totals, "practice_hours_completed")),  # type: ignore[arg-type]
            level=min(
                column.most
                for column in (
                    progress["current_level"],
                    license_["current_level"],
                    license_["max_achieved_level"],
                    audit["from_level"],
                    audit["to_level"],
                )
            ),
            user_id=min(progress["student_id"].most, license_["user_id"].most),
            advanced_by=audit["advanced_by"].most,
            specialization=min((n for n in lengths if n is not None), default=32),
            reason=audit["advancement_reason"].length or 500,
        )

    def missing(self) -> list[str]:
        """What levelq cannot work without or would get wrong, one sentence each; empty if all is there."""
        found = list(encoding_fault(self.encoding))
        for table, names in REQUIRED.items():
            present = self.columns.get(table)
            if present is None:
                found.append(self.absence(table))
                continue
            if table in self.kinds:
                found.append(f"{table} is {self.kinds[table]}, expected a table")
                continue
            found += [f"{table} has no column {name}" for name in names if name not in present]
            faults = (fault_of(table, name, present[name]) for name in names if name in present)
            found += [fault for fault in faults if fault is not None]
            key = PAIR_KEYS.get(table)
            if key and key not in self.unique.get(table, frozenset()):
                found.append(f"{table} has no unique constraint on ({', '.join(sorted(key))})")
        return found

    def absence(self, table: str) -> str:
        """What to say of a table that the search path does not find."""
        schemas = self.elsewhere.get(table)
        there = f": there is one in schema {', '.join(schemas)}, outside the search path" if schemas else ""
        return f"table {table} does not exist{there}"


def encoding_fault(encoding: str) -> Iterator[str]:
    """Yield why texts of a database in this encoding cannot be trusted, if they cannot."""
    if encoding == "SQL_ASCII":
        yield "the database's encoding is SQL_ASCII, expected UTF8: it keeps bytes, and does not know their characters"


def read(connection: Connection) -> Schema:
    """Read the schema from PostgreSQL's catalogs, whatever is missing."""
    fingerprint = connection.execute(
        text(FINGERPRINT)
    ).scalar_one()  # first, so that a change during the other queries is noticed
    columns: dict[str, dict[str, Column]] = {}
    for table, name, *column in connection.execute(COLUMNS, {"tables": list(REQUIRED)}):
        columns.setdefault(table, {})[name] = Column(*column)
    unique: dict[str, set[frozenset[str]]] = {}
    leading: set[tuple[str, str]] = set()
    for table, names in connection.execute(UNIQUE, {"tables": list(REQUIRED)}):
        unique.setdefault(table, set()).add(frozenset(names))
        leading.add((table, names[0]))
    parents: dict[str, list[Parent]] = {}
    for table, constraint, target, column in connection.execute(
        PARENTS, {"tables": [PROGRESS, LICENSES, PROGRESSIONS]}
    ):
        parents.setdefault(table, []).append(Parent(target, column, constraint))
    deferred = connection.execute(DEFERRED, {"tables": [PROGRESS, LICENSES, PROGRESSIONS]}).scalars()
    return Schema(
        columns,
        {table: tuple(found) for table, found in parents.items()},
        {table: frozenset(found) for table, found in unique.items()},
        tuple(deferred),
        encoding=connection.execute(text("SHOW server_encoding")).scalar_one(),
        leading=frozenset(leading),
        kinds=not_tables(connection, REQUIRED),
        elsewhere=elsewhere(connection, [table for table in REQUIRED if table not in columns]),
        fingerprint=fingerprint or "",
        times=read_extra_times(connection, columns),
    )


COMPARE_SECONDS = 10.0  # how soon a change is noticed that makes no command fail, such as totals that become numeric


# By pool: an application may make an engine with other execution_options for each request, on one pool.
_cache: WeakKeyDictionary[Pool, tuple[Schema, float]] = WeakKeyDictionary()  # with the time of the last comparison


def schema_of(connection: Connection) -> Schema:
    """The schema of this connection's engine, read at first use, and again if it changed: compared every 10 s.

    Raises SchemaError for what is missing, TransactionMisuse if the connection translates schemas.
    """
    check_schema(connection)
    known, compared_at = _cache.get(connection.engine.pool, (None, 0.0))
    if known is not None and time.monotonic() - compared_at < COMPARE_SECONDS:
        return known
    if known is None or connection.execute(text(FINGERPRINT)).scalar_one() != known.fingerprint:
        forget(connection.engine)
        known = read(connection)
        missing = known.missing()
        if missing:
            raise SchemaError(f"{'; '.join(missing)}. `levelq db check` prints the statements that fix it")
    _cache[connection.engine.pool] = (known, time.monotonic())
    return known


def forget(engine: Engine) -> None:
    """Read the schema anew at the next use: a deployment may have changed it."""
    _cache.pop(engine.pool, None)


def reread(connection: Connection) -> Schema:
    """Read the schema again, for this use and later ones. Raises as `schema_of`."""
    forget(connection.engine)
    return schema_of(connection)

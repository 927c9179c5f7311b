"""What the connected database looks like: types, bounds and foreign keys, read once per engine.

An application's own tables differ from levelq's: int4 or int8, varchar or text, naive timestamps, other
columns, foreign keys to its users. Statements and bounds follow what is there, so nothing guesses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, Pool, text

from levelq_core.domain.rules import Limits
from levelq_core.errors import SchemaError

from .catalog_queries import COLUMNS, DEFERRED, IN_SCHEMAS, NOT_TABLES, PARENTS, UNIQUE
from .column_spec import LEVELS, Column, fault_of
from .fingerprint import FINGERPRINT
from .table_names import (
    AUDIT,
    IDENTITY,
    LEDGER,
    LICENSES,
    OUTBOX,
    PAIR,
    PROGRESS,
    PROGRESSIONS,
    QUARANTINE,
    REQUIRED,
    TOTALS,
    UNIQUE_KEYS,
)
from .transactions import check_schema

__all__ = [
    "AUDIT", "IDENTITY", "LEDGER", "LICENSES", "OUTBOX", "PAIR", "PROGRESS", "PROGRESSIONS", "QUARANTINE", "REQUIRED",
    "UNIQUE_KEYS", "Column", "Parent", "Schema", "encoding_fault", "forget", "read", "reread", "schema_of",
]  # fmt: skip

_COUPLED = (PROGRESS, LICENSES, PROGRESSIONS)


@dataclass(frozen=True)
class Parent:
    """A foreign key from a column that names a user to the application's users."""

    table: str
    column: str
    constraint: str


@dataclass(frozen=True, eq=False)
class Schema:
    """The nine tables as they are in this database. Compared by identity: each reading is its own.

    `leading`: (table, column) pairs by which a unique index of the table can be searched. `encoding`: the database's.
    `kinds`: by name, what is not a table ("a view"). `elsewhere`: by table that the search path does not find, the
    schemas that have one. `fingerprint`: see fingerprint.py; empty if this was not read from a database.
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

    def column(self, table: str, name: str) -> Column:
        """A column that the schema was checked to have."""
        return self.columns[table][name]

    @cached_property
    def limits(self) -> Limits:
        """The greatest values these columns hold."""
        progress, license_, audit = (self.columns[t] for t in _COUPLED)
        lengths = (progress["specialization_id"].length, license_["specialization_type"].length)
        return Limits(
            totals=tuple(progress[name].most for name in TOTALS),  # type: ignore[arg-type]
            level=min(self.columns[t][n].most for t in _COUPLED for n in REQUIRED[t] if n in LEVELS),
            user_id=min(progress["student_id"].most, license_["user_id"].most),
            advanced_by=audit["advanced_by"].most,
            specialization=min((n for n in lengths if n is not None), default=32),
            reason=audit["advancement_reason"].length or 500,
        )

    def missing(self, *, keys: bool = True) -> list[str]:
        """What levelq cannot work without or would get wrong, one sentence each; empty if all is there.

        `keys`: the unique constraints, too.
        """
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
            if keys and table in UNIQUE_KEYS and not self.has_key(table):
                found.append(f"{table} has no unique constraint on ({', '.join(sorted(UNIQUE_KEYS[table]))})")
        return found

    def require(self, *, keys: bool = True) -> Self:
        """This schema. Raises SchemaError for what is missing."""
        missing = self.missing(keys=keys)
        if missing:
            raise SchemaError(f"{'; '.join(missing)}. `levelq db check` prints the statements that fix it")
        return self

    def has_key(self, table: str) -> bool:
        """Whether the table has the unique constraint that levelq needs."""
        return frozenset(UNIQUE_KEYS[table]) in self.unique.get(table, frozenset())

    def absence(self, table: str) -> str:
        """The sentence about a table that the search path does not find."""
        schemas = self.elsewhere.get(table)
        there = f": there is one in schema {', '.join(schemas)}, outside the search path" if schemas else ""
        return f"table {table} does not exist{there}"


def encoding_fault(encoding: str) -> Iterator[str]:
    """Yield why texts of a database in this encoding cannot be trusted, if they cannot."""
    if encoding == "SQL_ASCII":
        yield "the database's encoding is SQL_ASCII, expected UTF8: it keeps bytes, and does not know their characters"


def read(connection: Connection) -> Schema:
    """Read the schema from PostgreSQL's catalogs, whatever is missing."""
    fingerprint = connection.scalar(text(FINGERPRINT))  # first, so that a change during the other queries is noticed
    every, coupled = {"tables": list(REQUIRED)}, {"tables": list(_COUPLED)}
    columns: dict[str, dict[str, Column]] = {}
    for table, name, *column in connection.execute(COLUMNS, every):
        columns.setdefault(table, {})[name] = Column(*column)
    unique = [(table, names) for table, names in connection.execute(UNIQUE, every)]
    parents: dict[str, tuple[Parent, ...]] = {}
    for table, constraint, target, column in connection.execute(PARENTS, coupled):
        parents[table] = (*parents.get(table, ()), Parent(target, column, constraint))
    absent = [table for table in REQUIRED if table not in columns]
    return Schema(
        columns,
        parents,
        unique={key: frozenset(frozenset(names) for table, names in unique if table == key) for key in REQUIRED},
        deferred=tuple(connection.execute(DEFERRED, coupled).scalars()),
        encoding=str(connection.scalar(text("SELECT current_setting('server_encoding')"))),
        leading=frozenset((table, names[0]) for table, names in unique),
        kinds={row.name: row.kind for row in connection.execute(NOT_TABLES, every)},
        elsewhere={name: tuple(schemas) for name, schemas in connection.execute(IN_SCHEMAS, {"tables": absent})},
        fingerprint=fingerprint or "",
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
        known = read(connection).require()
    _cache[connection.engine.pool] = (known, time.monotonic())
    return known


def forget(engine: Engine) -> None:
    """Read the schema again at the next use: a deployment may have changed it."""
    _cache.pop(engine.pool, None)


def reread(connection: Connection) -> Schema:
    """Read the schema again, for this use and later ones. Raises as `schema_of`."""
    forget(connection.engine)
    return schema_of(connection)

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

from .errors import SchemaError
from .extra_times import ExtraTimes, read_extra_times
from .fingerprint import FINGERPRINT
from .rules import Limits
from .table_names import (
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
from .wanted import Column, fault_of

__all__ = [
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
    """The seven tables as they are in this database. Compared by identity: each reading is its own.

    `leading`: (table, column) pairs by which a unique index of the table can be searched. `encoding`: the database's.
    `fingerprint`: tells whether the tables have changed since; empty if this was not read from a database.
    `times`: of each table, the times that levelq sets beside the columns it requires.
    """

    columns: dict[str, dict[str, Column]]
    parents: dict[str, tuple[Parent, ...]]
    unique: dict[str, frozenset[frozenset[str]]]
    deferred: tuple[str, ...] = ()
    encoding: str = "UTF8"
    leading: frozenset[tuple[str, str]] = frozenset()
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
                found.append(f"table {table} does not exist")
                continue
            found += [f"{table} has no column {name}" for name in names if name not in present]
            faults = (fault_of(table, name, present[name]) for name in names if name in present)
            found += [fault for fault in faults if fault is not None]
            key = PAIR_KEYS.get(table)
            if key and key not in self.unique.get(table, frozenset()):
                found.append(f"{table} has no unique constraint on ({', '.join(sorted(key))})")
        return found


def encoding_fault(encoding: str) -> Iterator[str]:
    """Yield why texts of a database in this encoding cannot be trusted, if they cannot."""
    if encoding == "SQL_ASCII":
        yield "the database's encoding is SQL_ASCII, expected UTF8: it keeps bytes, and does not know their characters"


def read(connection: Connection) -> Schema:
    """Read the schema from PostgreSQL's catalogs, whatever is missing."""
    fingerprint = connection.execute(text(FINGERPRINT)).scalar_one()  # first: a change meanwhile shows later
    columns: dict[str, dict[str, Column]] = {}
    for table, name, *column in connection.execute(_COLUMNS, {"tables": list(REQUIRED)}):
        columns.setdefault(table, {})[name] = Column(*column)
    unique: dict[str, set[frozenset[str]]] = {}
    leading: set[tuple[str, str]] = set()
    for table, names in connection.execute(_UNIQUE, {"tables": list(REQUIRED)}):
        unique.setdefault(table, set()).add(frozenset(names))
        leading.add((table, names[0]))
    parents: dict[str, list[Parent]] = {}
    for table, constraint, target, column in connection.execute(
        _PARENTS, {"tables": [PROGRESS, LICENSES, PROGRESSIONS]}
    ):
        parents.setdefault(table, []).append(Parent(target, column, constraint))
    deferred = connection.execute(_DEFERRED, {"tables": [PROGRESS, LICENSES, PROGRESSIONS]}).scalars()
    return Schema(
        columns,
        {table: tuple(found) for table, found in parents.items()},
        {table: frozenset(found) for table, found in unique.items()},
        tuple(deferred),
        encoding=connection.execute(text("SHOW server_encoding")).scalar_one(),
        leading=frozenset(leading),
        fingerprint=fingerprint or "",
        times=read_extra_times(connection, columns),
    )


COMPARE_SECONDS = 10.0  # a change that refuses nothing, such as totals that become numeric, is noticed so soon


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
            raise SchemaError(f"{'; '.join(missing)}. `levelq db check` prints the statements that mend it")
    _cache[connection.engine.pool] = (known, time.monotonic())
    return known


def forget(engine: Engine) -> None:
    """Read the schema anew at the next use: a deployment may have changed it."""
    _cache.pop(engine.pool, None)


def reread(connection: Connection) -> Schema:
    """Read the schema again, for this use and later ones. Raises as `schema_of`."""
    forget(connection.engine)
    return schema_of(connection)


# Every column of our tables in its order, as the search path finds them: the type below its domains, the length of
# varchar(n), precision and scale of numeric(p,s), and what an insert that leaves the column out would get.
_COLUMNS = text("""
    SELECT c.relname, a.attname, t.typname,
           CASE WHEN t.typname IN ('varchar', 'bpchar') AND b.typmod > 4 THEN b.typmod - 4 END,
           CASE WHEN t.typname = 'numeric' AND b.typmod > 4 THEN (b.typmod - 4) >> 16 END,
           CASE WHEN t.typname = 'numeric' AND b.typmod > 4 THEN (((b.typmod - 4) & 2047) # 1024) - 1024 END,
           NOT a.attnotnull, a.atthasdef AND a.attgenerated = '', a.atthasdef OR a.attidentity <> '',
           a.attgenerated <> '', a.attidentity = 'a'
    FROM unnest(CAST(:tables AS text[])) WITH ORDINALITY AS wanted(name, n)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    CROSS JOIN LATERAL (
        WITH RECURSIVE base(type, typmod, depth) AS (
            SELECT a.atttypid, a.atttypmod, 0
            UNION ALL
            SELECT d.typbasetype, greatest(base.typmod, d.typtypmod), depth + 1
            FROM base JOIN pg_type d ON d.oid = base.type AND d.typtype = 'd'
        )
        SELECT type, typmod FROM base ORDER BY depth DESC LIMIT 1
    ) b
    JOIN pg_type t ON t.oid = b.type
    ORDER BY wanted.n, a.attnum
""")

# The column sets that a valid, unconditional unique index covers; a constraint is such an index.
_UNIQUE = text("""
    SELECT c.relname, array_agg(a.attname::text ORDER BY k.n)
    FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    JOIN pg_index i ON i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
        AND i.indpred IS NULL AND i.indexprs IS NULL
    JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(attnum, n) ON true
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    GROUP BY c.relname, i.indexrelid
""")

# The foreign keys of the columns that name a user: whose rows an insert will want to share-lock.
_PARENTS = text("""
    SELECT c.relname, f.conname, f.confrelid::regclass::text, quote_ident(p.attname)
    FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    JOIN pg_constraint f ON f.conrelid = c.oid AND f.contype = 'f' AND cardinality(f.conkey) = 1
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = f.conkey[1]
        AND a.attname IN ('student_id', 'user_id', 'advanced_by')
    JOIN pg_attribute p ON p.attrelid = f.confrelid AND p.attnum = f.confkey[1]
""")

# Constraints that would be checked at COMMIT, where no command could be told from another.
_DEFERRED = text("""
    SELECT quote_ident(n.nspname) || '.' || quote_ident(f.conname)
    FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    JOIN pg_constraint f ON f.conrelid = c.oid AND f.condeferred
    JOIN pg_namespace n ON n.oid = f.connamespace
    ORDER BY 1
""")

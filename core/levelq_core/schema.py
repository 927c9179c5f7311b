"""What the connected database looks like: types, bounds and foreign keys, read once per engine.

An application's own tables differ from ours: int4 or int8, varchar or text, naive timestamps, other
columns, foreign keys to its users. Statements and bounds follow what is there, so nothing guesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, text

from .errors import SchemaError
from .rules import Limits
from .transactions import check_schema

PROGRESS, LICENSES, PROGRESSIONS = "specialization_progress", "user_licenses", "license_progressions"
LEDGER, OUTBOX, QUARANTINE = "levelq_ledger", "levelq_outbox", "levelq_quarantine"
IDENTITY = "levelq_identity"

REQUIRED: dict[str, tuple[str, ...]] = {
    PROGRESS: (
        "id", "student_id", "specialization_id", "current_level", "total_xp", "completed_sessions",
        "completed_projects", "theory_hours_completed", "practice_hours_completed", "last_activity",
        "created_at", "updated_at",
    ),
    LICENSES: (
        "id", "user_id", "specialization_type", "current_level", "max_achieved_level", "started_at",
        "last_advanced_at",
    ),
    PROGRESSIONS: (
        "id", "user_license_id", "from_level", "to_level", "advanced_by", "advancement_reason",
        "requirements_met", "advanced_at",
    ),
    LEDGER: (
        "id", "command_id", "user_id", "specialization", "kind", "status", "error", "message", "digest", "xp",
        "sessions", "projects", "theory_hours", "practice_hours", "from_level", "to_level", "before", "after",
        "batch", "xid", "source", "applied_at",
    ),
    OUTBOX: ("id", "command_id", "user_id", "specialization", "payload", "created_at", "pushed_at", "pushes"),
    QUARANTINE: ("id", "specialization", "user_id", "reason", "raw", "length", "sha256", "at"),
    IDENTITY: ("id", "identity", "created_at"),
}  # fmt: skip

PAIR_KEYS: dict[str, frozenset[str]] = {
    PROGRESS: frozenset({"student_id", "specialization_id"}),
    LICENSES: frozenset({"user_id", "specialization_type"}),
    LEDGER: frozenset({"command_id"}),
}

_LIMITS = {"int2": 2**15 - 1, "int4": 2**31 - 1, "int8": 2**63 - 1, "numeric": 2**63 - 1}


@dataclass(frozen=True)
class Column:
    """One column as PostgreSQL describes it; `length` is a varchar's limit in characters."""

    type: str
    length: int | None = None

    @property
    def most(self) -> int:
        """The greatest integer it can hold, of those levelq would ever write."""
        return _LIMITS.get(self.type, 2**31 - 1)

    @property
    def now(self) -> str:
        """The SQL expression for the present in this column: naive timestamps hold UTC by convention."""
        return "now()" if self.type == "timestamptz" else "(now() AT TIME ZONE 'UTC')"


@dataclass(frozen=True)
class Parent:
    """A foreign key from a column that names a user to the application's users."""

    table: str
    column: str
    constraint: str


@dataclass(frozen=True, eq=False)
class Schema:
    """The seven tables as they are in this database. Compared by identity: each reading is its own."""

    columns: dict[str, dict[str, Column]]
    parents: dict[str, tuple[Parent, ...]]
    unique: dict[str, frozenset[frozenset[str]]]
    deferred: tuple[str, ...] = ()

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
        """What levelq cannot work without, one sentence each; empty if all is there."""
        found: list[str] = []
        for table, names in REQUIRED.items():
            present = self.columns.get(table)
            if present is None:
                found.append(f"table {table} does not exist")
                continue
            found += [f"{table} has no column {name}" for name in names if name not in present]
            key = PAIR_KEYS.get(table)
            if key and key not in self.unique.get(table, frozenset()):
                found.append(f"{table} has no unique constraint on ({', '.join(sorted(key))})")
        return found


def read(connection: Connection) -> Schema:
    """Read the schema from PostgreSQL's catalogs, whatever is missing."""
    columns: dict[str, dict[str, Column]] = {}
    for table, name, type_, length in connection.execute(_COLUMNS, {"tables": list(REQUIRED)}):
        columns.setdefault(table, {})[name] = Column(type_, length)
    unique: dict[str, set[frozenset[str]]] = {}
    for table, names in connection.execute(_UNIQUE, {"tables": list(REQUIRED)}):
        unique.setdefault(table, set()).add(frozenset(names))
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
    )


_cache: WeakKeyDictionary[Engine, Schema] = WeakKeyDictionary()


def schema_of(connection: Connection) -> Schema:
    """The schema of this connection's engine, read at first use.

    Raises SchemaError for what is missing, TransactionMisuse if the connection translates schemas.
    """
    check_schema(connection)
    known = _cache.get(connection.engine)
    if known is None:
        known = read(connection)
        missing = known.missing()
        if missing:
            raise SchemaError(f"{'; '.join(missing)}. `levelq db check` prints the statements that mend it")
        _cache[connection.engine] = known
    return known


def forget(engine: Engine) -> None:
    """Read the schema anew at the next use: a deployment may have changed it."""
    _cache.pop(engine, None)


# The columns of our tables, as the search path finds them, with the length limit of varchar(n).
_COLUMNS = text("""
    SELECT c.relname, a.attname, t.typname,
           CASE WHEN t.typname IN ('varchar', 'bpchar') AND a.atttypmod > 4 THEN a.atttypmod - 4 END
    FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
""")

# The column sets that a valid, unconditional unique index covers; a constraint is such an index.
_UNIQUE = text("""
    SELECT c.relname, array_agg(a.attname::text)
    FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    JOIN pg_index i ON i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
        AND i.indpred IS NULL AND i.indexprs IS NULL
    JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) AS k(attnum) ON true
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

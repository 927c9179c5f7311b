"""The sequences and identity columns of the eight tables: how much of what they can count is left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, text

from levelq_core.database.schema import LICENSES, PROGRESSIONS, REQUIRED

from .finding import Finding, Severity
from .retyping import unhindered

NEARLY_USED_UP = 0.8

_HOLDS = {"int2": 2**15 - 1, "int4": 2**31 - 1}
_BIGINT = 2**63 - 1


class Sequence(NamedTuple):
    """One column that counts. `last` is None before the first number, and where `readable` is false.

    `usable`: this role's inserts can draw from it, as they always can from an identity column's.
    """

    table: str
    column: str
    type: str
    name: str
    readable: bool
    usable: bool
    last: int | None
    step: int
    most: int
    type_most: int

    @property
    def holds(self) -> int:
        """The greatest number that fits both the sequence and the column."""
        return min(self.most, _HOLDS.get(self.type, _BIGINT))

    @property
    def used(self) -> float:
        """The part of its numbers that is used up."""
        return (self.last or 0) / self.holds

    @property
    def at_its_end(self) -> bool:
        """Whether it has no number left."""
        return self.last is not None and self.last + self.step > self.holds


def sequences_of(connection: Connection) -> list[Sequence]:
    """Every sequence that fills a column of the eight tables. Needs no right but to use them. Raises DBAPIError."""
    return [Sequence(*row) for row in connection.execute(_SEQUENCES, {"tables": list(REQUIRED)})]


def sequence_problems(connection: Connection) -> Iterator[str]:
    """Yield one sentence for each sequence that is nearly or wholly used up. Raises DBAPIError."""
    for sequence in sequences_of(connection):
        if sequence.at_its_end or sequence.used > NEARLY_USED_UP:
            yield _problem(sequence)


def check_sequences(connection: Connection) -> Iterator[Finding]:
    """Yield the sequences that are nearly or wholly used up, and those this role may not read."""
    for sequence in sequences_of(connection):
        where, grant = f"{sequence.table}.{sequence.column}: this role may not", "GRANT USAGE ON SEQUENCE"
        fix = (f"{grant} {sequence.name} TO {_role(connection)};",)
        if not sequence.usable:
            yield Finding("error", f"{where} draw from its sequence, {sequence.name}: inserts fail", fix)
        elif not sequence.readable:
            yield Finding("warning", f"{where} read its sequence, {sequence.name}", fix)
        elif sequence.at_its_end or sequence.used > NEARLY_USED_UP:
            severity: Severity = "error" if sequence.at_its_end else "warning"
            yield Finding(severity, _problem(sequence), tuple(_widened(connection, sequence)))


def _problem(sequence: Sequence) -> str:
    where = f"{sequence.table}.{sequence.column}"
    if sequence.at_its_end:
        return f"{where}: its sequence is at its end, {sequence.last} of {sequence.holds}: inserts fail"
    return f"{where}: its sequence has used {sequence.used:.0%} of its numbers, {sequence.last} of {sequence.holds}"


def _widened(connection: Connection, sequence: Sequence) -> Iterator[str]:
    """What lets it count on: the column, the columns that refer to it, then the sequence."""
    if sequence.type in _HOLDS:
        yield from _bigint(connection, sequence.table, sequence.column)
        referring = {(row.child, row.column) for row in connection.execute(_REFERRING, sequence._asdict())}
        for child, column in sorted(referring):
            yield from _bigint(connection, child, column)
    if sequence.most < _BIGINT:
        bound = " NO MAXVALUE" if sequence.most != sequence.type_most else ""
        yield f"ALTER SEQUENCE {sequence.name} AS bigint{bound};"
    elif sequence.type not in _HOLDS:
        yield f"-- {sequence.name} has counted to the end of bigint: restart it where ids are free"


def _bigint(connection: Connection, table: str, column: str) -> tuple[str, ...]:
    statement = f"ALTER TABLE {table} ALTER COLUMN {column} TYPE bigint;"
    return unhindered(connection, table, column, statement, keys=False)


def _role(connection: Connection) -> str:
    return str(connection.execute(text("SELECT quote_ident(current_user)")).scalar_one())


# Sequences that a column owns or that its default draws from. `pg_sequence_last_value` takes USAGE or SELECT; without
# either the row says so. Counting down is no habit of applications and not looked at.
_SEQUENCES = text("""
    WITH columns AS (
        SELECT c.oid AS relation, wanted.name AS relname, wanted.n, a.attnum, a.attname, a.atttypid,
               a.attidentity <> '' AS identity
        FROM unnest(CAST(:tables AS text[])) WITH ORDINALITY AS wanted(name, n)
        JOIN pg_class c ON c.oid = to_regclass(wanted.name)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ), filled AS (
        SELECT k.*, d.objid AS sequence FROM columns k
        JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
            AND d.refobjid = k.relation AND d.refobjsubid = k.attnum AND d.deptype IN ('a', 'i')
        UNION
        SELECT k.*, d.refobjid FROM columns k
        JOIN pg_attrdef f ON f.adrelid = k.relation AND f.adnum = k.attnum
        JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
            AND d.refclassid = 'pg_class'::regclass
    )
    SELECT f.relname, quote_ident(f.attname), t.typname, s.seqrelid::regclass::text, r.readable, f.identity OR r.usable,
           CASE WHEN r.readable THEN pg_sequence_last_value(s.seqrelid) END, s.seqincrement, s.seqmax,
           CASE s.seqtypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647
                ELSE 9223372036854775807 END
    FROM filled f JOIN pg_sequence s ON s.seqrelid = f.sequence AND s.seqincrement > 0
    JOIN pg_type t ON t.oid = f.atttypid
    CROSS JOIN LATERAL (
        SELECT has_sequence_privilege(s.seqrelid, 'USAGE, SELECT'), has_sequence_privilege(s.seqrelid, 'USAGE, UPDATE')
    ) AS r(readable, usable)
    ORDER BY f.n, f.attnum
""")

# Narrow columns that hold this column's numbers: by a foreign key, or as the license of a progression.
_REFERRING = text(f"""
    SELECT k.conrelid::regclass::text AS child, quote_ident(a.attname) AS column
    FROM pg_constraint k
    JOIN pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = k.confkey[1]
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
    WHERE k.contype = 'f' AND k.confrelid = to_regclass(:table) AND quote_ident(p.attname) = :column
        AND a.atttypid IN ('int2'::regtype, 'int4'::regtype)
    UNION
    SELECT a.attrelid::regclass::text, quote_ident(a.attname) FROM pg_attribute a
    WHERE :table = '{LICENSES}' AND :column = 'id' AND a.attrelid = to_regclass('{PROGRESSIONS}')
        AND a.attname = 'user_license_id' AND a.atttypid IN ('int2'::regtype, 'int4'::regtype)
""")

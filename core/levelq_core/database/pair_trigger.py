"""The triggers under which PostgreSQL commits no pair of different levels, whoever writes it: their SQL, their state.

On each table, one constraint trigger for updates that change the level or the key, and one for inserts, because only an
update has an old row to compare with. Both are deferred: within a transaction the levels may differ. A row whose level
stays costs nothing.

Two transactions may write one side each at the same time. So progress locks its license, in levelq's lock order, and a
license locks its progress only if that is free. What neither lock nor snapshot shows (a partner that is not committed
yet, or that is held) goes through one advisory lock, kept until the transaction ends, and looks again. levelq's own
transactions hold both rows, so they never wait here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from sqlalchemy import Connection, text

from .schema import LICENSES, PAIR, PROGRESS, Schema
from .spelling import folded
from .table_names import PAIR_TRIGGERS

COUPLED = (PROGRESS, LICENSES)  # in lock order
NAME, FOR_INSERTS = PAIR_TRIGGERS
_ADVISORY_LOCK = 0x6C6576656C7170  # "levelqp": any number
LOCK_TIMEOUT = "500ms"  # less than a batch waits for a lock, so that no lane is parked for it


State = Literal["on", "off", "half there", "disabled", "outdated"]


class Installed(NamedTuple):
    """What is there: the triggers by table, each with whether it is enabled.

    `source`: of their function, None if it is missing; `wanted`: as this version of levelq makes it for these tables.
    `tables`: the tables with their schemas, as SQL. `function`: the function, in the schema of the progress table.
    """

    triggers: Mapping[str, Mapping[str, bool]]
    source: str | None
    wanted: str
    tables: Mapping[str, str]
    function: str

    def state(self, table: str) -> State:
        """Of one table. `outdated`: made by another version of levelq, or before a table was renamed or moved."""
        triggers = self.triggers[table]
        if not triggers:
            return "off"
        if len(triggers) < len(PAIR_TRIGGERS):
            return "half there"
        if not all(triggers.values()):
            return "disabled"
        return "on" if self.source == self.wanted else "outdated"


def installed(connection: Connection, schema: Schema) -> Installed:
    """Read what is there. Both tables must exist. Raises DBAPIError."""
    schemas = {row.name: row.schema for row in connection.execute(_SCHEMAS, {"tables": list(COUPLED)})}
    tables = {name: f"{schema}.{name}" for name, schema in schemas.items()}
    function = f"{schemas[PROGRESS]}.{NAME}()"
    triggers: dict[str, dict[str, bool]] = {table: {} for table in COUPLED}
    for row in connection.execute(_TRIGGERS, {"tables": list(COUPLED), "names": list(PAIR_TRIGGERS)}):
        triggers[row.table][row.name] = row.enabled
    source = connection.execute(_SOURCE, {"function": function}).scalar()
    return Installed(triggers, source, _wanted(schema, tables), tables, function)


def create(found: Installed) -> Iterator[str]:
    """Yield the statements, of one transaction, that put them in force; what is there is made again.

    enable_seqscan: a session keeps the plans that it made while the tables were empty, 50 times slower in a burst.
    """
    yield from _locking("ACCESS EXCLUSIVE" if any(found.triggers.values()) else "SHARE ROW EXCLUSIVE", found)
    yield from _drop_triggers(found)
    yield (
        f"CREATE OR REPLACE FUNCTION {found.function} RETURNS trigger\n"
        "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off\n"
        f"AS $levelq${found.wanted}$levelq$"
    )
    yield f"REVOKE EXECUTE ON FUNCTION {found.function} FROM PUBLIC"
    for table in COUPLED:
        changed = (f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in ("current_level", *PAIR[table]))
        for name, event, when in (
            (NAME, "UPDATE", f"\nWHEN ({' OR '.join(changed)})"),
            (FOR_INSERTS, "INSERT", ""),
        ):
            yield (
                f"CREATE CONSTRAINT TRIGGER {name} AFTER {event} ON {found.tables[table]}\n"
                f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW{when}\n"
                f"EXECUTE FUNCTION {found.function.removesuffix('()')}('{table}')"
            )


def drop(found: Installed) -> Iterator[str]:
    """Yield the statements, of one transaction, that remove them."""
    yield from _locking("ACCESS EXCLUSIVE", found)
    yield from _drop_triggers(found)
    yield f"DROP FUNCTION IF EXISTS {found.function}"


def _locking(mode: str, found: Installed) -> Iterator[str]:
    yield f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"
    yield f"LOCK TABLE {', '.join(found.tables[table] for table in COUPLED)} IN {mode} MODE"


def _drop_triggers(found: Installed) -> Iterator[str]:
    for table in COUPLED:
        for name in found.triggers[table]:
            yield f"DROP TRIGGER {name} ON {found.tables[table]}"


def _wanted(schema: Schema, tables: Mapping[str, str]) -> str:
    """The function's body for these tables."""
    same_name, its_name = "l.specialization_type = p.specialization_id", "p.specialization_id = name"
    if {(PROGRESS, PAIR[PROGRESS][0]), (LICENSES, PAIR[LICENSES][0])} <= schema.leading:  # else it would read a table
        same_name = f"{folded('l.specialization_type')} = {folded('p.specialization_id')}"
        its_name = f"{folded('p.specialization_id')} = {folded('name')}"
    return _SOURCE_TEXT.format(
        progress=tables[PROGRESS],
        licenses=tables[LICENSES],
        same_name=same_name,
        its_name=its_name,
        lock=_ADVISORY_LOCK,
    )


# Of a row that has changed again since its event, the later change has an event of its own. A NULL level counts as 1.
# REPEATABLE READ sees no row that was committed since its first statement, so there a partner must be seen and locked.
_SOURCE_TEXT = """
#variable_conflict use_variable
DECLARE
    learner bigint;
    name text;
    at_progress bigint;
    at_license bigint;
    blind boolean;
BEGIN
    -- Nearly always the partner is at the same level, and nobody else can change it now.
    IF TG_ARGV[0] = 'specialization_progress' THEN
        PERFORM FROM {licenses} l
        WHERE l.user_id = NEW.student_id AND l.specialization_type = NEW.specialization_id
            AND coalesce(l.current_level, 1) = coalesce(NEW.current_level, 1) FOR SHARE;
        IF FOUND THEN RETURN NULL; END IF;
        PERFORM FROM {progress} p
        WHERE p.student_id = NEW.student_id AND p.specialization_id = NEW.specialization_id
            AND p.current_level IS NOT DISTINCT FROM NEW.current_level;
        learner = NEW.student_id;
        name = NEW.specialization_id;
    ELSE
        PERFORM FROM {progress} p
        WHERE p.student_id = NEW.user_id AND p.specialization_id = NEW.specialization_type
            AND coalesce(p.current_level, 1) = coalesce(NEW.current_level, 1) FOR SHARE SKIP LOCKED;
        IF FOUND THEN RETURN NULL; END IF;
        PERFORM FROM {licenses} l
        WHERE l.user_id = NEW.user_id AND l.specialization_type = NEW.specialization_type
            AND l.current_level IS NOT DISTINCT FROM NEW.current_level;
        learner = NEW.user_id;
        name = NEW.specialization_type;
    END IF;
    IF NOT FOUND THEN RETURN NULL; END IF;  -- this row has changed again, and that change is checked by itself

    blind = current_setting('transaction_isolation') IN ('repeatable read', 'serializable');
    IF NOT blind THEN
        PERFORM pg_advisory_xact_lock({lock});
    END IF;
    SELECT coalesce(p.current_level, 1), coalesce(l.current_level, 1) INTO at_progress, at_license
    FROM {progress} p JOIN {licenses} l ON l.user_id = p.student_id AND {same_name}
    WHERE p.student_id = learner AND {its_name}
    ORDER BY coalesce(p.current_level, 1) = coalesce(l.current_level, 1) LIMIT 1;
    IF at_progress <> at_license THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation',
            MESSAGE = 'progress and license would be at different levels',
            DETAIL = 'User ' || learner || ', ' || name || ': progress is at level ' || at_progress
                || ', license at level ' || at_license || '.',
            HINT = 'Change both in one transaction, progress first, or leave both to levelq.',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_ARGV[0], CONSTRAINT = 'levelq_pair_in_step';
    ELSIF blind AND at_progress IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'serialization_failure',
            MESSAGE = 'could not serialize access: another transaction holds the progress row of this license',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_ARGV[0], CONSTRAINT = 'levelq_pair_in_step';
    ELSIF blind THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation',
            MESSAGE = 'a level without the other side can only be written in READ COMMITTED',
            DETAIL = 'User ' || learner || ', ' || name
                || ': this transaction cannot see whether another one has written the other side.',
            HINT = 'Write both rows in one transaction, or use READ COMMITTED.',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_ARGV[0], CONSTRAINT = 'levelq_pair_in_step';
    END IF;
    RETURN NULL;
END
"""

_SCHEMAS = text("""
    SELECT wanted.name, quote_ident(n.nspname) AS schema
    FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name) JOIN pg_namespace n ON n.oid = c.relnamespace
""")

# Enabled: in ordinary sessions, those in which session_replication_role is not replica.
_TRIGGERS = text("""
    SELECT wanted.name AS table, t.tgname::text AS name, t.tgenabled IN ('O', 'A') AS enabled
    FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    JOIN pg_trigger t ON t.tgrelid = to_regclass(wanted.name)
    WHERE t.tgname = ANY(CAST(:names AS text[])) ORDER BY t.tgname
""")

_SOURCE = text("SELECT prosrc FROM pg_proc WHERE oid = to_regprocedure(:function)")

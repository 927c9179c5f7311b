"""`levelq db enforce`: makes the database refuse levels out of step, or ends that."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core.database import pair_trigger
from levelq_core.database.schema import LICENSES, PROGRESS, read
from levelq_core.database.sqlstate import sqlstate_of
from levelq_core.database.table_names import AUDIT
from levelq_core.errors import ConfigurationError

from . import audit
from .queries import holder
from .readings.enforcement import Enforcement, read_enforcement
from .readings.problems import held_by
from .wording import count

ACTION = "db enforce"
_LOCK_TIMEOUT = "55P03"


def enforce(engine: Engine, *, on: bool = True, actor: str | None = None) -> Enforcement:
    """Put it in force or remove it, with a line in the audit, in one transaction; what is then read, pairs included.

    Does nothing if it is so already. Writers of the two tables wait meanwhile, half a second at most. `actor`: see
    `audit.record`. Raises ConfigurationError if pairs are out of step, if this role may not read and lock both tables,
    or if a transaction holds a table for longer than that; then nothing is changed. Raises SchemaError, DBAPIError.
    """
    with engine.connect() as connection:
        before = read_enforcement(connection, pairs=on)
    if before.state == ("on" if on else "off"):
        return before
    if before.out_of_step:
        raise ConfigurationError(refusal(before.out_of_step), value=before.out_of_step)
    try:
        with engine.begin() as connection:
            if on:
                _require_rights(connection)
            for statement in _statements(connection, on):
                connection.exec_driver_sql(statement)
            audit.record(connection, ACTION, _TARGET, {"state": "on" if on else "off"}, actor=actor)
    except DBAPIError as error:
        if sqlstate_of(error) != _LOCK_TIMEOUT:
            raise
        with engine.connect() as connection:
            held = held_by(holder(connection, pair_trigger.COUPLED, 0.0)) or "other transactions held them"
        reason = f"no lock on {_TARGET} within {pair_trigger.LOCK_TIMEOUT}: {held}"
        raise ConfigurationError(f"{reason}. Nothing was changed; run it again", value=_TARGET) from error
    with engine.connect() as connection:
        return read_enforcement(connection)


def refusal(out_of_step: int) -> str:
    """Why it is not put in force yet, and what to do."""
    return (
        f"nothing was changed: {count(out_of_step, 'pair')} out of step. `levelq check` lists them, `levelq adopt` "
        "repairs them; then run it again"
    )


def enforcement_sql(connection: Connection, *, on: bool = True) -> str:
    """What `enforce` would run on this database now, for one transaction of psql or of Alembic; "" if nothing.

    The script writes the audit's line, too. Raises SchemaError, DBAPIError.
    """
    if read_enforcement(connection, pairs=False).state == ("on" if on else "off"):
        return ""
    line = _AUDIT_LINE.format(state="on" if on else "off")
    return "".join(f"{statement};\n\n" for statement in (*_statements(connection, on), line))


def _statements(connection: Connection, on: bool) -> Iterator[str]:
    found = pair_trigger.installed(connection, read(connection))
    return pair_trigger.create(found) if on else pair_trigger.drop(found)


def _require_rights(connection: Connection) -> None:
    """Raise ConfigurationError if the function, which runs with this role's rights, could not see and lock all rows."""
    lacking = [row.name for row in connection.execute(_RIGHTS, {"tables": list(pair_trigger.COUPLED)}) if not row.may]
    if lacking:
        role = connection.execute(text("SELECT current_user")).scalar_one()
        raise ConfigurationError(
            f"role {role}: expected SELECT, UPDATE and no row security on {', '.join(lacking)}: the triggers read and "
            "lock the other side with the rights of the role that makes them; use the role that owns the tables",
            value=role,
        )


_TARGET = f"{PROGRESS}, {LICENSES}"

_RIGHTS = text("""
    SELECT name, has_any_column_privilege(found, 'UPDATE') AND has_table_privilege(found, 'SELECT')
           AND NOT row_security_active(found) AS may
    FROM unnest(CAST(:tables AS text[])) AS wanted(name), to_regclass(name) AS found
""")

_AUDIT_LINE = f"""\
INSERT INTO {AUDIT} (at, actor, origin, action, target, detail)
VALUES (now(), session_user, 'levelq db enforce --sql', '{ACTION}', '{_TARGET}', '{{{{"state": "{{state}}"}}}}')"""

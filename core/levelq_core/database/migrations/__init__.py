"""Alembic migrations, shipped in the package: `levelq db upgrade` runs them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from alembic import command, context
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Inspector, inspect, text

from levelq_core.database.table_names import REQUIRED
from levelq_core.errors import SchemaError
from levelq_core.untrusted_text import quoted

VERSION_TABLE = "levelq_alembic_version"
LOCK = f"SELECT pg_advisory_xact_lock({0x6C6576656C71})"  # "levelq": any number, but the same for every upgrade

# The search path, if the connection itself chose it: psql, on the same role and database, would not have it.
_SEARCH_PATH = "SELECT setting FROM pg_settings WHERE name = 'search_path' AND source = 'client'"


def upgrade(engine: Engine) -> None:
    """Bring the database to this version: creates what is absent, changes no table that exists.

    Two at once wait for each other. Raises SchemaError if a newer levelq made the tables, and SQLAlchemy's errors; then
    nothing is changed.
    """
    with engine.begin() as connection:
        connection.execute(text(LOCK))
        config = _config(connection)
        _known_version(config, connection)
        command.upgrade(config, "head")
        if _lacks_a_table(connection):
            _create_absent(config, sql=False)


def upgrade_sql(engine: Engine) -> str:
    """The statements that `upgrade` would run on this database now, as one transaction; "" if there are none.

    Reads the database, in a read-only transaction. Raises SchemaError as `upgrade` does, and SQLAlchemy's errors.
    """
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        config = _config(connection)
        current = _known_version(config, connection)
        head = ScriptDirectory.from_config(config).get_current_head()
        if current == head and not _lacks_a_table(connection):
            return ""
        config.attributes["search_path"] = connection.execute(text(_SEARCH_PATH)).scalar()
        config.output_buffer = io.StringIO()
        if current == head:
            _create_absent(config, sql=True)
        else:
            command.upgrade(config, f"{current}:{head}" if current else "head", sql=True)
        return config.output_buffer.getvalue()


def inspector() -> Inspector:
    """For migrations: what is in the database before this upgrade, or by now if it is being upgraded."""
    connection: Connection = context.config.attributes["connection"]
    return inspect(connection)


def _known_version(config: Config, connection: Connection) -> str | None:
    """The version of levelq's tables, None if there are none. Raises SchemaError if this levelq does not know it."""
    current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        expected = f"{VERSION_TABLE}: expected a version up to {scripts.get_current_head()}, got {quoted(current)}"
        why = "a newer levelq made these tables; run `levelq db upgrade` of that version"
        raise SchemaError(f"{expected}: {why}", table=VERSION_TABLE)
    return current


def _lacks_a_table(connection: Connection) -> bool:
    there = inspect(connection)
    return not all(there.has_table(name) for name in REQUIRED)


def _create_absent(config: Config, *, sql: bool) -> None:
    """Create the missing tables of a database whose version is current: some were dropped, or its 0001 was older.

    The first migration creates what is absent and changes no table that exists, so it can run again.
    """
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()

    def create(_revision: Any, _context: Any) -> list[Any]:
        scripts.get_revision("0001").module.upgrade()
        return []

    start = head if sql else None  # a printed script cannot check the present version
    with EnvironmentContext(config, scripts, fn=create, as_sql=sql, starting_rev=start, destination_rev=head):
        scripts.run_env()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config

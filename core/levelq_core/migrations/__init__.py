"""Alembic migrations, shipped in the package: `levelq db upgrade` runs them."""

from __future__ import annotations

import io
from pathlib import Path

from alembic import command, context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Inspector, inspect, text

VERSION_TABLE = "levelq_alembic_version"
LOCK = f"SELECT pg_advisory_xact_lock({0x6C6576656C71})"  # "levelq": any number, but the same for every upgrade

# The search path, if the connection itself chose it: psql, on the same role and database, would not have it.
_SEARCH_PATH = "SELECT setting FROM pg_settings WHERE name = 'search_path' AND source = 'client'"


def upgrade(engine: Engine) -> None:
    """Bring the database to this version: creates what is absent, changes no table that exists.

    Two at once wait for each other. Raises SQLAlchemy's errors; then nothing is changed.
    """
    with engine.begin() as connection:
        connection.execute(text(LOCK))
        command.upgrade(_config(connection), "head")


def upgrade_sql(engine: Engine) -> str:
    """The statements that `upgrade` would run on this database now, as one transaction; "" if there are none.

    Reads the database, in a read-only transaction. Raises SQLAlchemy's errors.
    """
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        config = _config(connection)
        current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
        head = ScriptDirectory.from_config(config).get_current_head()
        if current == head:
            return ""
        config.attributes["search_path"] = connection.execute(text(_SEARCH_PATH)).scalar()
        config.output_buffer = io.StringIO()
        command.upgrade(config, f"{current}:{head}" if current else "head", sql=True)
        return config.output_buffer.getvalue()


def inspector() -> Inspector:
    """For migrations: what is in the database before this upgrade, or by now if it is being upgraded."""
    connection: Connection = context.config.attributes["connection"]
    return inspect(connection)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config

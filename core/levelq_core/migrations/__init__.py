"""Alembic migrations, shipped in the package: `levelq db upgrade` runs them."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

VERSION_TABLE = "levelq_alembic_version"
_LOCK = 0x6C6576656C71  # "levelq": any number, but the same for every upgrade


def upgrade(engine: Engine) -> None:
    """Bring the database to this version: creates what is absent, changes no table that exists.

    Two at once wait for each other. Raises SQLAlchemy's errors; then nothing is changed.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

"""Alembic's entry point: the caller passes the connection, inside the transaction that upgrade() holds."""

from __future__ import annotations

from alembic import context

from levelq_core.migrations import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()

"""Alembic's entry point: the caller passes the connection, inside the transaction that upgrade() holds.

In offline mode the statements are printed: migrations read what is there through `inspector` of this package,
because alembic's own connection then answers nothing.
"""

from __future__ import annotations

from alembic import context

from levelq_core.database.migrations import LOCK, VERSION_TABLE

attributes = context.config.attributes
if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # with psycopg's, each % would be printed twice
        literal_binds=True,
        version_table=VERSION_TABLE,
    )
else:
    context.configure(connection=attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    if context.is_offline_mode():
        if attributes["search_path"] is not None:
            context.execute(f"SET LOCAL search_path TO {attributes['search_path']}")
        context.execute(LOCK)
    context.run_migrations()

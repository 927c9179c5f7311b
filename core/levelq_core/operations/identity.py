"""The identity of the connected database, and whether the namespace is bound to it; see lanes/namespace_binding.py."""

from __future__ import annotations

from contextlib import closing, suppress
from uuid import UUID

from redis.exceptions import RedisError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core.database.schema import IDENTITY
from levelq_core.errors import SchemaError
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.namespace_binding import DatabaseIdentity, bound_to, require_same
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings


def identity_of(connection: Connection) -> DatabaseIdentity:
    """Read it. Raises SchemaError if the table has no row, DBAPIError."""
    row = connection.execute(_IDENTITY).one_or_none()
    if row is None:
        raise SchemaError(
            f"{IDENTITY}: expected one row, found none; a worker's start or `levelq namespace rebind` adds it",
            table=IDENTITY,
        )
    # A function that the role may not call is an error even where the statement would not reach it: two statements.
    system = connection.execute(_SYSTEM).scalar_one() if connection.execute(_MAY_READ_SYSTEM).scalar_one() else None
    return DatabaseIdentity(UUID(str(row.identity)), system, row.oid, row.name, _server(connection))


def ensure_identity(engine: Engine) -> DatabaseIdentity:
    """The same for a worker: a table that was emptied gets a new identity. Raises DBAPIError."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        if connection.execute(_IDENTITY).one_or_none() is None:
            connection.execute(_ADD)
        return identity_of(connection)


def require_bound(connection: Connection, lanes: Lanes) -> None:
    """Raise WrongDatabase if the namespace is bound to another database; it may be bound to none yet.

    Raises RedisError, DBAPIError, ConfigurationError.
    """
    bound = bound_to(lanes)
    if bound is not None:
        require_same(lanes.keys.namespace, bound, identity_of(connection))


def require_ours(engine: Engine, settings: Settings) -> None:
    """The same for a reader of the ledger, which goes on if this cannot be checked now."""
    with (
        suppress(RedisError, DBAPIError, SchemaError),
        closing(connect(settings.redis_url, settings.redis_seconds)) as redis,
        engine.connect() as connection,
    ):
        require_bound(connection, Lanes(redis, settings))


def _server(connection: Connection) -> str:
    """Host and port that this connection reached; for a socket, its folder."""
    info = connection.connection.driver_connection.info  # type: ignore[union-attr]
    return str(info.host) if str(info.host).startswith("/") else f"{info.host}:{info.port}"


# This database's row, its number in the cluster and its name.
_IDENTITY = text(f"""
    SELECT i.identity, d.oid::bigint AS oid, d.datname::text AS name
    FROM {IDENTITY} i CROSS JOIN pg_catalog.pg_database d
    WHERE d.datname = current_database() ORDER BY i.created_at, i.identity LIMIT 1
""")

# Any role may call it, unless the operator revoked it.
_MAY_READ_SYSTEM = text("SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')")

# Given by initdb, kept by every physical copy.
_SYSTEM = text("SELECT system_identifier::text FROM pg_catalog.pg_control_system()")

# One row: of two transactions at once, the first adds it.
_ADD = text(f"INSERT INTO {IDENTITY} (identity) VALUES (gen_random_uuid()) ON CONFLICT DO NOTHING")

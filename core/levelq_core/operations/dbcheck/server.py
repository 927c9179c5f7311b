"""The server: its version, whether it takes writes and keeps commits, and whether the connection is safe."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from sqlalchemy import Connection, text

from levelq_core.database.schema import encoding_fault
from levelq_core.redis_client.encryption import is_loopback

from .finding import Finding, QueryCheck

NAME = "LEVELQ_DATABASE_URL"
READ_ONLY = "the database is read-only, so nothing can be applied"
OLDEST = 14  # pg_current_xact_id as the ledger uses it came with 13; 13 itself is no longer maintained


def check_server(connection: Connection, encoding: str) -> Iterator[Finding]:
    """Yield what is wrong with the server's version and settings, and with the database's encoding."""
    yield from _TOO_OLD.find(connection, oldest=OLDEST)
    for problem in encoding_fault(encoding):
        yield Finding("error", problem, (_MOVED,))
    if encoding not in ("UTF8", "SQL_ASCII"):
        problem = f"the database's encoding is {encoding}: a command whose reason it cannot hold is rejected"
        yield Finding("warning", problem, (_MOVED,))
    for option, source, database, role in connection.execute(_UNSAFE):
        problem = f"{option} is off: a crash of the server can lose or damage what was committed"
        yield Finding("error", problem, _reset(option, "on", source, database, role))
    yield from check_read_only(connection)
    yield from check_encryption(connection)


def check_read_only(connection: Connection) -> Iterator[Finding]:
    """Yield why nothing can be written, if transactions of this role are read-only."""
    in_recovery, read_only, source, database, role = connection.execute(_READ_ONLY).one()
    if in_recovery:
        primary = "-- let LEVELQ_DATABASE_URL lead to the primary; of several hosts: target_session_attrs=read-write"
        yield Finding("error", f"{READ_ONLY}: it is a standby", (primary,))
    elif read_only:
        fix = _reset("default_transaction_read_only", "off", source, database, role)
        # First in this session, or the statements below are refused as writes.
        first = () if fix[0].startswith("--") else ("SET default_transaction_read_only = off;",)
        yield Finding("error", f"{READ_ONLY}: default_transaction_read_only is on", (*first, *fix))


def check_encryption(connection: Connection) -> Iterator[Finding]:
    """Yield a warning if the connection to another host is not encrypted or not verified."""
    raw = connection.connection.driver_connection
    if not isinstance(raw, psycopg.Connection) or is_loopback(raw.info.host):
        return
    host, mode = raw.info.host, raw.info.get_parameters().get("sslmode", "prefer")
    fix = ("-- give LEVELQ_DATABASE_URL the options sslmode=verify-full&sslrootcert=/path/to/ca.pem",)
    if not raw.pgconn.ssl_in_use:
        yield Finding("warning", f"{NAME}: the connection to {host} is not encrypted", fix, "encryption")
    elif mode != "verify-full":
        problem = f"{NAME}: with sslmode={mode} it is not verified that the server is {host}"
        yield Finding("warning", problem, fix, "encryption")


def _reset(option: str, value: str, source: str, database: str, role: str) -> tuple[str, ...]:
    """The statement that changes the option where it was set: in the database, the role, the URL or the server."""
    owners = {
        "database": f"DATABASE {database}",
        "user": f"ROLE {role}",
        "database user": f"ROLE {role} IN DATABASE {database}",
    }
    if source in owners:
        return (f"ALTER {owners[source]} RESET {option};",)
    if source == "command line":
        return (f"-- take {option} off the command line that starts the server, then restart it",)
    if source in ("client", "session", "environment variable"):
        return (f"-- take {option} out of the options of LEVELQ_DATABASE_URL (or of PGOPTIONS)",)
    return (f"ALTER SYSTEM SET {option} = {value};", "SELECT pg_reload_conf();")


_MOVED = "-- load a dump (pg_dump) into a database made with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"

_TOO_OLD = QueryCheck(
    """
    SELECT current_setting('server_version') AS version, CAST(:oldest AS int) AS oldest
    WHERE current_setting('server_version_num')::int < CAST(:oldest AS int) * 10000
    """,
    "PostgreSQL {version} is too old: {oldest} is the least",
    "-- move the database to PostgreSQL {oldest} or later",
)

# Which options that keep commits safe are off, and where that was set.
_UNSAFE = text("""
    SELECT name, source, quote_ident(current_database()), quote_ident(session_user) FROM pg_settings
    WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off' ORDER BY name
""")

# Whether transactions can write, and where default_transaction_read_only was set. Not whether this one can: an
# application may give the readings an engine with postgresql_readonly.
_READ_ONLY = text("""
    SELECT pg_is_in_recovery(), setting = 'on', source, quote_ident(current_database()), quote_ident(session_user)
    FROM pg_settings WHERE name = 'default_transaction_read_only'
""")

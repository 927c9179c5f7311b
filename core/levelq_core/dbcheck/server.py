"""The server: its age, and whether a commit there is a commit."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from levelq_core.schema import encoding_fault

from .finding import Finding

OLDEST = 14  # pg_current_xact_id as the ledger uses it came with 13; 13 itself is no longer maintained


def check_server(connection: Connection, encoding: str) -> Iterator[Finding]:
    """Yield what is wrong with the server's version and settings, and with the database's encoding."""
    version, name = connection.execute(_VERSION).one()
    if version < OLDEST * 10_000:
        mend = f"-- move the database to PostgreSQL {OLDEST} or later"
        yield Finding("error", f"PostgreSQL {name} is too old: {OLDEST} is the least", (mend,))
    for problem in encoding_fault(encoding):
        yield Finding("error", problem, (_MOVED,))
    if encoding not in ("UTF8", "SQL_ASCII"):
        problem = f"the database's encoding is {encoding}: a command whose reason it cannot hold is rejected"
        yield Finding("warning", problem, (_MOVED,))
    for option, source, database, role in connection.execute(_UNSAFE):
        problem = f"{option} is off: a crash of the server can lose or damage what was committed"
        yield Finding("error", problem, _switched_on(option, source, database, role))


def _switched_on(option: str, source: str, database: str, role: str) -> tuple[str, ...]:
    """The statement for the place where it was switched off."""
    if source == "database":
        return (f"ALTER DATABASE {database} RESET {option};",)
    if source == "user":
        return (f"ALTER ROLE {role} RESET {option};",)
    if source == "database user":
        return (f"ALTER ROLE {role} IN DATABASE {database} RESET {option};",)
    if source == "command line":
        return (f"-- take {option} off the command line that starts the server, then restart it",)
    if source in ("client", "session", "environment variable"):
        return (f"-- take {option} out of the options of LEVELQ_DATABASE_URL (or of PGOPTIONS)",)
    return (f"ALTER SYSTEM SET {option} = on;", "SELECT pg_reload_conf();")


_MOVED = "-- load a dump (pg_dump) into a database made with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"

_VERSION = text("SELECT current_setting('server_version_num')::int, current_setting('server_version')")

# Which options that keep commits safe are off, and where that was said.
_UNSAFE = text("""
    SELECT name, source, quote_ident(current_database()), quote_ident(session_user) FROM pg_settings
    WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off' ORDER BY name
""")

"""A real pgbouncer in transaction mode in front of a site's PostgreSQL."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from tests.support.fixtures.waiting import until

PORT = 6432  # of its socket's name: nothing listens on the network
ACCOUNT = "levelq_postgres"  # it refuses to run as root; this one may reach PostgreSQL's socket

_CONFIGURATION = """
[databases]
postgres = host={sockets} port=5432 user=postgres

[pgbouncer]
unix_socket_dir = {sockets}
listen_port = {port}
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 200
query_wait_timeout = 30
"""


class Pooler:
    """pgbouncer with this number of connections to the server whose sockets are in this folder."""

    def __init__(self, sockets: Path, connections: int) -> None:
        self._sockets = sockets
        self._configuration = sockets / "pgbouncer.ini"
        self._configuration.write_text(
            _CONFIGURATION.format(sockets=sockets, port=PORT, connections=connections), encoding="utf-8"
        )
        self._configuration.chmod(0o644)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._sockets}&port={PORT}"

    def start(self) -> None:
        """Start it, and wait until it passes a connection on."""
        command: list[str | Path] = ["pgbouncer", "--quiet", "--user", ACCOUNT, self._configuration]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._passes, what="pgbouncer to pass a connection on")

    def _passes(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url).close()
            return True
        assert self._process is not None and self._process.poll() is None, "pgbouncer has ended"
        return False

    def kill(self) -> None:
        """End it at once, with all that went through it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            (self._sockets / f".s.PGSQL.{PORT}").unlink(missing_ok=True)


@contextmanager
def pooled(sockets: Path, connections: int) -> Iterator[Pooler]:
    """One, until the end."""
    pooler = Pooler(sockets, connections)
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.kill()

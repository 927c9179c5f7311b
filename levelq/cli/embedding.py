"""`levelq up`: the embedded servers as long as the command runs."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer
from rich.text import Text

from levelq.embedded import Server, Servers
from levelq.server_account import NAME
from levelq_core.database.engine import engine_for
from levelq_core.database.migrations import upgrade
from levelq_core.errors import ConfigurationError
from levelq_core.settings import Settings
from levelq_worker.process.fork import reap_orphans
from levelq_worker.process.startup import hand_over_unblocked, stop_signals

from .screen import err

_LOOK_SECONDS = 1.0  # how soon the death of a server is noticed


class Stopped(BaseException):
    """A signal asked for the end."""


def run_servers(data: Path) -> None:
    """Start both servers on the folder, migrate, print the URLs, wait for a stop signal, stop.

    Raises ConfigurationError if the folder is in use, or if a server does not start or dies.
    """
    stops = stop_signals()

    def stop(*_: object) -> NoReturn:
        for number in stops:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the servers' own stop
        raise Stopped

    try:
        for number in stops:
            signal.signal(number, stop)
        hand_over_unblocked()
        with locked(data), Servers(data) as servers:
            _migrate(servers)
            _announce(data, servers)
            _watch(servers.postgres, servers.valkey)
    except Stopped:
        err.print(f"Stopped. The data stays in {data}.", markup=False, soft_wrap=True)


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the folder for this process. Raises ConfigurationError if another holds it."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / "lock").open("a+")
    except OSError as error:
        raise ConfigurationError(f"--data {data}: {error.strerror}; give a folder that can be written") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise ConfigurationError(
                f"--data {data}: in use by a `levelq up` (process {holder}); stop it, or give another folder"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _migrate(servers: Servers) -> None:
    engine = engine_for(Settings.load(database_url=servers.postgres.url), name="levelq up")
    try:
        upgrade(engine)
    finally:
        engine.dispose()


def _announce(data: Path, servers: Servers) -> None:
    """The export lines alone go to stdout, so that a script can read them."""
    err.print(
        Text(f"PostgreSQL and Valkey are up; their data is in {data}. In another terminal, paste:"), soft_wrap=True
    )
    cluster = servers.postgres.folder
    if data.resolve() not in cluster.parents:
        err.print(
            Text(f"PostgreSQL's data is in {cluster}, because its account {NAME} cannot reach {data}."), soft_wrap=True
        )
    for name, url in (("LEVELQ_REDIS_URL", servers.valkey.url), ("LEVELQ_DATABASE_URL", servers.postgres.url)):
        typer.echo(f"export {name}={shlex.quote(url)}")
    err.print(
        Text("then: levelq worker, levelq send level-up 42 PLAYER --xp 150. Ctrl-C here stops both."), soft_wrap=True
    )


def _watch(*servers: Server) -> NoReturn:
    """Wait for a signal; a server that dies before that is an error."""
    while True:
        for server in servers:
            if server.process is None or server.process.poll() is not None:
                raise ConfigurationError(f"{server.name} has ended by itself; the end of {server.log} says why")
        reap_orphans({server.process.pid for server in servers if server.process is not None})
        time.sleep(_LOOK_SECONDS)

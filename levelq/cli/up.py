"""`levelq up`: the embedded servers, as long as the command runs."""

from __future__ import annotations

import fcntl
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from typer import Option, echo

from .screen import err, print_line, refused

if TYPE_CHECKING:
    from levelq.embedded import Server, Servers

_DATA_HELP = "Where the data is kept; made if it does not exist."
_FSYNC_HELP = "Valkey writes each command to disk before it answers; sends wait for that (durability fsync)."
_POLL_SECONDS = 1.0  # how soon the death of a server is noticed
_NEXT_STEPS = """
These lines are the same at each start on this folder. Then:

  levelq worker &                            a worker, which applies what is sent
  levelq send level-up 42 PLAYER --xp 1500   send a level-up, and see its outcome
  levelq status                              see what waits, and what is wrong

Ctrl-C here stops both servers."""


def up(
    data: Annotated[Path, Option(metavar="FOLDER", help=_DATA_HELP)] = Path("levelq-data"),
    fsync: Annotated[bool, Option("--fsync", help=_FSYNC_HELP)] = False,
) -> None:
    """Run PostgreSQL and Valkey until Ctrl-C.

    They come from wheels, without Docker or root, and keep their data in a folder. Creates levelq's tables and
    prints export lines to paste into another terminal; for one folder they are the same at each start. For
    development; needs levelq\\[embedded].
    """
    from levelq.embedded import Servers, lasting_sockets
    from levelq.laboratory.shutdown import Interrupts
    from levelq_core.database.engine import engine_open
    from levelq_core.database.migrations import upgrade
    from levelq_core.settings import Settings

    try:
        with Interrupts(), _locked(data), Servers(data, lasting_sockets(data), fsync=fsync) as servers:
            with engine_open(Settings.load(database_url=servers.postgres.url), name="levelq up") as engine:
                upgrade(engine)
            _announce(data, servers, fsync=fsync)
            _watch(servers.postgres, servers.valkey)
    except KeyboardInterrupt:
        print_line(f"Stopped. The data stays in {data}.", on=err)


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Hold the folder for this process. Raises ConfigurationError if another process holds it."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / "lock").open("a+")
    except OSError as error:
        raise refused(f"--data {data}: {error.strerror}; give a folder that can be written") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            advice = f"in use by a `levelq up` (process {holder}); stop it, or give another folder"
            raise refused(f"--data {data}: {advice}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _announce(data: Path, servers: Servers, *, fsync: bool) -> None:
    """Only the export lines go to stdout, so that a script can read them."""
    from levelq.server_account import NAME

    print_line(f"PostgreSQL and Valkey are up; their data is in {data}.", on=err)
    cluster = servers.postgres.folder
    if data.resolve() not in cluster.parents:
        print_line(f"PostgreSQL's data is in {cluster}, because its account {NAME} cannot reach {data}.", on=err)
    print_line("In another terminal, paste:", on=err)
    print_line("", on=err)
    exported = {"LEVELQ_REDIS_URL": servers.valkey.url, "LEVELQ_DATABASE_URL": servers.postgres.url}
    exported |= {"LEVELQ_DURABILITY": "fsync"} if fsync else {}
    for name, value in exported.items():
        echo(f"export {name}={shlex.quote(value)}")
    for line in _NEXT_STEPS.splitlines():
        print_line(line, on=err)


def _watch(*servers: Server) -> NoReturn:
    """Wait for a signal. Raises ConfigurationError if a server dies before."""
    from levelq_worker.process.fork import reap_orphans

    while True:
        for server in servers:
            if server.process is None or server.process.poll() is not None:
                raise refused(f"{server.name} has ended by itself; the end of {server.log} says why")
        reap_orphans({server.process.pid for server in servers if server.process is not None})
        time.sleep(_POLL_SECONDS)

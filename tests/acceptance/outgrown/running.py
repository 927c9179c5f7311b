"""Real workers and the traffic of the chaos run, on whatever Redis a test has set up; at the end the checker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom
from typing import Self

import psutil
from redis import Redis
from sqlalchemy import Engine, text

from levelq_core import Settings
from levelq_core.database.engine import engine_for
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.partition_directory import partitions
from levelq_core.operations.verify import Options, Report, verify
from levelq_core.redis_client.pool import connect
from tests.chaos.traffic import MATCHES, SPECIALIZATIONS
from tests.support.fixtures.waiting import until

USERS = {"producer 1": (1, 60), "producer 2": (61, 120), "outbox": (121, 160)}
LAST_USER = 160


class Running:
    """Starts everything, and ends it with the block."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self.settings = settings
        self.seed = SystemRandom().getrandbits(32)
        self._stack = ExitStack()
        self._traffic: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        print(f"TRAFFIC_SEED={self.seed}")
        self._stack.callback(self._end)
        self.engine: Engine = engine_for(self.settings, name="test", connections=4)
        self._stack.callback(self.engine.dispose)
        with self.engine.begin() as connection:
            connection.execute(text(MATCHES))
        self.redis: Redis = self._stack.enter_context(connect(self.settings.redis_url, 5))
        self.lanes = Lanes(self.redis, self.settings)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_workers(self, *arguments: str, inside: Sequence[str] = (), **environment: str) -> subprocess.Popen[bytes]:
        """A `levelq worker`; `inside`: a command that runs it elsewhere."""
        process = self._process("workers", "levelq", "worker", *arguments, inside=inside, **environment)
        self.workers.append(process)
        return process

    def start_operator(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A `levelq` command."""
        (self._folder / "operator.log").unlink(missing_ok=True)
        return self._process("operator", "levelq", *arguments)

    def levelq(self, *arguments: str) -> int:
        """Run a `levelq` command to its end; its exit code."""
        return self.start_operator(*arguments).wait(60)

    def output(self) -> str:
        """The output of the last command."""
        return (self._folder / "operator.log").read_text()

    def start_traffic(self, *, direct: bool = True) -> None:
        """Producers, an application with an outbox, and direct calls on the rows of all users."""
        for name, (first, last) in (USERS | ({"direct": (1, LAST_USER)} if direct else {})).items():
            history = self._folder / f"{name.replace(' ', '-')}.jsonl"
            role, seed = name.partition(" ")[0], f"{self.seed} {name}"
            arguments = (role, str(first), str(last), seed, str(history))
            self._traffic.append(self._process(name, "tests.chaos.traffic", *arguments))
        until(lambda: self.decided() > 200, 30, "the first commands")

    def stop_traffic(self) -> None:
        """End the traffic; each process finishes what it was sending."""
        for process in self._traffic:
            process.terminate()
        for process in self._traffic:
            assert process.wait(30) == 0, self.logs()

    def decided(self) -> int:
        """How many commands the ledger has."""
        with self.engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM levelq_ledger")).scalar_one())

    def sessions(self) -> int:
        """How many PostgreSQL sessions the workers have."""
        mine = "datname = current_database() AND application_name IN ('levelq worker', 'levelq relay')"
        with self.engine.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM pg_stat_activity WHERE {mine}")).scalar_one())

    def goes_on(self, commands: int = 400) -> None:
        """Wait until this number of further commands is decided."""
        before = self.decided()
        until(lambda: self.decided() > before + commands, 30, f"{commands} more commands")

    def at_rest(self) -> Report:
        """End the traffic, wait until all is decided, and verify."""
        self.stop_traffic()
        until(self._empty, 60, "the lanes and the outbox to be empty")
        options = Options(history=sorted(self._folder.glob("*.jsonl")), at_rest=True)
        return verify(self.engine, self.redis, self.settings, options)

    def _empty(self) -> bool:
        with self.engine.connect() as connection:
            if connection.execute(text("SELECT count(*) FROM levelq_outbox")).scalar_one():
                return False
        return not any(self.lanes.status(partition).waiting for partition in partitions(self.lanes, SPECIALIZATIONS))

    def logs(self) -> str:
        """The last lines of every process."""
        found = [(path.name, path.read_text().splitlines()[-20:]) for path in sorted(self._folder.glob("*.log"))]
        return "\n".join(f"{name}:\n" + "\n".join(lines) for name, lines in found)

    def _process(
        self, name: str, module: str, *arguments: str, inside: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name.replace(' ', '-')}.log").open("ab") as log:
            return subprocess.Popen(
                [*inside, sys.executable, "-m", module, *arguments],
                env=os.environ | self.settings.environment() | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _end(self) -> None:
        for process in (*self.workers, *self._traffic):
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
                process.wait()

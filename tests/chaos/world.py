"""What a run consists of: two servers, a network to each, workers under supervisors, and the traffic."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Self

import psutil
from redis import Redis
from sqlalchemy import Engine, text

from levelq.embedded import Servers
from levelq_core import Settings
from levelq_core.database.engine import engine_for
from levelq_core.database.migrations import upgrade
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.wakeups import Waker
from levelq_core.operations.verify import Recorder
from levelq_core.redis_client.pool import connect
from tests.chaos import traced_worker
from tests.chaos.traffic import MATCHES, SPECIALIZATIONS
from tests.support.fixtures.proxy import Proxy
from tests.support.fixtures.waiting import until

CLAIM_SECONDS, SWEEP_SECONDS, REDIS_SECONDS = 1.5, 0.3, 0.5
SUPERVISORS, PROCESSES = 2, 2
PARTITIONS = [Partition(name) for name in SPECIALIZATIONS]
# Users of each process. Fewer lanes in a partition than the heads that status looks at: its oldest is the oldest.
USERS = {"producer 1": (1, 40), "producer 2": (41, 80), "producer 3": (81, 120), "outbox": (121, 160)}
DIRECT = "direct"


class World:
    """Starts everything; ends it with the block, whatever happened."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self._stack = ExitStack()
        # A server ends with the thread that started it (PR_SET_PDEATHSIG): these live as long as the world.
        self.threads = self._stack.enter_context(ThreadPoolExecutor(2))
        self._generation = 0
        self.servers = Servers(folder / "data")
        self.servers.valkey.options = ("--appendfsync", "always")  # so that nothing acknowledged may be lost
        self.supervisors: list[subprocess.Popen[bytes]] = []
        self.traffic: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        stack = self._stack
        stack.enter_context(self.servers)
        sockets = self.servers.sockets
        self.to_redis = stack.enter_context(Proxy(str(sockets / "valkey.sock")))
        self.to_postgres = stack.enter_context(Proxy(str(sockets / ".s.PGSQL.5432")))
        stack.callback(self._end_processes)
        times = {"claim_seconds": CLAIM_SECONDS, "sweep_seconds": SWEEP_SECONDS, "redis_seconds": REDIS_SECONDS}
        self.settings = Settings.load(
            redis_url=self.servers.valkey.url, database_url=self.servers.postgres.url, **times
        )
        self.behind_proxies = Settings.load(
            redis_url=f"redis://127.0.0.1:{self.to_redis.port}/0",
            database_url=f"postgresql://postgres@127.0.0.1:{self.to_postgres.port}/postgres",
            **times,
        )
        self.engine: Engine = engine_for(self.settings, name="chaos", connections=4)
        stack.callback(self.engine.dispose)
        upgrade(self.engine)
        with self.engine.begin() as connection:
            connection.execute(text(MATCHES))
        self.redis: Redis = stack.enter_context(connect(self.settings.redis_url, 5))
        self.lanes = Lanes(self.redis, self.settings)
        self.waker = Waker(self.redis, self.redis, self.settings.keys)
        for _ in range(SUPERVISORS):
            self.start_supervisor()
        for name in (*USERS, DIRECT):
            self.start_traffic(name)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def histories(self) -> list[Path]:
        """The replies to producers, the claims of workers, and how long recoveries took."""
        return sorted(self.folder.glob("*.jsonl"))

    def start_supervisor(self) -> subprocess.Popen[bytes]:
        """A `levelq worker` behind the proxies."""
        module = traced_worker.MODULE
        self.supervisors.append(self._process("workers", self.behind_proxies, module, str(PROCESSES), *SPECIALIZATIONS))
        return self.supervisors[-1]

    def start_traffic(self, name: str) -> None:
        """One process of the traffic; a history of its own, as one that was killed may have left half a line."""
        self._generation += 1
        first, last = USERS.get(name, (1, 160))
        role = name.partition(" ")[0]
        history = self.folder / f"{name.replace(' ', '-')}-{self._generation}.jsonl"
        settings = self.behind_proxies if role == "producer" else self.settings
        seed = f"{self.seed} {name} {self._generation}"
        self.traffic[name] = self._process(
            name, settings, "tests.chaos.traffic", role, str(first), str(last), seed, str(history)
        )

    def _process(self, name: str, settings: Settings, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name.replace(' ', '-')}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=os.environ | settings.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def children(self) -> list[psutil.Process]:
        """The worker processes, the longest living first."""
        found: list[psutil.Process] = []
        for supervisor in self.supervisors:
            try:
                found += psutil.Process(supervisor.pid).children()
            except psutil.NoSuchProcess:
                continue
        return sorted(found, key=lambda process: process.pid)

    def a_child(self, rng: Random) -> psutil.Process:
        """One of the workers, when there is one."""
        return rng.choice(until(self.children, 60, "a worker"))

    def stop_traffic(self) -> None:
        """Ask it to end; each finishes what it was sending, or leaves it unsent."""
        for process in self.traffic.values():
            process.terminate()
        for name, process in self.traffic.items():
            code = process.wait(60)
            if code:
                raise AssertionError(f"{name} ended with {code}:\n{self.log_of(name)}")

    def log_of(self, name: str) -> str:
        return "\n".join((self.folder / f"{name.replace(' ', '-')}.log").read_text().splitlines()[-30:])

    def decided(self) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM levelq_ledger")).scalar_one())

    def waiting(self) -> int:
        return sum(self.lanes.status(partition).waiting for partition in PARTITIONS)

    def oldest_seconds(self) -> float:
        """How long the oldest command in a lane has been there."""
        return max(self.lanes.status(partition).oldest_seconds for partition in PARTITIONS)

    def outbox(self) -> tuple[int, float]:
        """How many rows the outbox has, and the age of the oldest in seconds."""
        statement = text("SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM levelq_outbox")
        with self.engine.connect() as connection:
            count, age = connection.execute(statement).one()
        return int(count), float(age)

    def record_notes(self) -> None:
        """Move the workers' notes of claims and acknowledgements into a history."""
        with Recorder(self.folder / "notes.jsonl") as recorder:
            traced_worker.record(self.redis, PARTITIONS, recorder)

    def _end_processes(self) -> None:
        for child in self.children():
            child.kill()
        for process in (*self.supervisors, *self.traffic.values()):
            if process.poll() is None:
                process.kill()
                process.wait()

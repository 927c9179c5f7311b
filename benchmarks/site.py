"""Where a benchmark runs: both servers with durable settings, emptied before each trial."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from redis import Redis

from levelq.embedded import Servers
from levelq_core import Settings
from levelq_core.database.engine import engine_open
from levelq_core.database.migrations import upgrade
from levelq_core.keys import Partition
from levelq_worker.process.fork import with_parent

SPECIALIZATION = "PLAYER"
PARTITION = Partition(SPECIALIZATION)
ROOT = Path(__file__).parent.parent
TABLES = "specialization_progress, user_licenses, license_progressions, levelq_ledger, levelq_outbox, levelq_quarantine"
START_SECONDS, STOP_SECONDS = 60.0, 20.0

# Both rows of a learner exist already, as for nearly every command of a live system.
_LEARNERS = (
    "INSERT INTO specialization_progress (student_id, specialization_id) SELECT n, %s FROM generate_series(1, %s) n",
    "INSERT INTO user_licenses (user_id, specialization_type) SELECT n, %s FROM generate_series(1, %s) n",
)


class Site:
    """PostgreSQL and Valkey from their wheels, on disk: fsync, synchronous_commit, AOF everysec."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._servers = Servers(folder)
        # When a command was committed, to the microsecond.
        self._servers.postgres.options = ["track_commit_timestamp=on"]

    def __enter__(self) -> Site:
        self._servers.__enter__()
        self.settings = Settings.load(redis_url=self._servers.valkey.url, database_url=self._servers.postgres.url)
        self.redis = Redis.from_url(self.settings.redis_url)
        self.database = psycopg.connect(self._servers.postgres.url, autocommit=True)
        with engine_open(self.settings) as engine:
            upgrade(engine)
        return self

    def __exit__(self, *error: Any) -> None:
        self.database.close()
        self.redis.close()
        self._servers.__exit__(*error)

    @property
    def servers(self) -> dict[str, list[int]]:
        """The servers' process ids."""
        found = {"Redis": self._servers.valkey.process, "PostgreSQL": self._servers.postgres.process}
        return {name: [process.pid] for name, process in found.items() if process is not None}

    def reset(self, users: int) -> None:
        """Empty everything and insert learners; leave no work pending for PostgreSQL or the disk."""
        self._renew_valkey()
        self.database.execute(f"TRUNCATE {TABLES} RESTART IDENTITY")
        for statement in _LEARNERS:
            self.database.execute(statement, (SPECIALIZATION, users))
        self.database.execute("VACUUM ANALYZE specialization_progress, user_licenses")
        self.database.execute("CHECKPOINT")
        os.sync()

    def _renew_valkey(self) -> None:
        """Start an empty one. After FLUSHALL the heap would stay fragmented, and trials would become slower."""
        valkey = self._servers.valkey
        self.redis.connection_pool.disconnect()
        valkey.stop()
        shutil.rmtree(valkey.folder)
        valkey.start()

    def waiting(self) -> int:
        """Commands in levelq's lanes."""
        return int(self.redis.get(self.settings.keys.of(PARTITION, "count")) or 0)

    def applied(self) -> int:
        """Commands whose effect is in the database: each completes one session."""
        return self.number("SELECT coalesce(sum(completed_sessions), 0)::bigint FROM specialization_progress")

    def number(self, statement: str) -> int:
        """The only value of a query."""
        row = self.database.execute(statement).fetchone()
        assert row is not None
        return int(row[0])

    def redis_bytes(self) -> int:
        """What Redis's data takes."""
        return int(self.redis.info("memory")["used_memory_dataset"])

    def check(self, commands: int) -> None:
        """Raise AssertionError unless every command took effect once and each pair of levels is equal."""
        assert (found := self.applied()) == commands, f"{found} effects of {commands} commands"
        out_of_step = self.number("""
            SELECT count(*) FROM specialization_progress p JOIN user_licenses l
            ON l.user_id = p.student_id AND l.specialization_type = p.specialization_id
            WHERE p.current_level <> l.current_level
        """)
        assert out_of_step == 0, f"{out_of_step} pairs out of step"

    @contextmanager
    def running(
        self, name: str, *commands: Sequence[str], **environment: str
    ) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Run processes during the block, with the site's settings; their output goes to a log of that name.

        Their children end with them. Raises RuntimeError with the log's end if a process failed.
        """
        log = self.folder / f"{name}.log"
        processes = [self._start(command, log, environment) for command in commands]
        try:
            yield processes
            for process in processes:
                if process.poll() not in (None, 0):
                    raise RuntimeError(f"{name} ended with {process.returncode}: {log.read_text()[-2000:]}")
        finally:
            for process in processes:
                end(process)

    def _start(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("LEVELQ_")}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *command],
                env=kept | self.settings.environment() | {"PYTHONPATH": path} | environment,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=with_parent(signal.SIGTERM),  # noqa: PLW1509 - one system call
            )


def end(process: subprocess.Popen[bytes]) -> None:
    """End it, and all processes of its session."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until(true: Any, seconds: float, what: str) -> None:
    """Wait until a condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)

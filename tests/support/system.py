"""One installation as a test uses it: its servers, and a worker and a producer that are made at first use."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq_core import Command, LevelUp, Settings
from levelq_core.domain.codec import encode
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.protocol import Status
from levelq_core.lanes.wakeups import Waker
from levelq_producer import Outbox, Producer
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import drain_all, push, push_raw, runtime

PLAYER = Partition("PLAYER")


def up(user_id: int, xp: int = 1, specialization: str = "PLAYER", **fields: Any) -> LevelUp:
    return LevelUp(user_id=user_id, specialization=specialization, xp_gained=xp, **fields)


class System:
    """A database, a Redis, and what works on them within the test's process."""

    def __init__(self, settings: Settings, redis: Redis, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        self.redis: Any = redis
        self.lanes = Lanes(redis, settings)
        self.waker = Waker(redis, redis, settings.keys)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def changed(self, **settings: Any) -> "System":
        """The same servers and database, with other settings."""
        return System(self.settings.model_copy(update=settings), self.redis, self.engine)

    @cached_property
    def worker(self) -> Runtime:
        """A worker's runtime whose transaction is observed."""
        return self._stack.enter_context(runtime(self.settings))

    @cached_property
    def producer(self) -> Producer:
        return self._stack.enter_context(Producer(self.settings))

    @contextmanager
    def another_producer(self, **settings: Any) -> Iterator[Producer]:
        with Producer(self.settings.model_copy(update=settings)) as made:
            yield made

    def commit(self, *commands: Command, settings: Settings | None = None, reply: bool = False) -> list[Any]:
        """Commit commands to the outbox, as an application does; their handles."""
        with Session(self.engine) as session:
            handles = Outbox(session, settings=settings or self.settings).send_many(commands, reply=reply)
            session.commit()
            return handles

    def push(self, *commands: Command) -> None:
        """Append commands to their lanes, one by one."""
        push(self.worker, commands)

    def push_raw(self, user_id: int, payload: bytes) -> None:
        push_raw(self.worker, "PLAYER", user_id, payload)

    def fill(self, commands: int, users: int = 50) -> None:
        """Append this number of commands without waking a drain."""
        lanes: dict[int, list[bytes]] = {}
        for n in range(commands):
            user_id = 1 + n % users
            lanes.setdefault(user_id, []).append(encode(up(user_id)))
        self.lanes.push([(PLAYER, list(lanes.items()))])

    def drain(self, *specializations: str) -> None:
        """Drain until nothing waits."""
        drain_all(self.worker, *(specializations or ("PLAYER",)))

    def run_drains(self, *partitions: Partition) -> None:
        for partition in partitions:
            Drain(self.worker, partition).run()

    def status(self, partition: Partition = PLAYER) -> Status:
        return self.lanes.status(partition)

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query), values)]

    def sql(self, *statements: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement), values)

    def applied(self) -> int:
        """How many commands are decided."""
        ((number,),) = self.rows("SELECT count(*) FROM levelq_ledger")
        return int(number)

    def total_xp(self) -> int:
        ((total,),) = self.rows("SELECT coalesce(sum(total_xp), 0) FROM specialization_progress")
        return int(total)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process to end: its exit code and its output."""
    output, _ = process.communicate(timeout=20)
    return process.returncode, output


def run_rq_worker(settings: Settings) -> subprocess.CompletedProcess[str]:
    """`rq worker -w levelq_worker.LaneWorker --burst` for PLAYER, with these settings."""
    rq = Path(sys.executable).parent / "rq"
    options = ["-w", "levelq_worker.LaneWorker", "--url", settings.queue_url, "--burst"]
    return subprocess.run(
        [str(rq), "worker", *options, settings.keys.queue("PLAYER")],
        env=os.environ | settings.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

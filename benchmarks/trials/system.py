"""The system under load that problems are planted in: servers, two workers, a steady sender, pairs in step."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any, NamedTuple, Self

import psycopg
from redis import Redis

from benchmarks.site import ROOT, Site, until
from levelq_core import Command, LevelUp
from levelq_producer import Producer

RATE = 200  # commands a second
USERS = 2_000  # whom the sender serves
PAIRS = 100_000
SERVED = ("PLAYER", "COACH")
TURN = 0.1  # seconds between two sends
COMMAND_SECONDS = 120.0
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")

# The application's own table, and a pair in step for each of its users in each specialization that is served.
_APPLICATION = (
    "CREATE TABLE users (id bigint PRIMARY KEY)",
    "INSERT INTO users SELECT generate_series(1, {users})",
    "ALTER TABLE specialization_progress ADD FOREIGN KEY (student_id) REFERENCES users (id)",
    "ALTER TABLE user_licenses ADD FOREIGN KEY (user_id) REFERENCES users (id)",
    "INSERT INTO specialization_progress (student_id, specialization_id) "
    "SELECT n, name FROM generate_series(1, {users}) n, unnest('{{{names}}}'::text[]) name",
    "INSERT INTO user_licenses (user_id, specialization_type) "
    "SELECT n, name FROM generate_series(1, {users}) n, unnest('{{{names}}}'::text[]) name",
    "VACUUM ANALYZE specialization_progress, user_licenses, users",
)


class Ran(NamedTuple):
    """A command that ended: its exit code, what it printed as one line, and how long it took."""

    code: int
    shown: str
    seconds: float


class Sender:
    """Sends a steady stream of commands from a thread, and counts those that are queued."""

    def __init__(self, producer: Producer, rate: int, users: int) -> None:
        self.queued = 0
        self.names = list(SERVED)
        self._producer, self._rate, self._users = producer, rate, users
        self._random = Random(1)
        self._lock = threading.Lock()
        self._going, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="sender")

    def __enter__(self) -> Self:
        self._thread.start()
        self._going.set()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._going.set()
        self._thread.join()

    def send(self, commands: Iterable[Command]) -> None:
        """Send these, too; those that Redis refuses are not counted."""
        with self._lock:
            handles = self._producer.send_many(list(commands), reply=False)
            self.queued += sum(handle.error is None for handle in handles)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Send nothing during the block."""
        self._going.clear()
        with self._lock:  # the turn under way has ended
            pass
        try:
            yield
        finally:
            self._going.set()

    def _run(self) -> None:
        due = time.monotonic()
        while self._going.wait() and not self._ended.wait(max(0.0, due - time.monotonic())):
            self.send(
                LevelUp(user_id=self._random.randint(1, self._users), specialization=name, xp_gained=1)
                for name in self._random.choices(self.names, k=round(self._rate * TURN))
            )
            due = max(due + TURN, time.monotonic() - 1)


class System:
    """What an operator has before them. `names_of` other sessions and clients are those of other code."""

    def __init__(self, site: Site, rate: int = RATE, users: int = USERS, pairs: int = PAIRS) -> None:
        self.site, self.rate, self.users, self.pairs = site, rate, users, pairs
        self.loop_ended = threading.Event()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def _start(self, stack: ExitStack) -> None:
        self._stack = stack
        for statement in _APPLICATION:
            self.sql(statement.format(users=self.pairs // len(SERVED), names=",".join(SERVED)))
        self.workers = self.start_worker(*SERVED, processes=2)
        producer = self._stack.enter_context(Producer(self.site.settings))
        self.sender = self._stack.enter_context(Sender(producer, self.rate, self.users))
        until(lambda: self.applied() > 3 * self.rate, 60, "the first commands")

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_worker(self, *names: str, processes: int = 1) -> subprocess.Popen[bytes]:
        """Run `levelq worker` for these specializations until the system ends."""
        chosen = [part for name in names for part in ("-s", name)]
        command = ["-m", "levelq", "worker", "--processes", str(processes), *chosen]
        return self._stack.enter_context(self.site.running("worker", command))[0]

    @property
    def environment(self) -> dict[str, str]:
        """What a command of the operator needs."""
        return self.site.settings.environment()

    def levelq(self, *arguments: str) -> Ran:
        """Run a command as an operator does."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LEVELQ_")}
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "levelq", *arguments],
            env=kept | self.environment | {"PYTHONPATH": str(ROOT), "COLUMNS": "250"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        shown = " ".join(ESCAPES.sub("", done.stdout + done.stderr).split())
        return Ran(done.returncode, shown, time.monotonic() - begun)

    def sql(self, statement: str) -> None:
        """Run a statement, as the application's administrator."""
        self.site.database.execute(statement)

    def other_session(self, name: str) -> psycopg.Connection[Any]:
        """A session of other code, in a transaction."""
        assert self.site.settings.database_url is not None
        session = psycopg.connect(self.site.settings.database_url, application_name=name)
        self._stack.callback(session.close)
        return session

    def other_client(self, name: str) -> Redis:
        """A client of Redis of other code."""
        client = Redis.from_url(self.site.settings.redis_url, client_name=name)
        self._stack.callback(client.close)
        return client

    def loop(self, turn: Callable[[], None]) -> None:
        """Do this again and again in a thread, until `loop_ended` is set."""

        def run() -> None:
            while not self.loop_ended.wait(0.02):
                turn()

        thread = threading.Thread(target=run, name="loop")
        self._stack.callback(thread.join)
        self._stack.callback(self.loop_ended.set)
        thread.start()

    def applied(self) -> int:
        """Commands whose effect is in the database: each adds one of experience."""
        return self.site.number("SELECT coalesce(sum(total_xp), 0)::bigint FROM specialization_progress")

    def faults(self) -> list[str]:
        """What is wrong once nothing is sent any more and all lanes are empty: lost or doubled effects, drift."""
        with self.sender.paused():
            drained = self.levelq("drain", "--wait", "--timeout", "90s")
            found = [] if drained.code == 0 else [drained.shown]
            checks = {
                "effects of {} commands queued": (self.applied(), self.sender.queued),
                "pairs out of step, expected {}": (self.site.number(_APART), 0),
                "commands applied twice, expected {}": (self.site.number(_TWICE), 0),
            }
            return found + [f"{seen} {what.format(right)}" for what, (seen, right) in checks.items() if seen != right]


_APART = """
    SELECT count(*) FROM specialization_progress p FULL JOIN user_licenses l
    ON l.user_id = p.student_id AND l.specialization_type = p.specialization_id
    WHERE p.current_level IS DISTINCT FROM l.current_level
"""
_TWICE = """
    SELECT count(*) FROM (SELECT FROM levelq_ledger WHERE status = 'applied' GROUP BY command_id HAVING count(*) > 1) t
"""

"""What the tests of server faults share: servers of their own, worker processes, producers that go on, the checker.

In a scene traffic flows all the time. Faults come one after the other, each is mended, and what was sent until
then is decided before the next. At the end the checker looks at all that was sent and at all that was applied.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self
from uuid import UUID

import psutil
import psycopg
from redis import Redis
from rq import Worker
from rq.serializers import JSONSerializer
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from levelq_core import Command, LevelUp, Settings
from levelq_core.engine import engine_for
from levelq_core.errors import SendUnknown
from levelq_core.lanes import Lanes
from levelq_core.migrations import upgrade
from levelq_core.partitions import Partition
from levelq_core.verify import Options, Recorder, Report, Violation, verify
from levelq_producer import Outbox, Producer
from levelq_worker.cli.overview import look
from levelq_worker.embedded import Servers
from tests.fixtures.waiting import until

PARTITIONS = [Partition("PLAYER"), Partition("COACH")]
USERS = 30  # of each producer: a lane has one writer, so the order of its sends is known
SENDERS = 2
OUTBOX_USERS = range(1 + SENDERS * USERS, 1 + (SENDERS + 1) * USERS)
PAUSE_SECONDS, FAILED_SECONDS = 0.02, 0.1  # between two sends, and after one that failed
WORK_SECONDS = 30.0  # what the backlog may take on a machine that does much else
CALL_SECONDS = 10.0  # what a producer's call may take there: its limits add up to 2 s at most
RECORD = "RECOVERIES"  # names a file that gets one JSON line per fault


class Site:
    """Servers that a test may break, and the settings of what runs on them: claims of 2 s, one lock limit 0.2 s."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = Servers(folder)
        self.servers.postgres.options = ("max_connections=40", "deadlock_timeout=50ms")
        self._scenes = 0

    def __enter__(self) -> Self:
        self.servers.__enter__()
        self.settings = Settings.load(
            redis_url=self.servers.valkey.url,
            database_url=self.servers.postgres.url,
            claim_seconds=2.0,
            sweep_seconds=0.3,
            slice_seconds=0.5,
            redis_seconds=0.5,
            batch_commands=200,
        )
        self.redis = Redis.from_url(self.servers.valkey.url)
        engine = engine_for(self.settings)
        upgrade(engine)
        engine.dispose()
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()
        self.servers.__exit__()

    def admin(self, *statements: str) -> list[Any]:
        """Run statements as the operator, on a connection of their own; the last one's rows."""
        with psycopg.connect(self.servers.postgres.url, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = local")
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def count(self, rows: str) -> int:
        """How many rows there are of `table [WHERE ...]`."""
        return int(self.admin(f"SELECT count(*) FROM {rows}")[0][0])

    def waiting(self) -> int:
        """Commands in the lanes."""
        lanes = Lanes(self.redis, self.settings)
        return sum(lanes.status(partition).waiting for partition in PARTITIONS)

    def problems(self) -> str:
        """What `levelq status` says is wrong."""
        return "\n".join(look(self.settings).problems)

    def kill_postgres(self) -> None:
        """End the postmaster and every backend at once: each backend leads a process group of its own."""
        assert self.servers.postgres.process is not None
        postmaster = psutil.Process(self.servers.postgres.process.pid)
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            process.kill()
        self.servers.postgres.kill()
        psutil.wait_procs(family, timeout=30)

    @contextmanager
    def scene(self, *fleets: Fleet) -> Iterator[Scene]:
        """Workers and producers at work."""
        self._scenes += 1
        folder = self.folder / f"scene{self._scenes}"
        folder.mkdir()
        with Scene(self, folder, fleets or [Fleet(self.settings, 2)]) as scene:
            until(scene.at_work, seconds=60, what="all workers to be at work")
            scene.flows()
            yield scene


class Fleet(NamedTuple):
    """A supervisor and its workers. `inside`: the program and arguments that put them elsewhere."""

    settings: Settings
    processes: int = 1
    inside: Sequence[str] = ()
    environment: Mapping[str, str] = {}


class Workers:
    """`levelq worker`, its log in a file."""

    def __init__(self, fleet: Fleet, log: Path) -> None:
        self._log = log
        self._read = 0
        self._processes = fleet.processes
        command = [sys.executable, "-m", "levelq_worker", "worker", "--processes", str(fleet.processes)]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [*fleet.inside, *command],
                env=os.environ | fleet.settings.environment() | dict(fleet.environment),
                stdout=out,
                stderr=out,
            )

    def at_work(self, listed: Collection[int | None]) -> bool:
        """Whether all worker processes are among these."""
        children = {child.pid for child in self.children()}
        return len(children) == self._processes and children <= set(listed)

    def children(self) -> list[psutil.Process]:
        """The worker processes under the supervisor."""
        return [c for c in psutil.Process(self.process.pid).children() if "levelq_worker.child" in c.cmdline()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every worker process."""
        for child in self.children():
            child.send_signal(number)

    @property
    def log(self) -> str:
        """All they have said."""
        return self._log.read_text(errors="replace")

    @property
    def news(self) -> str:
        """What they have said since the last `mark`."""
        return self.log[self._read :]

    def mark(self) -> None:
        """All they have said is read."""
        self._read = len(self.log)

    def stop(self) -> None:
        """Ask them to stop, and see that they do so cleanly."""
        self.process.terminate()
        assert self.process.wait(60) == 0

    def kill(self) -> None:
        """End what is left of them."""
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.send_signal(signal.SIGKILL)
            self.process.kill()
            self.process.wait()


class Traffic:
    """Producers that go on whatever they are told: two that send, one that commits to the outbox.

    What failed is sent again, with the same ids.
    """

    def __init__(self, settings: Settings, history: Path, seed: int) -> None:
        self.errors: Counter[str] = Counter()
        self.messages: set[str] = set()
        self.acknowledged = 0
        self.longest_seconds = 0.0
        self._settings = settings
        self._seed = seed
        self._stop = threading.Event()
        self._recorder = Recorder(history)
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(SENDERS)]
        self._threads.append(threading.Thread(target=self._commit, args=(SENDERS,)))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._recorder.close()

    def flows(self, commands: int = 100) -> None:
        """Wait until so many more commands are acknowledged."""
        wanted = self.acknowledged + commands
        until(lambda: self.acknowledged >= wanted, seconds=60, what=f"{commands} more commands")

    def fails(self, *names: str) -> None:
        """Wait until producers are told one of these errors some times more."""
        wanted = sum(self.errors[name] for name in names) + 3
        until(lambda: sum(self.errors[name] for name in names) >= wanted, seconds=60, what=" or ".join(names))

    def was_told(self, what: str) -> bool:
        """Whether an error said so."""
        return any(what in message for message in set(self.messages))

    def _commands(self, number: int, rng: random.Random) -> list[Command]:
        first = 1 + number * USERS
        return [
            LevelUp(
                user_id=rng.randrange(first, first + USERS),
                specialization=rng.choice(PARTITIONS).specialization,
                xp_gained=rng.randint(1, 900),
                sessions_completed=1,
            )
            for _ in range(rng.randint(1, 8))
        ]

    def _send(self, number: int) -> None:
        rng = random.Random(self._seed * 10 + number)
        with Producer(self._settings) as producer:
            failed: list[Command] = []
            while not self._stop.wait(FAILED_SECONDS if failed else PAUSE_SECONDS):
                commands = failed or self._commands(number, rng)
                self._recorder.intend(commands)
                began = time.monotonic()
                handles = producer.send_many(commands, reply=rng.random() < 0.3)
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
                failed = self._told(commands, [handle.error for handle in handles])

    def _commit(self, number: int) -> None:
        rng = random.Random(self._seed * 10 + number)
        engine = engine_for(self._settings, name="application")
        failed: list[Command] = []
        while not self._stop.wait(FAILED_SECONDS if failed else PAUSE_SECONDS):
            commands = failed or self._commands(number, rng)
            self._recorder.intend(commands)
            error: Exception | None = None
            try:
                with Session(engine) as session:
                    Outbox(session, settings=self._settings).send_many(commands)
                    session.commit()
            except SQLAlchemyError as found:
                engine.dispose()
                error = SendUnknown(str(found))
            failed = self._told(commands, [error] * len(commands))
        engine.dispose()

    def _told(self, commands: Sequence[Command], errors: Sequence[Exception | None]) -> list[Command]:
        """Record what became of a send; the commands to send again."""
        self._recorder.sent(commands, errors)
        self.errors.update(type(error).__name__ for error in errors if error is not None)
        self.messages.update(str(error) for error in errors if error is not None)
        self.acknowledged += sum(error is None for error in errors)
        return [command for command, error in zip(commands, errors, strict=True) if error is not None]


class Scene:
    """All that goes on around the faults."""

    def __init__(self, site: Site, folder: Path, fleets: Sequence[Fleet]) -> None:
        self.site = site
        seed = random.randrange(10_000)
        print(f"seed {seed}")
        self._history = folder / "history.jsonl"
        self.fleets = [Workers(fleet, folder / f"{number}.log") for number, fleet in enumerate(fleets)]
        self.traffic = Traffic(site.settings, self._history, seed)

    def __enter__(self) -> Self:
        self.traffic.__enter__()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            self.traffic.__exit__()
        finally:
            if kind is not None:
                print(self.log)
            for workers in self.fleets:
                workers.kill()

    @property
    def log(self) -> str:
        """All that the workers have said."""
        return "".join(workers.log for workers in self.fleets)

    @property
    def news(self) -> str:
        """What they have said since the fault began."""
        return "".join(workers.news for workers in self.fleets)

    def says(self, pattern: str) -> None:
        """Wait until the workers say it of this fault."""
        until(lambda: re.search(pattern, self.news), seconds=60, what=f"the log to say {pattern}")

    def at_work(self) -> bool:
        """Whether RQ lists every worker process; it still lists some that were killed."""
        with Redis.from_url(self.site.settings.queue_url) as redis:
            listed = {worker.pid for worker in Worker.all(connection=redis, serializer=JSONSerializer)}
        return all(workers.at_work(listed) for workers in self.fleets)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every worker process."""
        for workers in self.fleets:
            workers.signal(number)

    def flows(self) -> None:
        """Wait until more commands are acknowledged, and more are applied."""
        applied = self.site.count("levelq_ledger")
        self.traffic.flows()
        until(lambda: self.site.count("levelq_ledger") >= applied + 50, seconds=60, what="commands to be applied")

    def goes_on(self, seconds: float) -> None:
        """For so long and longer, what can be sent is sent, and what can be applied is applied."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.flows()

    @contextmanager
    def fault(self, kind: str, *, lines: int = 20) -> Iterator[None]:
        """A fault inside, mended at its end: then what was sent is decided in time. `lines`: of log, at most."""
        for workers in self.fleets:
            workers.mark()
        began = time.time()
        yield
        ended = time.time()
        seconds = self.site.settings.claim_seconds + self.site.settings.sweep_seconds + WORK_SECONDS
        until(lambda: self._decided_until(ended), seconds=seconds, what=f"the backlog to drain after: {kind}")
        drained = time.time()
        with Recorder(self._history) as recorder:
            recorder.recovered(kind, ended, drained, WORK_SECONDS)
        told = self.news.count("\n")
        self._record(kind, lasted=ended - began, recovered=drained - ended, lines=told)
        assert told <= lines, self.news
        self._assert_patient(self.news, drained - began)

    def _decided_until(self, moment: float) -> bool:
        lanes = Lanes(self.site.redis, self.site.settings)
        for status in map(lanes.status, PARTITIONS):
            if status.waiting and status.oldest_seconds >= time.time() - moment:
                return False
        return not self.site.count(f"levelq_outbox WHERE created_at <= to_timestamp({moment})")

    @staticmethod
    def _assert_patient(told: str, seconds: float) -> None:
        """From the fifth attempt on a worker waits for at least a quarter of a claim."""
        attempts = [int(n) for n in re.findall(r"working again after (\d+) failed", told)]
        assert max(attempts, default=0) <= 6 + 2 * seconds

    @staticmethod
    def _record(kind: str, **figures: float) -> None:
        line = json.dumps({"kind": kind} | {name: round(value, 2) for name, value in figures.items()})
        print(line)
        if RECORD in os.environ:
            with Path(os.environ[RECORD]).open("a") as record:
                record.write(line + "\n")

    def acknowledged_at(self) -> dict[UUID, float]:
        """When each command was acknowledged, at the latest."""
        lines = map(json.loads, self._history.read_text().splitlines())
        return {UUID(line["command_id"]): line["sent_at"] for line in lines if line.get("acknowledged")}

    def finish(self) -> Report:
        """End the traffic, let everything drain, stop the workers; what the checker says."""
        self.flows()
        self.traffic.__exit__()
        until(lambda: not self.site.waiting(), seconds=60, what="empty lanes")
        until(lambda: not self.site.count("levelq_outbox"), seconds=60, what="an empty outbox")
        for workers in self.fleets:
            workers.stop()
        assert "Traceback" not in self.log
        assert self.traffic.longest_seconds < CALL_SECONDS
        assert self.site.count("levelq_ledger WHERE status = 'rejected'") == 0
        assert self.site.count("levelq_quarantine") == 0
        engine = engine_for(self.site.settings)
        options = Options(history=[self._history], at_rest=True, limit=100_000)
        report = verify(engine, self.site.redis, self.site.settings, options)
        engine.dispose()
        print(*report.examples[:20], sep="\n")
        return report


def lost(report: Report) -> list[Violation]:
    """The commands that the checker misses."""
    return [example for example in report.examples if example.verdict == "lost"]

"""A load test with Locust: users on shared accounts through the real producer, then `levelq verify`'s checks.

    levelq up                        # or servers of your own; paste its two lines here and for the worker
    levelq worker --processes 2
    locust -f benchmarks/locustfile.py --headless -u 500 -r 250 -t 30s --first-user 1 --alone

Exit code 0 if the checker found nothing, 1 if it did or a send failed, 2 if it could not be done.

Locust's users are a closed loop: each sends again only after its last send, so a system that hangs gets less load. For
latencies without that flaw use `levelq loadtest`. One process only: the checker needs all histories in one process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from gevent.pool import Pool
from locust import User, events, task  # patches the standard library
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import LocalRunner
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from levelq.loadtest.remote_guard import refuse_remote
from levelq_core import LevelUp, Settings
from levelq_core.database.engine import engine_open
from levelq_core.errors import ConfigurationError, LevelqError
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.partition_directory import partitions
from levelq_core.operations.verify import Options, Recorder, Report, verify
from levelq_core.operations.verify.command_checks import LOST
from levelq_core.redis_client.pool import connect
from levelq_producer import Handle, Producer
from levelq_worker.support.preflight import preflight

OUTCOME_SECONDS = 30.0
DRAIN_SECONDS = 60.0


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("levelq")
    group.add_argument("--accounts", type=int, default=100, help="how many accounts all users share")
    group.add_argument("--first-user", type=int, default=0, help="the first account's id: these will gain levels")
    group.add_argument("--think", type=float, default=1.0, help="a user's mean pause in seconds")
    alone = "no other senders: every command is recorded, none may wait"
    group.add_argument("--alone", action="store_true", help=alone)
    group.add_argument("--allow-remote", action="store_true", help="the servers may be other machines")


class Site:
    """What all users share: one producer, and a folder with a history for each of them."""

    def __init__(self, environment: Environment) -> None:
        options: Any = environment.parsed_options
        self.settings = Settings.load()
        if options.first_user < 1 or options.accounts < 1:
            given = f"got {options.first_user} and {options.accounts}"
            raise ConfigurationError(f"--first-user, --accounts: expected at least 1, {given}: these will gain levels")
        if not options.think > 0:
            raise ConfigurationError(f"--think: expected more than 0, got {options.think}")
        if not isinstance(environment.runner, LocalRunner):
            expected = "one process, as all histories are its own"
            raise ConfigurationError(f"--master, --worker, --processes: expected {expected}")
        if not options.allow_remote:
            refuse_remote(self.settings)
        preflight(self.settings)
        self.accounts = range(options.first_user, options.first_user + options.accounts)
        self.think = options.think
        self.alone = options.alone
        self.names = list(self.settings.tracks)
        self.folder = TemporaryDirectory(prefix="levelq-locust-")
        self.numbers = count(1)
        self.recorders: list[Recorder] = []
        self.sends = Pool()
        # Without a database its handles wait for their outcomes in Redis only.
        self.producer = Producer(self.settings.model_copy(update={"database_url": None}))

    @property
    def histories(self) -> list[Path]:
        return sorted(Path(self.folder.name).glob("*.jsonl"))

    def recorder(self, number: int) -> Recorder:
        """A file for each user: order is checked within a file, and between two users it is unknown."""
        self.recorders.append(Recorder(Path(self.folder.name) / f"user-{number}.jsonl"))
        return self.recorders[-1]

    def unbroken(self, work: Callable[[], Handle]) -> Handle:
        """Finish it even if Locust kills the user meanwhile, at the end of the test.

        A web server finishes its requests, too; and a push without its wake-up would wait for 5 s.
        """
        handle: Handle = self.sends.spawn(work).get()
        return handle

    def drained(self) -> bool:
        """Whether the lanes are empty within the time limit."""
        deadline = time.monotonic() + DRAIN_SECONDS
        with connect(self.settings.redis_url, self.settings.redis_seconds) as redis:
            lanes = Lanes(redis, self.settings)
            while time.monotonic() < deadline:
                if not any(lanes.status(one).waiting for one in partitions(lanes, self.names)):
                    return True
                time.sleep(0.1)  # gevent's by now
        return False

    def verify(self, *, drained: bool) -> Report:
        options = Options(history=self.histories, at_rest=drained and self.alone, partial_history=not self.alone)
        with (
            engine_open(self.settings, name="levelq locust", connections=2) as engine,
            connect(self.settings.redis_url, self.settings.redis_seconds) as redis,
        ):
            return verify(engine, redis, self.settings, options)


def fail(error: Exception) -> None:
    sys.stderr.write(f"levelq: {' '.join(str(error).split())}\n")


shared: dict[str, Site] = {}  # of this process, once it is known that it can be


@events.init.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Environment, **_: Any) -> None:
    """Refuse what cannot be before a user exists."""
    try:
        shared["site"] = Site(environment)
    except LevelqError as error:
        fail(error)
        raise SystemExit(2) from None


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def check(environment: Environment, **_: Any) -> None:
    """Wait for the rest, and let the checker decide about the exit code."""
    site = shared["site"]
    try:
        site.sends.join()
        drained = site.drained()
        report = site.verify(drained=drained)
    except (LevelqError, RedisError, SQLAlchemyError) as error:
        fail(error)
        environment.process_exit_code = 2
        return
    for one in report.examples[:20]:
        print(f"{one.invariant} {one.verdict}: user {one.user_id}, command {one.command_id}: {one.detail}")
    cases = {check.what: check.checked for check in report.checks if not check.note}
    found = f"{report.violations:,} violations" if report.violations else "nothing"
    looked = f"among {sum(cases.values()):,} cases; commands queued: {cases[LOST.what]}"
    print(f"the checker found {found} {looked}", flush=True)
    if not drained:
        fail(TimeoutError(f"the lanes were not empty {DRAIN_SECONDS:g} s after the last send: do the workers run?"))
    if report.violations or not drained:
        environment.process_exit_code = 1


@events.quit.add_listener  # type: ignore[untyped-decorator]
def tidy(**_: Any) -> None:
    for site in shared.values():  # none, if it could not be
        site.producer.close()
        for recorder in site.recorders:
            recorder.close()
        site.folder.cleanup()


class Learner(User):
    """Levels up on any of the accounts, pauses, and now and then waits for the outcome."""

    def on_start(self) -> None:
        self.site = shared["site"]
        number = next(self.site.numbers)
        self.rng = Random(number)
        self.history = self.site.recorder(number)

    def wait_time(self) -> float:
        """Lognormal, with a long tail: one pause in a hundred is six times the mean."""
        pause: float = self.site.think * self.rng.lognormvariate(-0.5, 1.0)
        return pause

    @task(9)
    def level_up(self) -> None:
        self._measured("send", lambda: self._send(reply=False))

    @task(1)
    def level_up_and_see(self) -> None:
        handle = self._measured("send", lambda: self._send(reply=True))
        if handle is not None:
            self._measured("outcome", lambda: handle.result(OUTCOME_SECONDS))

    def _send(self, *, reply: bool) -> Handle:
        command = LevelUp(
            user_id=self.rng.choice(self.site.accounts),
            specialization=self.rng.choice(self.site.names),
            xp_gained=self.rng.randint(10, 200),
            sessions_completed=1,
            reason="load test",
        )
        self.history.intend([command])

        def send() -> Handle:
            (handle,) = self.site.producer.send_many([command], reply=reply)
            self.history.sent([command], [handle.error])
            return handle

        handle = self.site.unbroken(send)
        if handle.error is not None:
            raise handle.error
        return handle

    def _measured(self, what: str, work: Callable[[], Any]) -> Any:
        """What the work returns, or None if it failed; reports either to Locust."""
        begun, result, failure = time.perf_counter(), None, None
        try:
            result = work()
        except LevelqError as error:
            failure = error
        self.environment.events.request.fire(
            request_type=what, name="level_up", response_time=1000 * (time.perf_counter() - begun), response_length=0,
            exception=failure, context={},
        )  # fmt: skip
        return result

"""Worker processes as an operator runs them: started, stopped, killed, frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from redis import Redis
from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from levelq_core import Settings
from levelq_core.lanes.wakeups import FUNCTION
from levelq_worker.draining.context import current
from levelq_worker.rq_adapter.worker import LaneJob, LaneWorker
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started, children
from tests.support.fixtures.waiting import until
from tests.support.system import PLAYER, System, ended, run_rq_worker

Start = Callable[..., Started]
QUEUE = KEYS.queue("PLAYER")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Short claims: what a dead worker held is back within a second and a half."""
    return settings.model_copy(update={"claim_seconds": 1.0, "sweep_seconds": 0.2, "redis_seconds": 0.5})


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """Long claims: a worker waits for a wake-up for half of one, a test for less."""
    return settings.model_copy(update={"claim_seconds": 600.0})


def children_of(worker: Started, number: int) -> list[psutil.Process]:
    """The processes of a supervisor, once it has this number."""
    until(lambda: len(children(worker)) == number, what=f"{number} children")
    return children(worker)


def in_the_middle_of(commands: int, start: Start, system: System) -> Started:
    """Two workers in a burst of small batches."""
    worker = start("worker", "--processes", "2", LEVELQ_BATCH_COMMANDS="50")
    children_of(worker, 2)
    system.fill(commands)
    until(lambda: system.applied() > 200, what="the first batches")
    return worker


def drained(system: System) -> None:
    until(lambda: system.status().waiting == 0, what="the drain to end")


def stop(worker: Started) -> None:
    worker.terminate()
    assert ended(worker)[0] == 0


def test_a_worker_applies_what_is_sent_and_stops_cleanly(start: Start, system: System) -> None:
    worker = start("worker", "--processes", "2")
    outcome = system.producer.level_up(7, "PLAYER", 2600).result(timeout=20)
    assert (outcome.status, outcome.from_level, outcome.to_level) == ("applied", 1, 3)
    assert system.producer.sync(7, "COACH", "license").result(timeout=20).status == "rejected"
    stop(worker)


def test_commands_pushed_without_a_wake_up_are_found_by_a_sweep(start: Start, system: System) -> None:
    system.fill(100)
    start("worker", "--processes", "1")
    until(lambda: system.applied() == 100, what="the sweep")


def test_a_burst_drains_everything_and_reports_what_is_parked(start: Start, system: System) -> None:
    system.fill(1000)
    system.redis.zadd(KEYS.of(PLAYER, "ready"), {"50": 9e15})
    code, output = ended(start("worker", "--processes", "2", "--burst"))
    assert (code, output.strip()) == (0, "done: nothing is due; lanes parked for later: 1")
    assert system.applied() == 980


def test_log_of_supervised_workers_shows_a_triggers_message_without_control_characters(
    start: Start, system: System
) -> None:
    system.sql(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION '%', E'planted \\x1b[2J' || repeat('x', 5000); END $$;
        CREATE TRIGGER refuses BEFORE INSERT ON specialization_progress EXECUTE FUNCTION refuse()
        """
    )
    system.fill(1)
    _, output = ended(start("worker", "--burst"))
    line = next(line for line in output.splitlines() if "planted" in line)
    assert "\x1b" not in output and r"\x1b[2J" in line
    assert len(line) < 2_200


def test_a_killed_worker_is_replaced_and_its_claims_come_back(start: Start, system: System) -> None:
    worker = in_the_middle_of(5000, start, system)
    children(worker)[0].send_signal(signal.SIGKILL)
    drained(system)
    assert (system.applied(), system.total_xp()) == (5000, 5000)
    children_of(worker, 2)


def test_a_worker_whose_redis_was_full_and_then_gone_goes_on_in_the_same_process(start: Start, system: System) -> None:
    """RQ ends its worker at either; to start another process would take a second of a core, for each at once."""
    worker = start("worker", "--processes", "1")
    (child,) = children_of(worker, 1)

    def applies() -> None:
        assert system.producer.level_up(1, "PLAYER", 1).result(timeout=20).status == "applied"

    applies()
    system.redis.config_set("maxmemory", 1)
    system.redis.config_resetstat()
    until(lambda: system.redis.info("commandstats").get("cmdstat_eval"), what="a worker that asks whether it is full")
    system.redis.config_set("maxmemory", 0)
    applies()
    for _ in range(20):
        system.redis.client_kill_filter(_type="normal", skipme=True)
        system.fill(50)
    until(lambda: system.applied() == 1_002, what="what was pushed between the cuts")
    applies()
    until(lambda: system.redis.scard("rq:workers") == 1, what="the registrations of the ended ones to be removed")
    assert children(worker) == [child]
    stop(worker)


def test_a_frozen_worker_that_wakes_up_late_changes_nothing_twice(start: Start, system: System) -> None:
    worker = in_the_middle_of(5000, start, system)
    victim = children(worker)[0]
    victim.send_signal(signal.SIGSTOP)
    drained(system)
    victim.send_signal(signal.SIGCONT)
    stop(worker)
    assert (system.applied(), system.total_xp()) == (5000, 5000)


def test_a_worker_that_does_not_end_is_killed_and_that_is_logged(start: Start, redis: Redis) -> None:
    worker = start("worker")
    until(lambda: redis.scard("rq:workers") == 1, what="the child at work")
    children(worker)[0].send_signal(signal.SIGSTOP)
    worker.terminate()
    code, output = ended(worker)
    assert code == 1
    assert "a worker did not end within 5 s of being asked to: killed" in output


def test_sigterm_during_a_burst_finishes_the_batch_and_hands_over(start: Start, system: System) -> None:
    stop(in_the_middle_of(20_000, start, system))
    status = system.status()
    assert (status.claimed, status.drains) == (0, 0)
    assert status.waiting == 20_000 - system.applied() > 0
    assert ended(start("worker", "--burst"))[0] == 0
    assert system.total_xp() == 20_000


def test_a_worker_that_ends_wakes_another_for_what_is_due(patient: Settings, redis: Redis, own_engine: Any) -> None:
    """Asked to stop, it may have taken a wake-up; while that is reserved, no other worker is woken."""
    system = System(patient, redis, own_engine)
    system.fill(10)
    assert redis.exists(KEYS.of(PLAYER, "wake"))
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    for waiting, applied in ((1, 0), (0, 10)):
        assert queue.count == 1 - waiting
        LaneWorker([QUEUE], connection=redis, settings=patient).work(burst=True)
        assert (queue.count, system.applied()) == (waiting, applied)


@pytest.fixture
def handlers() -> Iterator[None]:
    """RQ replaces this process's signal handlers."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_while_a_worker_ends_is_no_error(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = LaneWorker([QUEUE], connection=redis, settings=settings)
    monkeypatch.setattr(worker, "_hand_over", lambda: signal.raise_signal(signal.SIGTERM))
    worker.work(burst=True)
    assert worker.stopping


@contextmanager
def signalled(when: Callable[[], object]) -> Iterator[None]:
    """SIGTERM for this process once `when` is true."""

    def send() -> None:
        until(when, what="the moment of the signal")
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    "queues", [["levelq.PLAYER"], ["levelq.PLAYER", "levelq.COACH"]], ids=["one queue", "two queues"]
)
def test_a_worker_that_waits_for_a_wake_up_ends_at_once(queues: list[str], patient: Settings, redis: Redis) -> None:
    worker = LaneWorker(queues, settings=patient)
    with signalled(lambda: redis.info("clients")["blocked_clients"]):
        worker.work()
    assert worker.stopping


@pytest.mark.usefixtures("handlers")
def test_a_worker_whose_waits_broke_ends_soon(patient: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """RQ sleeps after each, twice as long each time."""
    worker = LaneWorker([QUEUE], settings=patient)
    sleeps: list[float] = []
    monkeypatch.setattr("rq.worker.base.time", SimpleNamespace(sleep=sleeps.append, time=time.time))

    def broken() -> bool:
        for client in redis.client_list():
            if client["cmd"] == "blpop":  # nothing else is broken, which would end the worker
                redis.client_kill_filter(_id=client["id"])
        return len(sleeps) >= 5

    with signalled(broken):
        worker.work()
    assert max(sleeps) == 1.0


@pytest.mark.usefixtures("handlers")
def test_a_signal_raises_nothing_where_a_worker_stands(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ's handler does: hiredis ended by SIGSEGV, redis-py's finalizers caught it, a tracer kept its lock."""
    worker = LaneWorker([QUEUE], connection=redis, settings=settings)
    long_ago = datetime.now(UTC) - timedelta(minutes=1)
    moments = []

    def interrupted() -> None:
        moments.append("before")
        signal.raise_signal(signal.SIGTERM)
        worker._shutdown_requested_date = long_ago  # RQ passes over a second one that comes soon
        signal.raise_signal(signal.SIGTERM)
        moments.append("after")

    monkeypatch.setattr(worker, "run_maintenance_tasks", interrupted)
    worker.work()
    assert moments == ["before", "after"]
    assert worker.stopping


class Interrupted(Pipeline):
    """A signal comes while it is being given up; `Pipeline.__del__` lets nothing out that is raised then."""

    def reset(self) -> None:  # type: ignore[override]
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("handlers")
def test_a_worker_ends_although_the_signal_came_within_a_finalizer(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = LaneWorker([QUEUE], connection=redis, settings=settings)
    todo = [Interrupted]

    def tidy() -> None:
        if todo:
            redis.pipeline().__class__ = todo.pop()

    monkeypatch.setattr(worker, "run_maintenance_tasks", tidy)
    at_last = threading.Timer(20, worker._runtime.stop.set)
    at_last.start()
    worker.work()
    assert at_last.is_alive()
    at_last.cancel()
    assert worker.stopping


def test_children_end_with_a_killed_supervisor(start: Start) -> None:
    worker = start("worker", "--processes", "2")
    orphans = children_of(worker, 2)
    worker.kill()
    _, alive = psutil.wait_procs(orphans, timeout=20)
    assert not alive


def test_rqs_own_command_runs_a_lane_worker(system: System) -> None:
    system.fill(10)
    system.waker.wake(PLAYER)
    result = run_rq_worker(system.settings)
    assert result.returncode == 0, result.stderr
    assert system.applied() == 10


def test_an_ordinary_simple_worker_can_run_the_job(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in system.settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("levelq_worker.draining.context._current", None)
    system.fill(10)
    system.waker.wake(PLAYER)
    SimpleWorker([QUEUE], connection=system.redis, serializer=JSONSerializer).work(burst=True)
    current().close()
    assert system.applied() == 10


def planted(redis: Redis, function: str, **options: Any) -> Job:
    return Queue(QUEUE, connection=redis, serializer=JSONSerializer).enqueue_call(function, **options)


def status_after_work(settings: Settings, redis: Redis, *jobs: Job) -> set[str]:
    """Run all that is queued; how these jobs ended."""
    LaneWorker([QUEUE], connection=redis, settings=settings).work(burst=True)
    return {LaneJob.fetch(job.id, connection=redis, serializer=JSONSerializer).get_status() for job in jobs}


def test_a_planted_job_is_refused(settings: Settings, redis: Redis, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    jobs = [
        planted(redis, "os.system", args=(f"touch {trace}",)),
        planted(redis, FUNCTION, args=("PLAYER",), kwargs={"x": 1}),
        planted(redis, FUNCTION, args=(["PLAYER"],)),
        Queue(QUEUE, connection=redis).enqueue(os.system, f"touch {trace}"),  # pickled
    ]
    assert status_after_work(settings, redis, *jobs) == {"failed"}
    assert not trace.exists()


def test_a_planted_callback_is_not_called(settings: Settings, redis: Redis) -> None:
    job = planted(redis, FUNCTION, args=("PLAYER",), result_ttl=60)
    redis.hset(job.key, mapping={"success_callback_name": "os.abort", "failure_callback_name": "os.abort"})
    assert status_after_work(settings, redis, job) == {"finished"}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            "ALTER TABLE user_licenses DROP CONSTRAINT user_licenses_pair_key",
            "user_licenses has no unique constraint on (user_id, specialization_type)",
        ),
        (
            "INSERT INTO specialization_progress (student_id, specialization_id) VALUES (7, 'player')",
            "specialization_progress.specialization_id: 1 row not spelt as levelq spells them, "
            "for example 'player' of user 7, expected 'PLAYER'",
        ),
        (
            "ALTER TABLE specialization_progress ALTER theory_hours_completed TYPE real",
            "specialization_progress.theory_hours_completed is of type float4",
        ),
    ],
    ids=["constraint", "spelling", "type"],
)
def test_workers_refuse_to_start_on_tables_that_they_would_get_wrong(
    fault: str, reason: str, start: Start, system: System
) -> None:
    system.fill(1)
    system.sql(fault)
    code, output = ended(start("worker"))
    assert (code, len(output.splitlines())) == (2, 1)
    assert reason in output
    assert "`levelq db check` prints the statements that fix it" in output
    done = run_rq_worker(system.settings)
    assert done.returncode != 0
    assert reason in done.stderr
    assert system.applied() == 0


def test_a_signal_in_the_middle_of_a_command_does_not_crash_an_idle_worker(settings: Settings) -> None:
    """What a handler raises while hiredis packs a number ends the process by SIGSEGV, mostly within ten commands."""
    code = """
import signal
from levelq_core import Settings
from levelq_worker import LaneWorker
worker = LaneWorker(["levelq.PLAYER"], settings=Settings.load())
connection = worker.connection.connection_pool.get_connection()
signal.signal(signal.SIGALRM, worker.request_stop)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
for _ in range(200):
    connection.pack_command("EXPIRE", "key", *range(1000))
signal.setitimer(signal.ITIMER_REAL, 0)
assert worker.stopping
"""
    environment = os.environ | settings.environment()
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0

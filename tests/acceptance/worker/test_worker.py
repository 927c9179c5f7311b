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

import psutil
import pytest
from redis import Redis
from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy import Engine, text

from levelq_core import LevelUp, Settings
from levelq_core.domain.codec import encode
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.wakeups import FUNCTION, Waker
from levelq_producer import Producer
from levelq_worker.draining.context import current
from levelq_worker.rq_adapter.worker import LaneJob, LaneWorker
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started, children
from tests.support.fixtures.waiting import until

Start = Callable[..., Started]
PLAYER, COACH = Partition("PLAYER"), Partition("COACH")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Short claims: what a dead worker held is back within a second and a half."""
    return settings.model_copy(update={"claim_seconds": 1.0, "sweep_seconds": 0.2, "redis_seconds": 0.5})


def push(settings: Settings, redis: Redis, commands: int, users: int = 50) -> None:
    """Fill lanes without waking anybody."""
    lanes: dict[int, list[bytes]] = {}
    for n in range(commands):
        command = LevelUp(user_id=1 + n % users, specialization="PLAYER", xp_gained=1)
        lanes.setdefault(command.user_id, []).append(encode(command))
    Lanes(redis, settings).push([(PLAYER, list(lanes.items()))])


def applied(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM levelq_ledger")).scalar_one())


def total_xp(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(
            connection.execute(text("SELECT coalesce(sum(total_xp), 0) FROM specialization_progress")).scalar_one()
        )


def two_children(worker: Started) -> list[psutil.Process]:
    until(lambda: len(children(worker)) == 2, what="two children")
    return children(worker)


def in_the_middle_of_5000(
    start: Start, settings: Settings, redis: Redis, engine: Engine
) -> tuple[Started, psutil.Process]:
    """Two workers in a burst of small batches, and one of them."""
    worker = start("worker", "--processes", "2", LEVELQ_BATCH_COMMANDS="50")
    victim, _ = two_children(worker)
    push(settings, redis, 5000)
    until(lambda: applied(engine) > 200, what="the first batches")
    return worker, victim


def stopped(process: Started) -> tuple[int, str]:
    output, _ = process.communicate(timeout=20)
    return process.returncode, output


def test_a_worker_applies_what_is_sent_and_stops_cleanly(start: Start, settings: Settings, own_engine: Engine) -> None:
    worker = start("worker", "--processes", "2")
    with Producer(settings) as producer:
        outcome = producer.level_up(7, "PLAYER", 2600).result(timeout=20)
        assert (outcome.status, outcome.from_level, outcome.to_level) == ("applied", 1, 3)
        assert producer.sync(7, "COACH", "license").result(timeout=20).status == "rejected"
    worker.terminate()
    assert stopped(worker)[0] == 0


def test_commands_pushed_without_a_wake_up_are_found_by_a_sweep(
    start: Start, settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    push(settings, redis, 100)
    start("worker", "--processes", "1")
    until(lambda: applied(own_engine) == 100, what="the sweep")


def test_burst_drains_everything_and_says_what_is_parked(
    start: Start, settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    push(settings, redis, 1000)
    redis.zadd(KEYS.of(PLAYER, "ready"), {"50": 9e15})
    code, output = stopped(start("worker", "--processes", "2", "--burst"))
    assert (code, output.strip()) == (0, "done: nothing is due; lanes parked for later: 1")
    assert applied(own_engine) == 980


def test_log_of_supervised_workers_shows_a_triggers_message_without_control_characters(
    start: Start, settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    with own_engine.begin() as connection:
        connection.execute(
            text("""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION '%', E'planted \\x1b[2J' || repeat('x', 5000); END $$;
            CREATE TRIGGER refuses BEFORE INSERT ON specialization_progress EXECUTE FUNCTION refuse()
            """)
        )
    push(settings, redis, 1)
    _, output = stopped(start("worker", "--burst"))
    line = next(line for line in output.splitlines() if "planted" in line)
    assert "\x1b" not in output and r"\x1b[2J" in line
    assert len(line) < 2_200


def test_a_killed_worker_is_replaced_and_its_claims_come_back(
    start: Start, settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    worker, victim = in_the_middle_of_5000(start, settings, redis, own_engine)
    victim.send_signal(signal.SIGKILL)
    until(lambda: Lanes(redis, settings).status(PLAYER).waiting == 0, what="the drain to end")
    assert (applied(own_engine), total_xp(own_engine)) == (5000, 5000)
    until(lambda: len(children(worker)) == 2, what="a new child")


def test_a_worker_whose_redis_was_full_and_then_gone_goes_on_in_the_same_process(
    start: Start, settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    """RQ ends its worker at either; to start another process would take a second of a core, for each at once."""
    worker = start("worker", "--processes", "1")
    (child,) = until(lambda: children(worker), what="a child")
    with Producer(settings) as producer:
        assert producer.level_up(1, "PLAYER", 1).result(timeout=20).status == "applied"
        redis.config_set("maxmemory", 1)
        redis.config_resetstat()
        until(lambda: redis.info("commandstats").get("cmdstat_eval"), what="a worker that asks whether it is full")
        redis.config_set("maxmemory", 0)
        assert producer.level_up(1, "PLAYER", 1).result(timeout=20).status == "applied"
        for _ in range(20):
            redis.client_kill_filter(_type="normal", skipme=True)
            push(settings, redis, 50)
        until(lambda: applied(own_engine) == 1_002, what="what was pushed between the cuts")
        assert producer.level_up(1, "PLAYER", 1).result(timeout=20).status == "applied"
    assert children(worker) == [child]
    worker.terminate()
    assert stopped(worker)[0] == 0


def test_a_frozen_worker_that_wakes_up_late_changes_nothing_twice(
    start: Start, settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    worker, victim = in_the_middle_of_5000(start, settings, redis, own_engine)
    victim.send_signal(signal.SIGSTOP)
    until(lambda: Lanes(redis, settings).status(PLAYER).waiting == 0, what="the other worker")
    victim.send_signal(signal.SIGCONT)
    worker.terminate()
    assert stopped(worker)[0] == 0
    assert (applied(own_engine), total_xp(own_engine)) == (5000, 5000)


def test_a_worker_that_does_not_end_is_killed_and_that_is_said(start: Start, redis: Redis) -> None:
    worker = start("worker")
    until(lambda: redis.scard("rq:workers") == 1, what="the child at work")
    (child,) = children(worker)
    child.send_signal(signal.SIGSTOP)
    worker.terminate()
    code, output = stopped(worker)
    assert code == 1
    assert "a worker did not end within 5 s of being asked to: killed" in output


def test_sigterm_during_a_burst_finishes_the_batch_and_hands_over(
    start: Start, settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    worker = start("worker", "--processes", "2", LEVELQ_BATCH_COMMANDS="50")
    until(lambda: len(children(worker)) == 2, what="two children")
    push(settings, redis, 20_000)
    until(lambda: applied(own_engine) > 200, what="the first batches")
    worker.terminate()
    assert stopped(worker)[0] == 0
    status = Lanes(redis, settings).status(PLAYER)
    assert (status.claimed, status.drains) == (0, 0)
    assert status.waiting == 20_000 - applied(own_engine) > 0
    assert stopped(start("worker", "--burst"))[0] == 0
    assert total_xp(own_engine) == 20_000


def test_a_worker_that_ends_wakes_another_for_what_is_due(settings: Settings, redis: Redis, own_engine: Engine) -> None:
    """Asked to stop, it may have had a wake-up in its hands; nobody else would be woken while that is reserved."""
    patient = settings.model_copy(update={"claim_seconds": 60.0})
    push(patient, redis, 10)
    assert redis.exists(KEYS.of(PLAYER, "wake"))
    queue = Queue(KEYS.queue("PLAYER"), connection=redis, serializer=JSONSerializer)
    assert queue.count == 0
    LaneWorker([KEYS.queue("PLAYER")], connection=redis, settings=patient).work(burst=True)
    assert queue.count == 1
    LaneWorker([KEYS.queue("PLAYER")], connection=redis, settings=patient).work(burst=True)
    assert (queue.count, applied(own_engine)) == (0, 10)


@pytest.fixture
def handlers() -> Iterator[None]:
    """RQ puts its own in the place of this process's."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_while_a_worker_ends_is_no_error(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = LaneWorker([KEYS.queue("PLAYER")], connection=redis, settings=settings)
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
def test_a_worker_that_waits_for_a_wake_up_ends_at_once(queues: list[str], settings: Settings, redis: Redis) -> None:
    patient = settings.model_copy(update={"claim_seconds": 600.0})  # it waits for half of that, a test for less
    worker = LaneWorker(queues, settings=patient)
    with signalled(lambda: redis.info("clients")["blocked_clients"]):
        worker.work()
    assert worker.stopping


@pytest.mark.usefixtures("handlers")
def test_a_worker_whose_waits_broke_ends_soon(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ sleeps after each, twice as long each time."""
    patient = settings.model_copy(update={"claim_seconds": 600.0})
    worker = LaneWorker([KEYS.queue("PLAYER")], settings=patient)
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
    worker = LaneWorker([KEYS.queue("PLAYER")], connection=redis, settings=settings)
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
    worker = LaneWorker([KEYS.queue("PLAYER")], connection=redis, settings=settings)
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


def test_children_end_with_a_killed_supervisor(start: Start, settings: Settings) -> None:
    worker = start("worker", "--processes", "2")
    orphans = two_children(worker)
    worker.kill()
    _, alive = psutil.wait_procs(orphans, timeout=20)
    assert not alive


def test_rqs_own_command_runs_a_lane_worker(settings: Settings, redis: Redis, own_engine: Engine) -> None:
    push(settings, redis, 10)
    Waker(redis, redis, KEYS).wake(PLAYER)
    rq = Path(sys.executable).parent / "rq"
    options = ["-w", "levelq_worker.LaneWorker", "--url", settings.queue_url, "--burst"]
    command = [str(rq), "worker", *options, KEYS.queue("PLAYER")]
    result = subprocess.run(
        command, env=os.environ | settings.environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert applied(own_engine) == 10


def test_an_ordinary_simple_worker_can_run_the_job(
    settings: Settings, redis: Redis, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("levelq_worker.draining.context._current", None)
    push(settings, redis, 10)
    Waker(redis, redis, KEYS).wake(PLAYER)
    SimpleWorker([KEYS.queue("PLAYER")], connection=redis, serializer=JSONSerializer).work(burst=True)
    current().close()
    assert applied(own_engine) == 10


def _planted(redis: Redis, function: str, **options: object) -> Job:
    queue = Queue(KEYS.queue("PLAYER"), connection=redis, serializer=JSONSerializer)
    return queue.enqueue_call(function, **options)  # type: ignore[arg-type]


def test_a_planted_job_is_refused(settings: Settings, redis: Redis, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    jobs = [
        _planted(redis, "os.system", args=(f"touch {trace}",)),
        _planted(redis, FUNCTION, args=("PLAYER",), kwargs={"x": 1}),
        _planted(redis, FUNCTION, args=(["PLAYER"],)),
        Queue(KEYS.queue("PLAYER"), connection=redis).enqueue(os.system, f"touch {trace}"),  # pickled
    ]
    LaneWorker([KEYS.queue("PLAYER")], connection=redis, settings=settings).work(burst=True)
    assert not trace.exists()
    for job in jobs:
        assert LaneJob.fetch(job.id, connection=redis, serializer=JSONSerializer).get_status() == "failed"


def test_a_planted_callback_is_not_called(settings: Settings, redis: Redis, tmp_path: Path) -> None:
    job = _planted(redis, FUNCTION, args=("PLAYER",), result_ttl=60)
    redis.hset(job.key, mapping={"success_callback_name": "os.abort", "failure_callback_name": "os.abort"})
    LaneWorker([KEYS.queue("PLAYER")], connection=redis, settings=settings).work(burst=True)
    assert LaneJob.fetch(job.id, connection=redis, serializer=JSONSerializer).get_status() == "finished"


def test_workers_refuse_to_start_without_the_unique_constraints(start: Start, own_engine: Engine) -> None:
    with own_engine.begin() as connection:
        connection.execute(text("ALTER TABLE user_licenses DROP CONSTRAINT user_licenses_pair_key"))
    code, output = stopped(start("worker"))
    assert code == 2
    assert "user_licenses has no unique constraint on (user_id, specialization_type)" in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
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
    ids=["spelling", "type"],
)
def test_workers_refuse_to_start_on_what_they_would_get_wrong(
    fault: str, told: str, start: Start, settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    push(settings, redis, 1)
    with own_engine.begin() as connection:
        connection.execute(text(fault))
    code, output = stopped(start("worker"))
    assert code == 2
    assert told in output
    assert "`levelq db check` prints the statements that fix it" in output
    assert len(output.splitlines()) == 1
    options = ["-w", "levelq_worker.LaneWorker", "--url", settings.queue_url, "--burst"]
    rq = Path(sys.executable).parent / "rq"
    done = subprocess.run(
        [str(rq), "worker", *options, KEYS.queue("PLAYER")],
        env=os.environ | settings.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert told in done.stderr
    assert applied(own_engine) == 0


def test_a_signal_in_the_middle_of_a_command_does_not_crash_an_idle_worker(settings: Settings) -> None:
    """What a handler raises while hiredis packs a number ends the process by SIGSEGV."""
    code = """
import signal
from levelq_core import Settings
from levelq_worker import LaneWorker
worker = LaneWorker(["levelq.PLAYER"], settings=Settings.load())
connection = worker.connection.connection_pool.get_connection()
signal.signal(signal.SIGALRM, worker.request_stop)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
for _ in range(20_000):
    connection.pack_command("EXPIRE", "key", *range(1000))
signal.setitimer(signal.ITIMER_REAL, 0)
assert worker.stopping
"""
    environment = os.environ | settings.environment()
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0

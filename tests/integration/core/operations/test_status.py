"""The problems that `levelq status` reports, each by its cause; and none where nothing is wrong."""

import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from redis import Redis
from sqlalchemy import Engine

from levelq_core import LevelUp, Settings
from levelq_core.coupler.bisect import LOCKED_REASON
from levelq_core.domain.codec import STAMP_DIGITS, encode
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.worker_alerts import WorkerAlerts
from levelq_core.operations.readings.status import status as look
from levelq_worker.rq_adapter.worker import LaneWorker
from tests.conformance.kit import identity
from tests.support.fixtures.command_line import NOWHERE
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until

PLAYER = Partition("PLAYER")
DEAD = "its workers are dead, hang, or cannot reach Redis; their log says more"


def problems(settings: Settings) -> list[str]:
    """The problems, without their durations."""
    return [re.sub(r"for (up to )?[0-9.]+ s", r"for \1# s", problem) for problem in look(settings).problems]


def problems_past_the_lock_limit(settings: Settings) -> list[str]:
    """The problems, once a session that holds rows is one of them."""
    brief = settings.model_copy(update={"claim_seconds": 0.5})
    until(lambda: any("session" in told for told in problems(brief)), what="the lock limit to pass")
    return problems(brief)


def push(settings: Settings, redis: Redis, *users: int) -> None:
    """Commands without a wake-up."""
    commands = [LevelUp(user_id=user, specialization="PLAYER", xp_gained=1) for user in users]
    Lanes(redis, settings).push([(PLAYER, [(command.user_id, [encode(command)]) for command in commands])])


@pytest.fixture
def listed(settings: Settings, redis: Redis) -> Iterator[LaneWorker]:
    """A worker that RQ lists and that does nothing."""
    worker = LaneWorker([KEYS.queue("PLAYER")], connection=redis, settings=settings)
    worker.register_birth()  # type: ignore[no-untyped-call]
    yield worker
    worker.register_death()  # type: ignore[no-untyped-call]


def test_commands_that_a_worker_serves_are_no_problem(settings: Settings, listed: LaneWorker, redis: Redis) -> None:
    push(settings, redis, 1)
    seen = look(settings)
    assert (seen.problems, seen.workers) == ((), 1)


def test_commands_without_a_worker_are_named_with_the_command_that_starts_one(settings: Settings, redis: Redis) -> None:
    push(settings, redis, 1, 2)
    (problem,) = look(settings).problems
    assert problem == "PLAYER:1:0: 2 commands waiting and no worker serves it: levelq worker -s PLAYER"


def test_worker_whose_key_expired_is_not_counted(settings: Settings, redis: Redis, listed: LaneWorker) -> None:
    listed.heartbeat()
    assert 0 < redis.ttl(listed.key) <= 2 * settings.claim_seconds + 60
    redis.delete(listed.key)
    assert look(settings).workers == 0


def test_live_worker_is_counted_again_after_redis_lost_everything(
    settings: Settings, redis: Redis, listed: LaneWorker
) -> None:
    redis.flushall()
    assert look(settings).workers == 0
    listed.heartbeat()
    assert look(settings).workers == 1


def test_expired_claim_that_no_worker_returns_is_named(settings: Settings, redis: Redis, listed: LaneWorker) -> None:
    push(settings, redis, 1, 2)
    Lanes(redis, settings).claim(PLAYER, "drain", "token", 100)
    assert list(look(settings).problems) == []
    redis.zadd(KEYS.of(PLAYER, "claimed"), {"1": 1000 * time.time() - 60_000})
    assert list(look(settings).problems) == [f"PLAYER:1:0: 1 claim ran out and no worker takes them back: {DEAD}"]


def test_due_lane_that_no_worker_drains_is_named(settings: Settings, redis: Redis, listed: LaneWorker) -> None:
    push(settings, redis, 1)
    entry: Any = redis.lpop(KEYS.lane(PLAYER, 1))
    redis.rpush(KEYS.lane(PLAYER, 1), b"%013d" % (1000 * time.time() - 30_000) + entry[STAMP_DIGITS:])
    assert problems(settings) == [f"PLAYER:1:0: 1 lane due for up to # s and no worker drains them: {DEAD}"]
    WorkerAlerts(redis, KEYS, "host:1", 60).post("PostgreSQL: away")
    assert problems(settings) == ["host:1 waiting for # s: PostgreSQL: away"]
    redis.delete(KEYS.notices)
    redis.zadd(KEYS.of(PLAYER, "drains"), {"drain": 1000 * time.time() + 5000})
    assert list(look(settings).problems) == []


def test_lane_parked_by_foreign_code_is_named_with_the_session_that_holds_it(
    settings: Settings, redis: Redis, listed: LaneWorker, own_database_url: str
) -> None:
    push(settings, redis, 1)
    redis.zadd(KEYS.of(PLAYER, "ready"), {"1": 9e15})
    why = "rows held by other code, a newer version or a key that is no list; the workers' log says which"
    with psycopg.connect(own_database_url, application_name="a report") as holder:
        holder.execute("SELECT FROM user_licenses")  # a reader blocks nothing
        assert list(look(settings).problems) == [f"1 lane parked for later: {why}"]
        holder.execute("SELECT FROM user_licenses FOR UPDATE")
        pid = holder.info.backend_pid
        assert problems_past_the_lock_limit(settings) == [
            f"1 lane parked for later: session {pid} (a report, idle in transaction for # s) holds rows; to end it:"
            f" SELECT pg_terminate_backend({pid})"
        ]


def test_parked_lanes_are_named_by_cause_with_what_to_do(
    settings: Settings, redis: Redis, listed: LaneWorker, own_database_url: str
) -> None:
    lanes = Lanes(redis, settings)
    push(settings, redis, *range(1, 8))
    claim = lanes.claim(PLAYER, "drain", "token", 100)
    raised = {b"%d" % user: f"learner {user} is blocked (SQLSTATE P0001)" for user in (1, 2, 3)}
    missing = 'null value in column "campus" of relation "user_licenses" violates not-null constraint (SQLSTATE 23502)'
    locked = {b"%d" % user: LOCKED_REASON for user in (4, 5)}
    why = raised | locked | {b"6": missing}
    lanes.ack(PLAYER, "token", [(user, 60_000 if user in why else 0, b"") for user, _ in claim.lanes], why)
    since = r"parked since [0-9-]{10} [0-9:]{8} UTC, next attempt at [0-9:]{8} UTC, users?"
    blocked, held, no_default = look(settings).problems
    assert re.fullmatch(
        rf"PLAYER:1:0: 3 lanes {since} 1, 2, 3: learner 1 is blocked \(SQLSTATE P0001\); a trigger or function of the"
        " database raised this: change what it checks, or the trigger",
        blocked,
    )
    assert re.fullmatch(rf"PLAYER:1:0: 2 lanes {since} 4, 5: {LOCKED_REASON}; commit or end .+", held)
    assert re.fullmatch(
        rf"PLAYER:1:0: 1 lane {since} 6: {re.escape(missing)}; ALTER TABLE user_licenses ALTER COLUMN campus SET .+",
        no_default,
    )
    with psycopg.connect(own_database_url, application_name="a report") as holder:
        holder.execute("SELECT FROM user_licenses FOR UPDATE")
        assert f"pg_terminate_backend({holder.info.backend_pid})" in problems_past_the_lock_limit(settings)[1]


def test_triggers_are_named_where_one_may_be_the_cause_and_while_they_are_switched_off(
    settings: Settings, redis: Redis, listed: LaneWorker, own_database_url: str
) -> None:
    with psycopg.connect(own_database_url, autocommit=True) as application:
        application.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'blocked'; END $$"
        )
        application.execute(
            'CREATE TRIGGER "No Entry" BEFORE UPDATE ON user_licenses FOR EACH ROW EXECUTE FUNCTION refuse();'
            "CREATE TRIGGER emptied AFTER TRUNCATE ON user_licenses EXECUTE FUNCTION refuse();"
            "CREATE TRIGGER replicated AFTER INSERT ON user_licenses EXECUTE FUNCTION refuse();"
            "ALTER TABLE user_licenses ENABLE REPLICA TRIGGER replicated"
        )
        assert look(settings).notes == ()
        lanes = Lanes(redis, settings)
        push(settings, redis, 1)
        lanes.claim(PLAYER, "drain", "token", 100)
        lanes.ack(PLAYER, "token", [(b"1", 60_000, b"")], {b"1": "blocked (SQLSTATE P0001)"})
        (running,) = look(settings).notes
        told, _, statement = running.partition(": ")
        table = "public.user_licenses"
        what = "may run refuse() in batches, and refuse them; if it is the cause, switch it off"
        assert told == f'trigger "No Entry" on {table} {what}'
        application.execute(statement.encode())
        (switched_off,) = look(settings).notes
        told, _, statement = switched_off.partition("; to switch it on: ")
        assert told == f'trigger "No Entry" on {table} is switched off'
        application.execute(statement.encode())
        assert look(settings).notes == (running,)


def test_full_lane_is_named_with_its_user(settings: Settings, redis: Redis, listed: LaneWorker) -> None:
    narrow = settings.model_copy(update={"lane_limit": 2})
    push(narrow, redis, 7, 8)
    assert look(narrow).problems == ()
    push(narrow, redis, 8)
    (problem,) = look(narrow).problems
    assert problem == (
        "PLAYER:1:0: user 8: its lane is full (2 commands, LEVELQ_LANE_LIMIT): more are refused; `levelq explain 8`"
    )


def test_lane_that_is_being_tried_is_still_named(settings: Settings, redis: Redis, listed: LaneWorker) -> None:
    lanes = Lanes(redis, settings)
    push(settings, redis, 1)
    lanes.claim(PLAYER, "drain", "token", 100)
    lanes.ack(PLAYER, "token", [(b"1", 0, b"")], {b"1": "\x1b[31mno (SQLSTATE P0001)"})
    lanes.claim(PLAYER, "drain", "again", 100)
    (problem,) = look(settings).problems
    assert "UTC, user 1: \\x1b[31mno (SQLSTATE P0001); " in problem
    assert lanes.ack(PLAYER, "again", [(b"1", 0, identity(redis.lindex(KEYS.lane(PLAYER, 1), 0)))]) == [1]
    assert list(look(settings).problems) == []


def test_worker_that_waits_for_the_database_is_named_with_what_to_do(settings: Settings, redis: Redis) -> None:
    end = 'nextval: reached maximum value of sequence "license_progressions_id_seq" (2147483647) (SQLSTATE 2200H)'
    WorkerAlerts(redis, KEYS, "a:1", 60).post(f"PostgreSQL: {end}")
    (problem,) = problems(settings)
    assert problem.endswith(
        f"{end}; ALTER SEQUENCE license_progressions_id_seq AS bigint (its column, too),"
        " or setval('license_progressions_id_seq', ...) to where numbers are free"
    )


def test_read_only_database_is_named(settings: Settings, own_database_url: str) -> None:
    url = f"{own_database_url}&options=-cdefault_transaction_read_only%3Don"
    (problem,) = look(settings.model_copy(update={"database_url": url})).problems
    assert problem == (
        "the database is read-only, so nothing can be applied: default_transaction_read_only is on; to end it:"
        " take default_transaction_read_only out of the options of LEVELQ_DATABASE_URL (or of PGOPTIONS)"
    )


@pytest.mark.parametrize("option", [{"postgresql_readonly": True}, {"stream_results": True}], ids=str)
def test_engine_for_reading_is_no_problem_of_the_database(
    settings: Settings, own_engine: Engine, option: dict[str, Any]
) -> None:
    assert look(settings, engine=own_engine.execution_options(**option)).problems == ()


def test_database_without_tables_is_named_with_the_command_that_helps(
    settings: Settings, blank_database_url: str
) -> None:
    (problem,) = look(settings.model_copy(update={"database_url": blank_database_url})).problems
    assert "table levelq_ledger does not exist" in problem and "`levelq db check`" in problem


def test_server_that_is_away_is_named_and_the_rest_is_shown(settings: Settings, redis: Redis) -> None:
    push(settings, redis, 1)
    away = {"rq_url": f"redis://{NOWHERE}", "database_url": f"postgresql://ann:secret@{NOWHERE}/app"}
    seen = look(settings.model_copy(update=away))
    assert {found.partition: found.waiting for found in seen.partitions}[str(PLAYER)] == 1
    assert (seen.workers, seen.rejected, seen.quarantined) == (None, None, None)
    rq, database = seen.problems
    assert rq.startswith("LEVELQ_RQ_URL: redis://127.0.0.1:1: ") and "refused" in rq
    assert database.startswith("LEVELQ_DATABASE_URL: postgresql://ann:***@127.0.0.1:1/app: ")
    seen = look(settings.model_copy(update={"redis_url": f"redis://{NOWHERE}"}))
    assert (seen.lanes_readable, seen.partitions, seen.rejected, seen.quarantined) == (False, (), 0, 0)
    assert len(seen.problems) == 1 and seen.problems[0].startswith("LEVELQ_REDIS_URL: redis://127.0.0.1:1: ")


def test_alerts_of_the_same_cause_are_one_line(settings: Settings, redis: Redis) -> None:
    for worker in ("a:1", "a:2", "b:1"):
        WorkerAlerts(redis, KEYS, worker, 60).post("PostgreSQL: away")
    WorkerAlerts(redis, KEYS, "b:1 relay", 60).post("relay: PostgreSQL: away")
    three, one = problems(settings)
    assert three == "3 workers waiting for # s: PostgreSQL: away"
    assert one == "b:1 waiting for # s: relay: PostgreSQL: away"


def test_suspect_partitions_are_read_a_second_time_together(
    settings: Settings, redis: Redis, listed: LaneWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("levelq_core.operations.readings.standstill.time.sleep", waits.append)
    redis.hset(KEYS.shards, "PLAYER", "1:16")
    for shard in range(16):
        partition = Partition("PLAYER", 1, shard)
        redis.rpush(KEYS.lane(partition, 1), b"%013d" % 1 + encode(LevelUp(user_id=1, specialization="PLAYER")))
        redis.zadd(KEYS.of(partition, "ready"), {"1": 1})
        redis.incr(KEYS.of(partition, "count"))
    problems = look(settings).problems
    assert len(problems) == 16 and all("its workers are dead" in problem for problem in problems)
    assert len(waits) == 1

"""What `levelq status` says is wrong, each line of it by a cause of its own, and nothing where nothing is."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from redis import Redis

from levelq.cli.status_report import look
from levelq_core import LevelUp, Settings
from levelq_core.coupler.bisect import LOCKED_REASON
from levelq_core.domain.codec import STAMP_DIGITS, encode
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.worker_alerts import MOST_CHARACTERS, MOST_WORKERS, WorkerAlerts, read
from levelq_worker.rq_adapter.worker import LaneWorker
from levelq_worker.support.outage import Outage, alerts_of
from levelq_worker.support.stop import Stop
from tests.conformance.kit import identity
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until

PLAYER = Partition("PLAYER")
NOWHERE = "127.0.0.1:1"


def problems(settings: Settings) -> list[str]:
    """What is wrong, without how long it has been so."""
    return [re.sub(r"for (up to )?[0-9.]+ s", r"for \1# s", told) for told in look(settings).problems]


def push(settings: Settings, redis: Redis, *users: int) -> None:
    """Commands that nobody is woken for."""
    commands = [LevelUp(user_id=user, specialization="PLAYER", xp_gained=1) for user in users]
    Lanes(redis, settings).push([(PLAYER, [(command.user_id, [encode(command)]) for command in commands])])


@pytest.fixture
def listed(settings: Settings, redis: Redis) -> Iterator[LaneWorker]:
    """A worker that RQ lists and that does nothing."""
    worker = LaneWorker([KEYS.queue("PLAYER")], connection=redis, settings=settings)
    worker.register_birth()  # type: ignore[no-untyped-call]
    yield worker
    worker.register_death()  # type: ignore[no-untyped-call]


def test_where_nothing_is_wrong_nothing_is_said(settings: Settings, listed: LaneWorker, redis: Redis) -> None:
    push(settings, redis, 1)
    seen = look(settings)
    assert (seen.problems, seen.workers) == ([], 1)


def test_commands_that_no_worker_serves(settings: Settings, redis: Redis) -> None:
    push(settings, redis, 1, 2)
    assert look(settings).problems == [
        "PLAYER:1:0: 2 commands waiting and no worker serves it: levelq worker -s PLAYER"
    ]


def test_a_worker_whose_key_ran_out_is_none(settings: Settings, redis: Redis, listed: LaneWorker) -> None:
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


def test_claims_that_nobody_takes_back(settings: Settings, redis: Redis, listed: LaneWorker) -> None:
    push(settings, redis, 1, 2)
    Lanes(redis, settings).claim(PLAYER, "drain", "token", 100)
    assert look(settings).problems == []
    redis.zadd(KEYS.of(PLAYER, "claimed"), {"1": 1000 * time.time() - 60_000})
    assert look(settings).problems == [
        "PLAYER:1:0: 1 claim ran out and no worker takes them back: its workers are dead, hang, or cannot reach"
        " Redis; their log says more"
    ]


def test_lanes_that_nobody_drains(settings: Settings, redis: Redis, listed: LaneWorker) -> None:
    push(settings, redis, 1)
    entry: Any = redis.lpop(KEYS.lane(PLAYER, 1))
    redis.rpush(KEYS.lane(PLAYER, 1), b"%013d" % (1000 * time.time() - 30_000) + entry[STAMP_DIGITS:])
    assert problems(settings) == [
        "PLAYER:1:0: 1 lane due for up to # s and no worker drains them: its workers are dead, hang, or cannot reach"
        " Redis; their log says more"
    ]
    WorkerAlerts(redis, KEYS, "host:1", 60).post("PostgreSQL: away")
    assert problems(settings) == ["host:1 waiting for # s: PostgreSQL: away"]
    redis.delete(KEYS.notices)
    redis.zadd(KEYS.of(PLAYER, "drains"), {"drain": 1000 * time.time() + 5000})
    assert look(settings).problems == []


def test_lanes_parked_by_foreign_code_and_otherwise(
    settings: Settings, redis: Redis, listed: LaneWorker, own_database_url: str
) -> None:
    push(settings, redis, 1)
    redis.zadd(KEYS.of(PLAYER, "ready"), {"1": 9e15})
    why = "rows held by other code, a newer version or a key that is no list; the workers' log says which"
    with psycopg.connect(own_database_url, application_name="a report") as holder:
        holder.execute("SELECT FROM user_licenses")  # a reader is in nobody's way
        assert look(settings).problems == [f"1 lane parked for later: {why}"]
        holder.execute("SELECT FROM user_licenses FOR UPDATE")
        lock_limit = settings.model_copy(update={"claim_seconds": 0.5})
        pid = holder.info.backend_pid
        until(lambda: "session" in problems(lock_limit)[0], what="the lock limit to pass")
        assert problems(lock_limit) == [
            f"1 lane parked for later: session {pid} (a report, idle in transaction for # s) holds rows; to end it:"
            f" SELECT pg_terminate_backend({pid})"
        ]


def test_parked_lanes_are_told_by_cause_with_what_to_do(
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
    since = r"parked since [0-9-]{10} [0-9:]{8} UTC, for example user"
    blocked, held, no_default = look(settings).problems
    assert re.fullmatch(
        rf"PLAYER:1:0: 3 lanes {since} 1: learner 1 is blocked \(SQLSTATE P0001\); a trigger or function of the"
        " database raised this: change what it checks, or the trigger",
        blocked,
    )
    assert re.fullmatch(rf"PLAYER:1:0: 2 lanes {since} 4: {LOCKED_REASON}; commit or end .+", held)
    assert re.fullmatch(
        rf"PLAYER:1:0: 1 lane {since} 6: {re.escape(missing)}; ALTER TABLE user_licenses ALTER COLUMN campus SET .+",
        no_default,
    )
    with psycopg.connect(own_database_url, application_name="a report") as holder:
        holder.execute("SELECT FROM user_licenses FOR UPDATE")
        lock_limit = settings.model_copy(update={"claim_seconds": 0.5})
        until(lambda: "session" in problems(lock_limit)[1], what="the lock limit to pass")
        assert f"pg_terminate_backend({holder.info.backend_pid})" in problems(lock_limit)[1]


def test_lane_that_is_tried_at_the_moment_is_still_told(settings: Settings, redis: Redis, listed: LaneWorker) -> None:
    lanes = Lanes(redis, settings)
    push(settings, redis, 1)
    lanes.claim(PLAYER, "drain", "token", 100)
    lanes.ack(PLAYER, "token", [(b"1", 0, b"")], {b"1": "\x1b[31mno (SQLSTATE P0001)"})
    lanes.claim(PLAYER, "drain", "again", 100)
    (problem,) = look(settings).problems
    assert "for example user 1: \\x1b[31mno (SQLSTATE P0001); " in problem
    assert lanes.ack(PLAYER, "again", [(b"1", 0, identity(redis.lindex(KEYS.lane(PLAYER, 1), 0)))]) == [1]
    assert look(settings).problems == []


def test_worker_that_waits_for_the_database_is_told_what_to_do(settings: Settings, redis: Redis) -> None:
    end = 'nextval: reached maximum value of sequence "license_progressions_id_seq" (2147483647) (SQLSTATE 2200H)'
    WorkerAlerts(redis, KEYS, "a:1", 60).post(f"PostgreSQL: {end}")
    (problem,) = problems(settings)
    assert problem.endswith(
        f"{end}; ALTER SEQUENCE license_progressions_id_seq AS bigint (its column, too),"
        " or setval('license_progressions_id_seq', ...) to where numbers are free"
    )


def test_a_database_that_is_read_only(settings: Settings, own_database_url: str) -> None:
    read_only = settings.model_copy(
        update={"database_url": f"{own_database_url}&options=-cdefault_transaction_read_only%3Don"}
    )
    (problem,) = look(read_only).problems
    assert problem.startswith("the database is read-only, so nothing can be applied")


def test_a_database_without_tables(settings: Settings, blank_database_url: str) -> None:
    (problem,) = look(settings.model_copy(update={"database_url": blank_database_url})).problems
    assert "table levelq_ledger does not exist" in problem and "`levelq db check`" in problem


def test_whatever_is_away_the_rest_is_shown(settings: Settings, redis: Redis) -> None:
    push(settings, redis, 1)
    away = {"rq_url": f"redis://{NOWHERE}", "database_url": f"postgresql://ann:secret@{NOWHERE}/app"}
    seen = look(settings.model_copy(update=away))
    assert seen.lanes is not None and seen.lanes[PLAYER].waiting == 1
    assert (seen.workers, seen.totals) == (None, {"rejected": None, "quarantined": None})
    rq, database = seen.problems
    assert rq.startswith("LEVELQ_RQ_URL: redis://127.0.0.1:1: ") and "refused" in rq
    assert database.startswith("LEVELQ_DATABASE_URL: postgresql://ann:***@127.0.0.1:1/app: ")
    seen = look(settings.model_copy(update={"redis_url": f"redis://{NOWHERE}"}))
    assert (seen.lanes, seen.totals) == (None, {"rejected": 0, "quarantined": 0})
    assert len(seen.problems) == 1 and seen.problems[0].startswith("LEVELQ_REDIS_URL: redis://127.0.0.1:1: ")


# WorkerAlerts


def test_notices_of_the_same_cause_are_one_line(settings: Settings, redis: Redis) -> None:
    for worker in ("a:1", "a:2", "b:1"):
        WorkerAlerts(redis, KEYS, worker, 60).post("PostgreSQL: away")
    WorkerAlerts(redis, KEYS, "b:1 relay", 60).post("relay: PostgreSQL: away")
    assert problems(settings) == [
        "3 workers waiting for # s: PostgreSQL: away",
        "b:1 waiting for # s: relay: PostgreSQL: away",
    ]


def test_a_notice_is_as_old_as_its_first_post_and_goes_when_withdrawn(redis: Redis) -> None:
    notices = WorkerAlerts(redis, KEYS, "a:1", 60)
    notices.post("first")
    until(lambda: read(redis, KEYS)[0].seconds > 0.02)
    notices.post("second" * MOST_CHARACTERS)
    (notice,) = read(redis, KEYS)
    assert notice.worker == "a:1" and notice.seconds > 0.02 and len(notice.what) == MOST_CHARACTERS
    notices.withdraw()
    assert read(redis, KEYS) == []
    again = time.monotonic()
    notices.post("again")
    assert read(redis, KEYS)[0].seconds <= time.monotonic() - again + 0.002  # Redis's time in ms, rounded


def test_a_notice_that_is_not_renewed_counts_for_nothing(redis: Redis) -> None:
    WorkerAlerts(redis, KEYS, "dead", 0.05).post("x")
    WorkerAlerts(redis, KEYS, "alive", 60).post("y")
    until(lambda: [notice.worker for notice in read(redis, KEYS)] == ["alive"])
    assert 0 < redis.pttl(KEYS.notices) <= 60_000


def test_the_dead_leave_a_bounded_number_of_notices(redis: Redis) -> None:
    for n in range(MOST_WORKERS + 1):
        WorkerAlerts(redis, KEYS, f"host:{n}", 60).post("x")
    assert redis.hlen(KEYS.notices) == 1


def test_a_notice_that_redis_refuses_is_let_be() -> None:
    with Redis.from_url(f"redis://{NOWHERE}") as nowhere:
        WorkerAlerts(nowhere, KEYS, "a:1", 60).post("x")
        WorkerAlerts(nowhere, KEYS, "a:1", 60).withdraw()


def test_a_worker_leaves_its_notice_for_as_long_as_it_waits(redis: Redis, settings: Settings) -> None:
    stop = Stop()
    stop.set()  # nobody waits here
    weather = Outage(stop, notices=alerts_of(redis, settings))
    weather.failed("PostgreSQL: starting up")
    weather.failed("PostgreSQL: read-only")
    assert [notice.what for notice in read(redis, KEYS)] == ["PostgreSQL: read-only"]
    weather.passed()
    assert read(redis, KEYS) == []
    weather.failed("PostgreSQL: away")
    weather.end()
    assert read(redis, KEYS) == []


def test_partitions_that_stand_still_are_looked_at_a_second_time_together(
    settings: Settings, redis: Redis, listed: LaneWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("levelq.cli.standstill.time.sleep", waits.append)
    redis.hset(KEYS.shards, "PLAYER", "1:16")
    for shard in range(16):
        partition = Partition("PLAYER", 1, shard)
        redis.rpush(KEYS.lane(partition, 1), b"%013d" % 1 + encode(LevelUp(user_id=1, specialization="PLAYER")))
        redis.zadd(KEYS.of(partition, "ready"), {"1": 1})
        redis.incr(KEYS.of(partition, "count"))
    told = look(settings).problems
    assert len(told) == 16 and all("its workers are dead" in problem for problem in told)
    assert len(waits) == 1

"""Raw garbage in lanes, on real servers: good commands beside it take effect once, and the worker goes on."""

from collections.abc import Iterator
from random import Random

import psutil
import pytest
from redis import Redis
from sqlalchemy import Engine, text

from levelq.embedded import Servers
from levelq_core import Settings
from levelq_worker import drain
from levelq_worker.draining.context import Runtime, install
from tests.fuzz.garbage import NO_USERS, PARTITION, Garden, Rejected
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until

USERS = range(1, 31)
BROKEN = range(101, 109)


@pytest.fixture
def worker(servers: Servers, redis: Redis, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """This process as a worker, on each kind of schema."""
    monkeypatch.setattr("levelq_worker.draining.context._current", None)
    runtime = install(Runtime(Settings.load(redis_url=servers.valkey.url, database_url=database_url)))
    yield runtime
    runtime.close()


def drained(worker: Runtime) -> bool:
    drain(str(PARTITION))
    status = worker.lanes.status(PARTITION)
    return status.ready == status.claimed == 0


def test_garbage_is_quarantined_and_good_commands_take_effect_once(
    worker: Runtime, redis: Redis, engine: Engine, rng: Random
) -> None:
    garden = Garden(worker, redis, rng)
    process = psutil.Process()
    until(lambda: drained(worker))
    before = process.memory_info().rss
    for user in BROKEN:
        garden.break_lane(user)
    for name in NO_USERS:
        garden.weed_where_nobody_lives(name)
    for _ in range(4):
        for _ in range(200):
            rng.choice((garden.sow, garden.weed))(rng.choice(USERS))
        garden.drop_a_boulder(rng.choice(USERS))
        garden.sow(rng.choice(USERS))
        until(lambda: drained(worker))
    assert process.memory_info().rss - before < 64 * 2**20
    check_rows(engine, garden)
    check_lanes(worker, redis, garden)


def check_rows(engine: Engine, garden: Garden) -> None:
    """Every good command once, in the order it was sent; every weed in the quarantine; nothing else."""
    with engine.connect() as connection:
        ledger = connection.execute(text("SELECT command_id, user_id, status FROM levelq_ledger ORDER BY id")).all()
        progress = connection.execute(text("SELECT student_id, total_xp FROM specialization_progress")).all()
        quarantine = connection.execute(text("SELECT user_id, length, sha256, raw FROM levelq_quarantine")).all()
    assert sorted(row.command_id for row in ledger) == sorted(garden.good)
    assert {row.status for row in ledger} == {"applied"}
    order = {command_id: n for n, command_id in enumerate(garden.good)}
    for user in USERS:
        mine = [order[row.command_id] for row in ledger if row.user_id == user]
        assert mine == sorted(mine)
    assert {row.student_id: row.total_xp for row in progress} == garden.xp
    assert {Rejected(row.user_id, row.length, bytes(row.sha256)) for row in quarantine} == garden.malformed
    assert len(quarantine) == len(garden.malformed)
    assert max(len(row.raw) for row in quarantine) == 4096


def check_lanes(worker: Runtime, redis: Redis, garden: Garden) -> None:
    """Nothing waits but the keys that are no lists: the worker left those as they are, for an operator."""
    lanes = list(redis.scan_iter(KEYS.of(PARTITION, "lane:").encode() + b"*"))
    assert {key.rpartition(b":")[2] for key in lanes} == garden.broken
    assert set(redis.zrange(KEYS.of(PARTITION, "ready"), 0, -1)) == garden.broken
    status = worker.lanes.status(PARTITION)
    assert (status.waiting, status.ready, status.claimed, status.parked) == (0, 0, 0, len(garden.broken))
    assert not worker.outage.bad

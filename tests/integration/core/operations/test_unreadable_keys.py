"""Every key of levelq's with another type, or with content of another program: the rest goes on, it is named, fixed.

One table: what is planted, then the same look at each reader. PLAYER's keys are spoilt; COACH must not notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine, text

from levelq.cli import connections
from levelq.cli.rebuild import rebuild
from levelq_core import ConfigurationError, LevelUp, Settings
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.namespace_binding import bound_to
from levelq_core.lanes.partition_directory import partitions
from levelq_core.operations.identity import ensure_identity
from levelq_core.operations.parked_advice import burst_lines
from levelq_core.operations.readings.status import status as look
from levelq_core.operations.verify import Options, verify
from levelq_producer import AsyncProducer, Producer
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from levelq_worker.relay.thread import Relay
from levelq_worker.sweeper import Sweeper
from tests.support.fixtures.keys import KEYS

PLAYER, COACH = Partition("PLAYER"), Partition("COACH")
HUGE = b"x" * 2_000_000
CONTENTS = {"text": b"bad\x1b[2J", "bytes": b"\xff\xfe\x00", "huge": HUGE}
GLOBAL = {
    KEYS.registry: "zset", KEYS.shards: "hash", KEYS.notices: "hash", KEYS.workers: "hash", KEYS.database: "string",
    KEYS.drift: "hash", KEYS.auditor: "string", KEYS.trends: "hash",
}  # fmt: skip
OF_PARTITION = {
    "ready": "zset", "claimed": "zset", "tokens": "hash", "parked": "hash", "drains": "zset", "wake": "string",
    "count": "string", "progress": "string", "closed": "string", "filled": "string", "relay": "string",
}  # fmt: skip
KEYS_AND_TYPES = GLOBAL | {KEYS.of(PLAYER, name): kind for name, kind in OF_PARTITION.items()}


def wrong_type(redis: Redis, key: str) -> None:
    redis.delete(key)
    if KEYS_AND_TYPES[key] == "hash":
        redis.rpush(key, "of another type")
    else:
        redis.hset(key, "of", "another type")


def member(redis: Redis, key: str, content: bytes) -> None:
    kind = KEYS_AND_TYPES[key]
    if kind == "zset":
        redis.zadd(key, {content: 1})
    elif kind == "hash":
        redis.hset(key, content, content)
        redis.hset(key, "PLAYER" if key == KEYS.shards else "7", content)
    else:
        redis.set(key, content)


class Running:
    """A worker that has worked before the fault, as most have."""

    def __init__(self, settings: Settings, redis: Redis, engine: Engine) -> None:
        self.settings, self.redis, self.engine = settings, redis, engine
        self.runtime = Runtime(settings)
        self.relay = Relay(settings, list(settings.tracks), self.runtime.binding)
        self.sweeper = Sweeper(settings, list(settings.tracks), self.runtime.binding)
        ensure_identity(engine)
        self.step()

    def step(self) -> None:
        """What a worker does again and again; a fault of one partition is logged and must not stop another."""
        self.relay.poll()
        try:
            self.sweeper.sweep()
        except Exception as error:
            self.swept = str(error)
        for partition in (PLAYER, COACH):
            Drain(self.runtime, partition).run()

    def close(self) -> None:
        self.relay.release()
        self.runtime.close()

    def applied(self, name: str) -> int:
        with self.engine.connect() as connection:
            query = text("SELECT count(*) FROM levelq_ledger WHERE specialization = :name")
            return int(connection.execute(query, {"name": name}).scalar_one())


@pytest.fixture
def running(settings: Settings, redis: Redis, own_engine: Engine) -> Any:
    found = Running(settings, redis, own_engine)
    yield found
    found.close()


CASES: dict[str, Callable[[Redis], str]] = {}
for _key in KEYS_AND_TYPES:

    def _wrong(redis: Redis, key: str = _key) -> str:
        wrong_type(redis, key)
        return key

    CASES[f"{_key.rpartition(':')[2]}-wrong-type"] = _wrong
    for _kind, _content in CONTENTS.items():

        def _planted(redis: Redis, key: str = _key, content: bytes = _content) -> str:
            member(redis, key, content)
            return key

        CASES[f"{_key.rpartition(':')[2]}-{_kind}"] = _planted

MENDED = {KEYS.of(PLAYER, name) for name in ("count", "wake", "progress", "drains")}  # by a sweep or acknowledgement
NAMED = {
    *(KEYS.registry, KEYS.shards, KEYS.notices, KEYS.workers, KEYS.database, KEYS.trends),
    KEYS.of(PLAYER, "parked"),
}


def is_told(key: str, case: str) -> bool:
    """Whether a fault is left once the workers have gone on: any wrong type, and content that is read."""
    closed = key == KEYS.of(PLAYER, "closed")
    return key not in MENDED and (closed or key in NAMED or case.endswith("wrong-type"))


@pytest.mark.parametrize("case", CASES)
def test_unreadable_key_stops_nothing_else_is_named_and_fixed(
    case: str,
    running: Running,
    settings: Settings,
    redis: Redis,
    own_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Producer(settings) as producer:
        producer.level_up(1, "COACH", 10)
        producer.level_up(1, "PLAYER", 10)
        key = CASES[case](redis)
        producer.level_up(2, "COACH", 10)
    with Producer(settings) as fresh:
        if key != KEYS.shards or not case.endswith("wrong-type"):
            fresh.level_up(3, "COACH", 10)
    running.step()
    assert running.applied("COACH") >= 2
    problems = look(settings).problems
    named = [line for line in problems if line.startswith(f"{key}: ") and "`levelq rebuild` removes it" in line]
    assert bool(named) == is_told(key, case), problems
    assert not [line for line in problems if line.startswith("LEVELQ_")], problems
    assert all(line.isprintable() and len(line) < 400 for line in problems)
    if key == KEYS.database:
        with pytest.raises(ConfigurationError, match=key):
            verify(own_engine, redis, settings, Options())
    else:
        report = verify(own_engine, redis, settings, Options())
        notes = [example.detail for check in report.notes for example in check.examples]
        assert any(note.startswith(f"{key}: ") for note in notes) == is_told(key, case)
    assert list(burst_lines(Lanes(redis, settings), partitions(Lanes(redis, settings), settings.tracks)))

    monkeypatch.setattr(connections, "load", lambda: settings)
    rebuild([])
    shown = capsys.readouterr().out.replace("\n", "")
    assert (f"removed  {key}" in shown) == is_told(key, case)
    assert "\x1b" not in shown
    running.step()
    running.step()
    assert [line for line in look(settings).problems if key in line] == []
    assert bound_to(Lanes(redis, settings)) is not None
    with Producer(settings) as producer:
        producer.level_up(4, "PLAYER", 10)
    running.step()
    ready = KEYS.of(PLAYER, "ready")
    if parked := redis.zrange(ready, 0, -1):
        redis.zadd(ready, dict.fromkeys(parked, 0))  # type: ignore[type-var]
        running.step()
    assert running.applied("PLAYER") == 2


def test_unreadable_reply_is_passed_over_and_no_other_waiter_notices(running: Running, settings: Settings) -> None:
    redis = running.redis
    with Producer(settings) as producer:
        handles = producer.send_many(
            [LevelUp(user_id=n, specialization="COACH", xp_gained=1) for n in range(1, 6)], True
        )
        stream, text_, huge, wrong = (KEYS.reply(handle.command_id.bytes) for handle in handles[:4])
        redis.xadd(stream, {"foreign": "fields"})
        redis.xadd(text_, {"send": b"\xff", "outcome": b"\xff"})
        redis.xadd(huge, {"send": b"another", "outcome": HUGE})
        redis.set(wrong, "no stream")
        with ThreadPoolExecutor(5) as pool:
            results = [pool.submit(handle.result, 20) for handle in handles]
            running.step()
            assert [result.result().status for result in results] == ["applied"] * 5


@pytest.mark.parametrize("asynchronous", [False, True])
def test_unreadable_layout_refuses_only_the_commands_of_its_specialization(
    running: Running, settings: Settings, asynchronous: bool
) -> None:
    running.redis.hset(KEYS.shards, "PLAYER", "bad")
    names = ["COACH", "PLAYER", "COACH", "PLAYER"]
    commands = [LevelUp(user_id=1, specialization=name, xp_gained=1) for name in names]

    async def send() -> list[Any]:
        async with AsyncProducer(settings) as producer:
            return list(await producer.send_many(commands))

    if asynchronous:
        handles = asyncio.run(send())
    else:
        with Producer(settings) as producer:
            handles = producer.send_many(commands)
    errors = [handle.error for handle in handles]
    assert errors[0] is errors[2] is None
    assert isinstance(errors[1], ConfigurationError) and "got 'bad' for PLAYER" in str(errors[3])
    running.step()
    assert (running.applied("COACH"), running.applied("PLAYER")) == (2, 0)


@pytest.mark.parametrize(
    ("user", "score", "what"),
    [("8", float("inf"), "'8': expected a time, got inf"), ("bad\x1b", 9e15, "expected a user id, got 'bad\\x1b'")],
    ids=["infinite", "no user"],
)
def test_lane_that_no_claim_ever_takes_is_named_and_fixed(
    running: Running,
    settings: Settings,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    user: str,
    score: float,
    what: str,
) -> None:
    ready = KEYS.of(PLAYER, "ready")
    redis.zadd(ready, {user: score})
    with Producer(settings) as producer:
        producer.level_up(8, "PLAYER", 10)
    running.step()
    assert f"{ready}: {what}; `levelq rebuild` removes it" in look(settings).problems
    monkeypatch.setattr(connections, "load", lambda: settings)
    rebuild(["PLAYER"])
    running.step()
    assert list(look(settings).problems) == []
    assert running.applied("PLAYER") == 1

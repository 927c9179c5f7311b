"""Entries that are no commands: they are quarantined, and their neighbours in lane and batch are applied."""

import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b, sha256
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine, text

from levelq_core.domain.codec import encode
from levelq_core.domain.record import Lane
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import drain_all, push, push_bare, push_raw
from tests.support.fixtures.keys import KEYS
from tests.support.isolation import PLAYER, experience, level_up


def entry(
    user_id: int,
    kind: int = 1,
    *,
    by: int = 0,
    level: int = 0,
    numbers: Sequence[int] = (1, 0, 0, 0, 0),
    reason: bytes = b"",
    version: int = 1,
) -> bytes:
    """An encoded command, made by hand so that anything can be wrong with it; its digest is right."""
    body = struct.pack("<Bq6i", kind, by, level, *numbers) + reason
    digest = blake2b(Lane("PLAYER", user_id).salt + body, digest_size=16).digest()
    return struct.pack("<2sBB16s16s", b"LQ", version, 0, bytes(15) + b"\7", digest) + body


GOOD = encode(level_up(1))
NO_ENTRY, DAMAGED = "not a levelq entry", "the digest does not match: damaged, or another lane's entry"
BAD_REASON = "the reason is too long or contains NUL"
BAD_SYNC = entry(1, kind=3, level=2, numbers=(0,) * 5)
MALFORMED = {
    "text": (b"give me a level", NO_ENTRY),
    "JSON": (b'{"user_id": 1, "xp_gained": 5}', NO_ENTRY),
    "nothing": (b"", NO_ENTRY),
    "cut short": (GOOD[:40], "53 bytes, expected at least 82"),
    "damaged": (GOOD[:-1] + b"\x01", DAMAGED),
    "another lane's": (encode(level_up(2)), DAMAGED),
    "unknown kind": (entry(1, kind=9), "unknown kind 9 of encoding version 1"),
    "negative gain": (entry(1, numbers=(-5, 0, 0, 0, 0)), "a level_up with a negative gain or a level"),
    "unknown source": (BAD_SYNC, "a sync_levels with an unknown source or with changes"),
    "nobody": (entry(1, by=-1), "advanced_by below 0"),
    "no UTF-8": (entry(1, reason=b"\xff\xfe"), "the reason is not UTF-8"),
    "NUL": (entry(1, reason=b"a\0b"), BAD_REASON),
    "long reason": (entry(1, reason=b"r" * 501), BAD_REASON),
    "version 0": (entry(1, version=0), "encoding version 0, which never existed"),
}


@pytest.fixture
def worker(own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime]) -> Runtime:
    return worker_of(own_database_url)


def quarantine(engine: Engine) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text("SELECT * FROM levelq_quarantine ORDER BY id")).mappings()]


@pytest.mark.parametrize(("payload", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_entry_is_quarantined_and_its_neighbours_are_applied(
    worker: Runtime, own_engine: Engine, payload: bytes, reason: str
) -> None:
    push(worker, [level_up(1, 100), level_up(2, 7)])
    push_raw(worker, "PLAYER", 1, payload)
    push(worker, [level_up(1, 1000), level_up(3, 7)])
    drain_all(worker, "PLAYER")
    assert experience(own_engine) == {1: 1100, 2: 7, 3: 7}
    (row,) = quarantine(own_engine)
    assert (row["specialization"], row["user_id"], row["reason"]) == ("PLAYER", 1, reason)
    assert (bytes(row["raw"])[13:], row["length"]) == (payload, len(payload) + 13)
    assert bytes(row["sha256"]) == sha256(bytes(row["raw"])).digest()
    assert worker.lanes.status(PLAYER).waiting == 0


def test_entry_of_a_megabyte_is_quarantined_by_its_head(worker: Runtime, own_engine: Engine, redis: Redis) -> None:
    push_bare(redis, "PLAYER", 1, b"x" * 2**20)
    push(worker, [level_up(1, 100)])
    drain_all(worker, "PLAYER")
    (row,) = quarantine(own_engine)
    assert (row["length"], bytes(row["raw"])) == (2**20, b"x" * 4096)
    assert row["reason"].startswith("over the payload limit; sha1 of the whole: ")
    assert experience(own_engine) == {1: 100}


def test_large_entries_with_the_same_head_are_both_quarantined(
    worker: Runtime, own_engine: Engine, redis: Redis
) -> None:
    for end in (b"a", b"b"):
        push_bare(redis, "PLAYER", 1, b"x" * 5000 + end)
    push(worker, [level_up(1, 100)])
    drain_all(worker, "PLAYER")
    assert len({row["reason"] for row in quarantine(own_engine)}) == 2


def test_entries_pushed_by_hand_do_not_upset_the_count(worker: Runtime, own_engine: Engine, redis: Redis) -> None:
    """The count guards the partition's limit: below zero it would guard nothing."""
    for raw in (b"", b"not JSON", b"13 digits are a stamp"):
        push_bare(redis, "PLAYER", 1, raw)
    push(worker, [level_up(1, 100), level_up(2, 100)])
    drain_all(worker, "PLAYER")
    assert experience(own_engine) == {1: 100, 2: 100}
    assert [row["length"] for row in quarantine(own_engine)] == [0, 8, 21]
    assert worker.lanes.status(PLAYER).waiting == 0


def test_lane_whose_name_is_no_user_id_is_quarantined(worker: Runtime, own_engine: Engine, redis: Redis) -> None:
    push_bare(redis, "PLAYER", "007", b"13 digits 123" + GOOD)
    redis.zadd(KEYS.of(PLAYER, "ready"), {"007": 0})
    push(worker, [level_up(7)])
    drain_all(worker, "PLAYER")
    (row,) = quarantine(own_engine)
    assert (row["user_id"], row["reason"]) == (None, "lane of b'007', which is no user id")
    assert experience(own_engine) == {7: 10}


def test_malformed_entry_delivered_twice_is_quarantined_once(
    worker: Runtime, own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], redis: Redis
) -> None:
    """The worker dies between COMMIT and the acknowledgement; its claim runs out and another takes the lane."""
    push_raw(worker, "PLAYER", 1, b"malformed")
    push(worker, [level_up(1, 100)])
    batch = redis.lrange(KEYS.lane(PLAYER, 1), 0, -1)
    Drain(worker, PLAYER).run()
    redis.rpush(KEYS.lane(PLAYER, 1), *batch)
    redis.incrby(KEYS.of(PLAYER, "count"), 2)
    redis.zadd(KEYS.of(PLAYER, "ready"), {"1": 0})
    drain_all(worker_of(own_database_url), "PLAYER")
    assert [row["reason"] for row in quarantine(own_engine)] == [NO_ENTRY]
    assert experience(own_engine) == {1: 100}


def test_entry_of_a_newer_version_stays_in_its_lane(worker: Runtime, own_engine: Engine, redis: Redis) -> None:
    push(worker, [level_up(1, 100)])
    push_raw(worker, "PLAYER", 1, entry(1, version=3))
    push(worker, [level_up(1, 1000), level_up(2, 7)])
    Drain(worker, PLAYER).run()
    assert experience(own_engine) == {1: 100, 2: 7}
    assert quarantine(own_engine) == []
    assert [e[15] for e in redis.lrange(KEYS.lane(PLAYER, 1), 0, -1)] == [3, 1]
    status = worker.lanes.status(PLAYER)
    assert (status.waiting, status.ready, status.parked, status.claimed) == (2, 0, 1, 0)


def test_lane_key_of_another_type_is_parked_and_other_lanes_are_applied(
    worker: Runtime, own_engine: Engine, redis: Redis
) -> None:
    redis.set(KEYS.lane(PLAYER, 1), "no list")
    redis.zadd(KEYS.of(PLAYER, "ready"), {"1": 0})
    push(worker, [level_up(2), level_up(3)])
    Drain(worker, PLAYER).run()
    assert experience(own_engine) == {2: 10, 3: 10}
    assert worker.lanes.status(PLAYER).parked == 1

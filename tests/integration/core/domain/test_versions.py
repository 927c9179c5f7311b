"""Two encodings side by side, as while an installation is upgraded, or goes back: nothing is lost, order is kept.

The next version of the encoding is that of a LevelUp with another number: a worker that knows it reads both.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine

from levelq_core import Adjust, LevelUp, Reset
from levelq_core.domain import codec
from levelq_core.domain.codec import STAMP_DIGITS, encode
from levelq_core.domain.record import Record
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import drain_all, ledger, push_raw
from tests.support.db_check import query
from tests.support.fixtures.keys import KEYS, PLAYER

VERSION_AT = 2  # in an encoded command
decode = codec.decode


def up(user_id: int, xp: int, **fields: Any) -> LevelUp:
    return LevelUp(user_id=user_id, specialization="PLAYER", xp_gained=xp, **fields)


def encode_next(command: LevelUp) -> bytes:
    payload = bytearray(encode(command))
    payload[VERSION_AT] = codec.VERSION + 1
    return bytes(payload)


def decode_both(entry: bytes, salt: bytes) -> Record:
    at = STAMP_DIGITS + VERSION_AT
    known = b"\1"  # of a LevelUp
    return decode(entry[:at] + known + entry[at + 1 :] if entry[at] == codec.VERSION + 1 else entry, salt)


@pytest.fixture
def upgraded(worker: Runtime, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A block in which the worker knows both encodings, and finds the lanes that waited for it due."""

    @contextmanager
    def block() -> Iterator[None]:
        users: Any = redis.zrange(KEYS.of(PLAYER, "ready"), 0, -1)
        for user in users:
            redis.zadd(KEYS.of(PLAYER, "ready"), {user: 1})
        with monkeypatch.context() as patch:
            patch.setattr(codec, "decode", decode_both)
            yield

    return block


def push(worker: Runtime, *payloads: tuple[LevelUp, bytes]) -> None:
    for command, payload in payloads:
        push_raw(worker, "PLAYER", command.user_id, payload)


def old(command: LevelUp) -> tuple[LevelUp, bytes]:
    return command, encode(command)


def new(command: LevelUp) -> tuple[LevelUp, bytes]:
    return command, encode_next(command)


def decided(engine: Engine) -> list[tuple[int, int]]:
    """(user, xp) in the order of effect."""
    return [(row["user_id"], row["xp"]) for row in ledger(engine)]


def test_producers_and_workers_of_both_versions_keep_each_lanes_order(
    worker: Runtime, upgraded: Any, own_engine: Engine
) -> None:
    push(worker, old(up(1, 1)), new(up(1, 2)), old(up(1, 3)), old(up(2, 1)), new(up(3, 1)), old(up(3, 2)))
    Drain(worker, PLAYER).run()
    assert decided(own_engine) == [(1, 1), (2, 1)]
    push(worker, old(up(1, 4)), old(up(2, 2)))
    Drain(worker, PLAYER).run()
    assert decided(own_engine) == [(1, 1), (2, 1), (2, 2)]
    with upgraded():
        drain_all(worker, "PLAYER")
    assert [xp for user, xp in decided(own_engine) if user == 1] == [1, 2, 3, 4]
    assert [xp for user, xp in decided(own_engine) if user == 3] == [1, 2]


def test_one_command_in_both_encodings_counts_once(worker: Runtime, upgraded: Any, own_engine: Engine) -> None:
    """A producer is upgraded between two sends of one command. The digest is of the content alone."""
    command = up(1, 5)
    push(worker, old(command))
    drain_all(worker, "PLAYER")
    push(worker, new(command), old(up(1, 6)))
    with upgraded():
        drain_all(worker, "PLAYER")
    assert decided(own_engine) == [(1, 5), (1, 6)]


def test_after_going_back_what_the_new_version_wrote_waits_until_it_returns(
    worker: Runtime, upgraded: Any, own_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with upgraded():
        push(worker, new(up(1, 1)))
        drain_all(worker, "PLAYER")
    push(worker, new(up(1, 2)), old(up(1, 3)), old(up(2, 1)))
    Drain(worker, PLAYER).run()
    assert decided(own_engine) == [(1, 1), (2, 1)]
    assert "lanes wait for a newer worker: encoding version 3; this worker knows 2" in caplog.text
    assert worker.lanes.status(PLAYER).parked == 1
    with upgraded():
        drain_all(worker, "PLAYER")
    assert decided(own_engine) == [(1, 1), (2, 1), (1, 2), (1, 3)]


@pytest.fixture
def older(worker: Runtime, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A block in which the worker is one of before Adjust and Reset: it knows the first encoding alone."""

    @contextmanager
    def block() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(codec, "VERSION", 1)
            yield

    return block


@pytest.mark.parametrize("kind", [Adjust, Reset])
def test_older_worker_leaves_a_kind_it_does_not_know_in_its_lane(
    worker: Runtime,
    older: Any,
    upgraded: Any,
    own_engine: Engine,
    caplog: pytest.LogCaptureFixture,
    kind: type[Adjust] | type[Reset],
) -> None:
    """It is logged; commands before it are applied, commands after it wait."""
    command = kind(user_id=1, specialization="PLAYER")
    push(worker, old(up(1, 10)))
    push_raw(worker, "PLAYER", 1, encode(command))
    push(worker, old(up(1, 1)), old(up(2, 7)))
    with older():
        Drain(worker, PLAYER).run()
    assert decided(own_engine) == [(1, 10), (2, 7)]
    assert "lanes wait for a newer worker: encoding version 2; this worker knows 1" in caplog.text
    assert worker.lanes.status(PLAYER).parked == 1
    assert query(own_engine, "SELECT FROM levelq_quarantine") == []
    with upgraded():
        drain_all(worker, "PLAYER")
    kinds = [row["kind"] for row in ledger(own_engine) if row["user_id"] == 1]
    assert kinds == ["level_up", command.kind, "level_up"]

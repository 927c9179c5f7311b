"""The next batch is claimed while one is applied: what becomes of it when that one fails, or the worker must stop."""

import socket
from collections.abc import Callable
from typing import Any

import pytest
from psycopg import OperationalError
from redis.exceptions import AuthenticationError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy import Engine

from levelq_core import failpoints
from levelq_core.domain.record import Lane
from levelq_worker.draining import claims
from levelq_worker.draining.claims import Claims, PendingClaim
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import drain_all, push
from tests.support.fixtures.keys import KEYS
from tests.support.isolation import PLAYER, experience, level_up, push_at_once

USERS = range(1, 6)
ALL_APPLIED = dict.fromkeys(USERS, 1)


@pytest.fixture
def worker(own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime]) -> Runtime:
    """One that takes a command at a time, and five lanes of one."""
    worker = worker_of(own_database_url, claim_seconds=10, redis_seconds=2, batch_commands=1)
    push(worker, [level_up(1, 0)])
    drain_all(worker, "PLAYER")  # the partition is open
    push_at_once(worker, [level_up(user, 1) for user in USERS])
    return worker


@pytest.fixture
def drain(worker: Runtime) -> Drain:
    return Drain(worker, PLAYER)


Once = Callable[[str, Callable[[], object]], None]


@pytest.fixture
def once_at(monkeypatch: pytest.MonkeyPatch, worker: Runtime, drain: Drain) -> Once:
    """Do something at a failpoint of the first batch, or between its COMMIT and the answer ("commit sent")."""
    decode_prefetched = Claims.decode_prefetched

    def patch(point: str, do: Callable[[], object]) -> None:
        def hook(name: str) -> None:
            if name == point:
                monkeypatch.setattr(failpoints, "hook", None)
                assert worker.lanes.status(PLAYER).claimed == 2
                do()

        def sent(self: Claims) -> None:
            hook("commit sent")
            monkeypatch.undo()
            decode_prefetched(self)

        if point == "commit sent":
            monkeypatch.setattr(Claims, "decode_prefetched", sent)
        else:
            monkeypatch.setattr(failpoints, "hook", hook)

    return patch


def fails(error: Exception) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


def counts(worker: Runtime) -> tuple[int, int, int]:
    status = worker.lanes.status(PLAYER)
    return status.ready, status.claimed, status.drains


def finish(drain: Drain) -> None:
    while not drain.step():
        pass


def test_prefetched_batches_are_applied_in_their_turn(
    worker: Runtime, drain: Drain, own_engine: Engine, once_at: Once
) -> None:
    once_at("begin", lambda: None)
    drain.run()
    assert experience(own_engine) == ALL_APPLIED
    assert worker.lanes.status(PLAYER)[:5] == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("point", ["begin", "commit sent", "commit reply"])
def test_worker_that_must_stop_releases_the_prefetched_claim(
    worker: Runtime, drain: Drain, own_engine: Engine, once_at: Once, point: str
) -> None:
    once_at(point, worker.stop.set)
    drain.run()
    assert sum(experience(own_engine).values()) == 1  # of five
    assert counts(worker) == (4, 0, 0)


@pytest.mark.parametrize("point", ["begin", "commit request", "commit reply"])
def test_failed_batch_and_prefetched_claim_are_released(
    worker: Runtime, drain: Drain, own_engine: Engine, once_at: Once, point: str
) -> None:
    once_at(point, fails(OperationalError("the connection was lost")))
    drain.step()
    assert counts(worker) == (5, 0, 1)
    assert sum(experience(own_engine).values()) == (point == "commit reply")
    finish(drain)
    assert experience(own_engine) == ALL_APPLIED


def test_silent_redis_is_not_waited_for_again(worker: Runtime, drain: Drain, once_at: Once) -> None:
    """The prefetched claim runs out."""
    once_at("begin", fails(RedisTimeoutError("Timeout reading from socket")))
    drain.step()
    assert not drain._claims.has_prefetched
    assert worker.lanes.status(PLAYER).claimed == 1


def test_claim_that_has_waited_is_renewed_first(
    worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed: list[int] = []
    renew = worker.lanes.renew
    monkeypatch.setattr(worker.lanes, "renew", lambda *arguments: renewed.append(renew(*arguments)))
    Drain(worker, PLAYER).run()
    assert renewed == []
    push_at_once(worker, [level_up(user, 1) for user in USERS])
    monkeypatch.setattr(claims, "OLD", 0.0)
    Drain(worker, PLAYER).run()
    assert renewed == [1] * 5
    assert experience(own_engine) == dict.fromkeys(USERS, 2)


def test_prefetched_claim_is_decoded_between_commit_and_its_answer(
    drain: Drain, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    salt = Lane.salt

    def noted(lane: Lane) -> Any:
        events.append("decoded")
        return salt.__get__(lane)

    monkeypatch.setattr(Lane, "salt", property(noted))
    monkeypatch.setattr(failpoints, "hook", events.append)
    drain.run()
    order = [event for event in events if event in ("decoded", "commit request", "commit reply", "ack request")]
    assert order[:5] == ["decoded", "commit request", "decoded", "commit reply", "ack request"]
    assert (order.count("decoded"), order.count("ack request")) == (5, 5)
    assert experience(own_engine) == ALL_APPLIED


def test_prefetched_claim_whose_reply_is_lost_is_replaced(
    worker: Runtime, drain: Drain, own_engine: Engine, once_at: Once
) -> None:
    def lose() -> None:
        following = drain._claims._next
        assert isinstance(following, PendingClaim)
        connection = following.reply._connection._sock
        assert connection.recv(65_536)
        connection.shutdown(socket.SHUT_RDWR)

    once_at("commit sent", lose)
    drain.run()
    assert sum(experience(own_engine).values()) == 4
    assert worker.lanes.status(PLAYER)[:3] == (1, 0, 1)  # the lost claim has to run out


def test_entry_that_cannot_be_decoded_ahead_raises_in_its_turn(
    drain: Drain, own_engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug of levelq must not keep COMMIT's answer from being received."""
    salt, bugs = Lane.salt, [ZeroDivisionError("the same again"), ZeroDivisionError("a bug")]

    def broken(lane: Lane) -> Any:
        if bugs and lane.user_id == 2:
            raise bugs.pop()
        return salt.__get__(lane)

    monkeypatch.setattr(Lane, "salt", property(broken))
    drain.step()
    assert (len(bugs), sum(experience(own_engine).values()), caplog.text) == (1, 1, "")
    drain.step()
    assert (len(bugs), sum(experience(own_engine).values())) == (0, 1)
    assert "the same again" in caplog.text
    finish(drain)
    assert experience(own_engine) == ALL_APPLIED


def test_reply_of_several_sends_is_received_whole(
    worker: Runtime, drain: Drain, own_database_url: str, worker_of: Callable[..., Runtime]
) -> None:
    """Redis sends 64 KiB at a time."""
    drain.run()
    push_at_once(worker, [level_up(user, 1, reason="x" * 500) for user in range(1, 401)])
    reply = worker_of(own_database_url).lanes.begin_claim(PLAYER, "drain", "token", 400)
    assert len(reply.result().lanes) == 400


def test_refusal_that_redis_py_takes_for_a_lost_connection_is_raised(worker: Runtime) -> None:
    lanes = worker.lanes
    pool = lanes._pools.at(KEYS.of(PLAYER, "ready"))
    stranger = pool.acquire()
    with lanes.redis.client() as operator:  # type: ignore[no-untyped-call]
        operator.config_set("requirepass", "a secret")
        try:
            pool.execute(stranger, [("RESET",)])  # the connection is not authenticated any more
            pool.release(stranger)
            # Without a login the server takes no call of more than ten arguments.
            with pytest.raises(AuthenticationError):
                lanes._begin(lanes._protocol.sweep(PLAYER), list).result()
        finally:
            operator.config_set("requirepass", "")

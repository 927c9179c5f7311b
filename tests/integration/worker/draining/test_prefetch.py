"""The next batch is claimed while one is applied: what becomes of it when that one fails, or when all must stop."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

import pytest
from psycopg import OperationalError
from redis.exceptions import AuthenticationError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy import Engine

from levelq_core.coupler.lane_batch import LaneBatch
from levelq_core.domain.codec import record_of
from levelq_core.domain.record import Lane
from levelq_core.lanes import client as lanes
from levelq_core.lanes import pending_reply as answers
from levelq_core.redis_client import pool as connections
from levelq_core.redis_client.pool import NodePool
from levelq_worker.draining import batch, claims
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from levelq_worker.draining.transaction import Applied
from tests.support.coupler import drain_all, push
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.isolation import PLAYER, experience, level_up, push_at_once

Apply = Callable[..., Applied]


@pytest.fixture
def worker(own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime]) -> Runtime:
    """One that takes a command at a time, and five lanes of one."""
    worker = worker_of(own_database_url, claim_seconds=10, redis_seconds=2, batch_commands=1)
    push(worker, [level_up(1, 0)])
    drain_all(worker, "PLAYER")  # the partition is open
    push_at_once(worker, [level_up(user, 1) for user in range(1, 6)])
    return worker


def at_first_batch(monkeypatch: pytest.MonkeyPatch, worker: Runtime, do: Callable[[], object]) -> None:
    """Do something before the first batch is applied, when the second is claimed."""
    apply: Apply = worker.transaction.apply
    todo = [do]

    def applied(*arguments: Any, **options: Any) -> Applied:
        assert worker.lanes.status(PLAYER).claimed == 2 or not todo
        if todo:
            todo.pop()()
        return apply(*arguments, **options)

    monkeypatch.setattr(worker.transaction, "apply", applied)


def fails(error: Exception) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


def test_both_are_applied_in_their_turn(worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    at_first_batch(monkeypatch, worker, lambda: None)
    Drain(worker, PLAYER).run()
    assert experience(own_engine) == dict.fromkeys(range(1, 6), 1)
    assert worker.lanes.status(PLAYER)[:5] == (0, 0, 0, 0, 0)


def test_one_that_must_stop_gives_back_what_it_claimed_ahead(
    worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_first_batch(monkeypatch, worker, worker.stop.set)
    Drain(worker, PLAYER).run()
    assert sum(experience(own_engine).values()) == 1  # of five
    status = worker.lanes.status(PLAYER)
    assert (status.ready, status.claimed, status.drains) == (4, 0, 0)


def test_a_batch_that_fails_gives_back_both(
    worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_first_batch(monkeypatch, worker, fails(OperationalError("the database is away")))
    drain = Drain(worker, PLAYER)
    drain._step()
    status = worker.lanes.status(PLAYER)
    assert (status.ready, status.claimed, status.drains) == (5, 0, 1)
    while not drain._step():
        pass
    assert experience(own_engine) == dict.fromkeys(range(1, 6), 1)


def test_a_silent_redis_is_not_waited_for_once_more(
    worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was claimed ahead is left to the end of its claim."""
    at_first_batch(monkeypatch, worker, fails(RedisTimeoutError("Timeout reading from socket")))
    drain = Drain(worker, PLAYER)
    drain._step()
    assert not drain._claims.ahead
    assert worker.lanes.status(PLAYER).claimed == 1


def test_one_that_has_waited_for_long_is_renewed_first(
    worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed: list[int] = []
    renew = worker.lanes.renew
    monkeypatch.setattr(worker.lanes, "renew", lambda *arguments: renewed.append(renew(*arguments)))
    Drain(worker, PLAYER).run()
    assert renewed == []
    push_at_once(worker, [level_up(user, 1) for user in range(1, 6)])
    monkeypatch.setattr(claims, "AGED", 0.0)
    Drain(worker, PLAYER).run()
    assert renewed == [1] * 5
    assert experience(own_engine) == dict.fromkeys(range(1, 6), 2)


def hears_during_commit(monkeypatch: pytest.MonkeyPatch, drain: Drain, do: Callable[[], object]) -> None:
    """Do something after Redis has answered, while the first batch is committed; then hear the answer."""
    hear_ahead = drain._claims.hear_ahead
    todo = [do]

    def heard() -> None:
        following = drain._claims._next
        if todo and isinstance(following, claims.PendingClaim):
            until(following.answer.poll, what="the answer")
            todo.pop()()
        hear_ahead()

    monkeypatch.setattr(drain._claims, "hear_ahead", heard)


def noted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, event: str, events: list[str]) -> None:
    """Note every call of a method."""
    owner, _, method = name.partition(".")
    of = getattr(module, owner)
    call = getattr(of, method)

    def called(*given: Any, **options: Any) -> Any:
        events.append(event)
        return call(*given, **options)

    monkeypatch.setattr(of, method, called)


def test_the_next_is_decoded_before_one_is_known_to_be_committed(
    worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    drain = Drain(worker, PLAYER)
    hears_during_commit(monkeypatch, drain, lambda: events.append("commit"))
    noted(monkeypatch, batch, "Batch.__init__", "decode", events)
    noted(monkeypatch, lanes, "Lanes.begin_ack", "ack", events)
    drain.run()
    assert events[:4] == ["decode", "commit", "decode", "ack"]
    assert events.count("ack") == 5
    assert experience(own_engine) == dict.fromkeys(range(1, 6), 1)


def test_one_that_must_stop_gives_back_what_it_has_heard(
    worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain = Drain(worker, PLAYER)
    hears_during_commit(monkeypatch, drain, worker.stop.set)
    drain.run()
    assert sum(experience(own_engine).values()) == 1  # of five
    status = worker.lanes.status(PLAYER)
    assert (status.ready, status.claimed, status.drains) == (4, 0, 0)


def test_a_commit_that_is_lost_gives_back_what_was_heard_meanwhile(
    worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain = Drain(worker, PLAYER)
    hears_during_commit(monkeypatch, drain, lambda: None)
    apply: Apply = worker.transaction.apply
    lost = [OperationalError("the connection was lost")]

    def applied(*arguments: Any, **options: Any) -> Applied:
        done = apply(*arguments, **options)
        if lost:
            raise lost.pop()
        return done

    monkeypatch.setattr(worker.transaction, "apply", applied)
    drain._step()
    assert not drain._claims.ahead
    status = worker.lanes.status(PLAYER)
    assert (status.ready, status.claimed, status.drains) == (5, 0, 1)
    while not drain._step():
        pass
    assert experience(own_engine) == dict.fromkeys(range(1, 6), 1)


def test_an_answer_that_is_lost_is_asked_for_anew(
    worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain = Drain(worker, PLAYER)

    def lose() -> None:
        following = drain._claims._next
        assert isinstance(following, claims.PendingClaim)
        following.answer._taken_in = answers._NOT_YET
        following.answer._connection._sock.shutdown(socket.SHUT_RDWR)

    hears_during_commit(monkeypatch, drain, lose)
    drain.run()
    assert sum(experience(own_engine).values()) == 4
    assert worker.lanes.status(PLAYER)[:3] == (1, 0, 1)  # of that one the claim has to run out


def test_an_entry_that_cannot_be_decoded_ahead_is_met_in_its_turn(
    worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake of ours must not end a commit that PostgreSQL is at."""
    drain = Drain(worker, PLAYER)
    hears_during_commit(monkeypatch, drain, lambda: None)
    salt, mistakes = Lane.salt, [ZeroDivisionError("the same again"), ZeroDivisionError("a mistake")]

    def mistaken(lane: Lane) -> Any:
        if mistakes and lane.user_id == 2:
            raise mistakes.pop()
        return salt.__get__(lane)

    monkeypatch.setattr(Lane, "salt", property(mistaken))
    drain._step()
    assert (len(mistakes), sum(experience(own_engine).values()), caplog.text) == (1, 1, "")
    drain._step()
    assert (len(mistakes), sum(experience(own_engine).values())) == (0, 1)
    assert "the same again" in caplog.text
    while not drain._step():
        pass
    assert experience(own_engine) == dict.fromkeys(range(1, 6), 1)


LONG = 400  # commands of 500 bytes: an answer of four times what Redis sends at once


@pytest.fixture
def long_answer(worker: Runtime, own_database_url: str, worker_of: Callable[..., Runtime]) -> answers.PendingReply[Any]:
    """To a claim of all of them."""
    Drain(worker, PLAYER).run()
    push_at_once(worker, [level_up(user, 1, reason="x" * 500) for user in range(1, LONG + 1)])
    return worker_of(own_database_url).lanes.begin_claim(PLAYER, "drain", "token", LONG)


def looked_at(answer: answers.PendingReply[Any]) -> bool:
    assert select.select([answer._connection._sock], [], [], 10)[0]
    return answer.poll()


def test_a_long_answer_is_taken_in_by_looking_at_it(
    long_answer: answers.PendingReply[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis sends 64 KiB at a time, and more of it only when somebody has read."""
    while not looked_at(long_answer):
        pass
    monkeypatch.setattr(NodePool, "receive", lambda *_: pytest.fail("waited for what is here"))
    assert len(long_answer.result().lanes) == LONG


def test_what_was_taken_in_of_an_answer_is_part_of_it(long_answer: answers.PendingReply[Any]) -> None:
    looked_at(long_answer)
    assert len(long_answer.result().lanes) == LONG


def test_a_refusal_that_redis_py_takes_for_a_lost_connection_is_heard(worker: Runtime) -> None:
    """As LOADING is: nothing more comes on that connection, so nothing may be waited for."""
    lanes = worker.lanes
    pool = lanes._pools.at(KEYS.of(PLAYER, "ready"))
    stranger = pool.acquire()
    with lanes.redis.client() as operator:  # type: ignore[no-untyped-call]
        operator.config_set("requirepass", "a secret")
        try:
            pool.execute(stranger, [("RESET",)])  # who it was is forgotten
            pool.release(stranger)
            # The server takes no call of more than ten arguments from a stranger.
            answer = lanes._begin(lanes._protocol.sweep(PLAYER), list)
            assert looked_at(answer)
            assert answer.poll()
            with pytest.raises(AuthenticationError):
                answer.result()
        finally:
            operator.config_set("requirepass", "")


@pytest.mark.parametrize("looks", [True, False])
def test_an_answer_is_heard_by_any_redis_py(
    long_answer: answers.PendingReply[Any], monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    """One before 8 cannot take in a part; then an answer of which there is some is waited for."""
    monkeypatch.setattr(connections, "LOOKS", looks)
    while not looked_at(long_answer):
        assert looks
    assert len(long_answer.result().lanes) == LONG


def test_answers_are_taken_in_whenever_a_statement_is_waited_for(worker: Runtime) -> None:
    events: list[str] = []
    work = LaneBatch(Lane("PLAYER", 1), [record_of(level_up(1))], [0])
    note = events.append
    worker.transaction.apply(
        [work], [], lambda: None, meanwhile=lambda: note("statement"), committing=lambda: note("commit")
    )
    assert events[-1] == "commit"
    assert events.count("commit") == 1
    assert len(events) > 10  # test_round_trips.py counts the statements of a batch

"""Which waiter waits for which outcome, and what is read next, without a server; and the slots of connections."""

import threading
from typing import Any
from uuid import UUID

import pytest
from redis.exceptions import InvalidResponse

from levelq_core import Outcome
from levelq_core.lanes.outcome_streams import OUTCOME, SEND
from levelq_producer.shared_read import FEW, FIRST, NEVER, SharedRead, Step, Waiter


def waiter(number: int, send: bytes | None = None) -> Waiter:
    return Waiter(f"reply:{number}", UUID(int=number), send, threading.Event())


def entry(number: int, send: bytes = b"send", position: bytes = b"1-1") -> tuple[bytes, dict[bytes, Any]]:
    outcome = Outcome(command_id=UUID(int=number), user_id=number, specialization="PLAYER", status="applied")
    return position, {OUTCOME: outcome.model_dump_json().encode(), SEND: send}


def reading(*waiters: Waiter) -> SharedRead:
    """A read that is under way for these."""
    shared = SharedRead()
    for one in waiters:
        shared.add(one)
    shared.start(now=0.0)
    return shared


def step(shared: SharedRead, one: Waiter, seconds: float = 1.0) -> Step:
    return shared.next_step(one, seconds, last=True)


def test_one_reads_for_all_until_it_leaves_and_then_the_next_is_woken() -> None:
    shared, first, second, third = SharedRead(), waiter(1), waiter(2), waiter(3)
    assert step(shared, first) is Step.READ_FOR_ALL
    assert step(shared, second) is step(shared, third) is Step.WAIT
    shared.leave(third)
    assert not second.ready.is_set()  # the first still reads
    shared.leave(first)
    assert second.ready.is_set()
    assert step(shared, second) is Step.READ_FOR_ALL


def test_waiter_whose_time_is_up_is_done_once_a_read_has_included_it() -> None:
    leader, late = waiter(1), waiter(2)
    shared = reading(leader)
    step(shared, leader)
    shared.add(late)
    assert step(shared, late, 0) is Step.READ_ALONE
    assert shared.next_step(late, 0, last=False) is Step.DONE
    shared.end(shared.start(now=1.0))
    assert step(shared, late, 0) is Step.DONE


def test_read_without_a_waiter_is_ended_once_and_the_next_includes_it() -> None:
    first, second, third = waiter(1), waiter(2), waiter(3)
    shared = reading(first)
    shared.note_connection("pool", 7)
    shared.add(second)
    shared.add(third)
    number = shared.read_to_end(second)
    assert shared.connection_of(number) == ("pool", 7)
    assert shared.read_to_end(third) == 0  # it is being ended
    shared.end(["reply:1"])
    assert shared.connection_of(number) == ("pool", NEVER)
    assert set(shared.start(now=1.0)) == {"reply:1", "reply:2", "reply:3"}
    assert shared.read_to_end(third) == 0


def test_read_that_may_not_be_ended_is_short() -> None:
    shared = reading(waiter(1))
    shared.note_connection("pool", PermissionError("no permissions"))
    late = waiter(2)
    shared.add(late)
    assert shared.read_to_end(late) == 0
    assert shared.block_seconds(60, 1.0) == 0.05


def test_outcome_goes_to_those_that_the_read_includes() -> None:
    early, late = waiter(1), waiter(1)
    shared = reading(early)
    shared.add(late)
    shared.deliver([("reply:1", [entry(1)])])
    shared.end(["reply:1"])
    assert (early.is_answered, early.has_been_read, early.ready.is_set()) == (True, True, True)
    assert (late.is_answered, late.has_been_read, late.ready.is_set()) == (False, False, False)
    assert shared.start(now=1.0) == {"reply:1": FIRST}  # again, for the one that was added during that read
    shared.deliver([("reply:1", [entry(1)])])
    assert late.is_answered


def test_outcome_of_another_send_is_passed_over_and_not_read_again() -> None:
    mine = waiter(1, send=b"mine")
    shared = reading(mine)
    shared.deliver([("reply:1", [entry(1, b"other", b"7-1")])])
    assert not mine.is_answered
    assert shared.start(now=1.0) == {"reply:1": b"7-1"}


def test_outcome_of_another_command_is_an_error() -> None:
    mine = waiter(1)
    with pytest.raises(InvalidResponse) as raised:
        reading(mine).deliver([("reply:1", [entry(2)])])
    assert (mine.outcome, mine.error, mine.ready.is_set()) == (None, raised.value, True)


def test_reads_of_many_streams_start_at_intervals_and_those_of_few_at_once() -> None:
    shared = SharedRead()
    for number in range(FEW):
        shared.add(waiter(number))
    shared.start(now=100.0)
    assert shared.pause(now=100.0) == 0
    for number in range(FEW, 5_000):
        shared.add(waiter(number))
    assert 0.04 < shared.pause(now=100.0) < 0.06

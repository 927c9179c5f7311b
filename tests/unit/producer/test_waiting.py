"""Who waits for which outcome, and what is read next, without a server: waiting.py and connection_slots.py."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from levelq_core import Outcome
from levelq_core.lanes.outcome_streams import OUTCOME, SEND
from levelq_producer.waiting import FEW, FIRST, NEVER, SharedRead, Waiter, wrong_answer


def command_id(number: int) -> UUID:
    return UUID(int=number)


def waiter(number: int, key: str | None = None, send: bytes | None = None) -> Waiter:
    return Waiter(key or f"reply:{number}", command_id(number), send, None)


def entry(number: int, send: bytes = b"send", position: bytes = b"1-1") -> tuple[bytes, dict[bytes, Any]]:
    outcome = Outcome(command_id=command_id(number), user_id=number, specialization="PLAYER", status="applied")
    return position, {OUTCOME: outcome.model_dump_json().encode(), SEND: send}


def test_one_reads_for_all_until_it_leaves_and_then_the_next_is_woken() -> None:
    shared, first, second, third = SharedRead(), waiter(1), waiter(2), waiter(3)
    assert shared.lead(first)
    assert not shared.lead(second)
    assert not shared.lead(third)
    assert shared.leave(third) is None  # the first still reads
    assert shared.leave(first) is second
    assert shared.lead(second)
    assert shared.leave(second) is None


def test_a_read_that_began_without_a_waiter_is_ended_for_it_once() -> None:
    shared, first, second, third = SharedRead(), waiter(1), waiter(2), waiter(3)
    shared.add(first)
    shared.lead(first)
    streams = shared.start(now=0.0)
    assert streams == {"reply:1": FIRST}
    shared.add(second)
    shared.add(third)
    number = shared.must_end(second)
    assert number == shared.reading
    assert shared.must_end(third) == 0  # that is being done
    shared.end(streams)
    assert set(shared.start(now=1.0)) == {"reply:1", "reply:2", "reply:3"}
    assert shared.must_end(third) == 0


def test_a_read_that_may_not_be_ended_is_short() -> None:
    shared, first = SharedRead(), waiter(1)
    shared.add(first)
    shared.start(now=0.0)
    shared.reads_on(PermissionError("no permissions"))
    assert shared.connection == NEVER
    assert shared.block(left=60, most=1.0) == 0.05


def test_an_answer_goes_to_those_for_whom_it_was_read() -> None:
    shared, early = SharedRead(), waiter(1)
    shared.add(early)
    streams = shared.start(now=0.0)
    late = waiter(1)
    shared.add(late)
    assert shared.settle([("reply:1", [entry(1)])]) == [early]
    shared.end(streams)
    assert early.seen and not late.seen
    assert shared.start(now=1.0) == {"reply:1": FIRST}  # and again, for the one who came during that read
    assert shared.settle([("reply:1", [entry(1)])]) == [late]


def test_the_answer_to_another_send_is_passed_over_and_not_read_again() -> None:
    shared, mine = SharedRead(), waiter(1, send=b"mine")
    shared.add(mine)
    shared.start(now=0.0)
    assert shared.settle([("reply:1", [entry(1, b"other", b"7-1")])]) == []
    assert shared.start(now=1.0) == {"reply:1": b"7-1"}


def test_the_outcome_of_another_command_is_an_error() -> None:
    shared, mine = SharedRead(), waiter(1)
    shared.add(mine)
    shared.start(now=0.0)
    assert shared.settle([("reply:1", [entry(2)])]) == [mine]
    assert mine.outcome is None
    assert wrong_answer([mine]) is mine.error is not None


def test_reads_of_many_streams_begin_at_intervals_and_those_of_few_at_once() -> None:
    shared = SharedRead()
    for number in range(FEW):
        shared.add(waiter(number))
    shared.start(now=100.0)
    assert shared.pause(now=100.0) == 0
    for number in range(FEW, 5_000):
        shared.add(waiter(number))
    assert 0.04 < shared.pause(now=100.0) < 0.06

"""Who waits for which outcome, and what is read next, without a server: waiting.py and turns.py."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from levelq_core import Outcome
from levelq_core.replies import OUTCOME, SEND
from levelq_core.turns import Turns
from levelq_producer.waiting import FEW, FIRST, NEVER, Board, Waiter, wrong_answer


def command_id(number: int) -> UUID:
    return UUID(int=number)


def waiter(number: int, key: str | None = None, send: bytes | None = None) -> Waiter:
    return Waiter(key or f"reply:{number}", command_id(number), send, None)


def entry(number: int, send: bytes = b"send", position: bytes = b"1-1") -> tuple[bytes, dict[bytes, Any]]:
    outcome = Outcome(command_id=command_id(number), user_id=number, specialization="PLAYER", status="applied")
    return position, {OUTCOME: outcome.model_dump_json().encode(), SEND: send}


def test_one_reads_for_all_until_it_leaves_and_then_the_next_is_woken() -> None:
    board, first, second, third = Board(), waiter(1), waiter(2), waiter(3)
    assert board.lead(first)
    assert not board.lead(second)
    assert not board.lead(third)
    assert board.leave(third) is None  # the first still reads
    assert board.leave(first) is second
    assert board.lead(second)
    assert board.leave(second) is None


def test_a_read_that_began_without_a_waiter_is_ended_for_it_once() -> None:
    board, first, second, third = Board(), waiter(1), waiter(2), waiter(3)
    board.add(first)
    board.lead(first)
    streams = board.start(now=0.0)
    assert streams == {"reply:1": FIRST}
    board.add(second)
    board.add(third)
    number = board.must_end(second)
    assert number == board.reading
    assert board.must_end(third) == 0  # that is being done
    board.end(streams)
    assert set(board.start(now=1.0)) == {"reply:1", "reply:2", "reply:3"}
    assert board.must_end(third) == 0


def test_a_read_that_may_not_be_ended_is_short() -> None:
    board, first = Board(), waiter(1)
    board.add(first)
    board.start(now=0.0)
    board.reads_on(PermissionError("no permissions"))
    assert board.connection == NEVER
    assert board.block(left=60, most=1.0) == 0.05


def test_an_answer_goes_to_those_for_whom_it_was_read() -> None:
    board, early = Board(), waiter(1)
    board.add(early)
    streams = board.start(now=0.0)
    late = waiter(1)
    board.add(late)
    assert board.settle([("reply:1", [entry(1)])]) == [early]
    board.end(streams)
    assert early.seen and not late.seen
    assert board.start(now=1.0) == {"reply:1": FIRST}  # and again, for the one who came during that read
    assert board.settle([("reply:1", [entry(1)])]) == [late]


def test_the_answer_to_another_send_is_passed_over_and_not_read_again() -> None:
    board, mine = Board(), waiter(1, send=b"mine")
    board.add(mine)
    board.start(now=0.0)
    assert board.settle([("reply:1", [entry(1, b"other", b"7-1")])]) == []
    assert board.start(now=1.0) == {"reply:1": b"7-1"}


def test_the_outcome_of_another_command_is_an_error() -> None:
    board, mine = Board(), waiter(1)
    board.add(mine)
    board.start(now=0.0)
    assert board.settle([("reply:1", [entry(2)])]) == [mine]
    assert mine.outcome is None
    assert wrong_answer([mine]) is mine.error is not None


def test_reads_of_many_streams_begin_at_intervals_and_those_of_few_at_once() -> None:
    board = Board()
    for number in range(FEW):
        board.add(waiter(number))
    board.start(now=100.0)
    assert board.pause(now=100.0) == 0
    for number in range(FEW, 5_000):
        board.add(waiter(number))
    assert 0.04 < board.pause(now=100.0) < 0.06


def test_turns_are_taken_in_order_and_passed_on() -> None:
    turns: Turns[str] = Turns(1)
    assert turns.enter() and not turns.enter()
    for name in ("a", "b", "c"):
        turns.wait(name)
    assert turns.withdraw("b") and not turns.withdraw("b")
    assert [turns.leave(), turns.leave(), turns.leave()] == ["a", "c", None]
    assert turns.enter()
    turns.wait("d")
    assert turns.dismiss() == ["d"]
    assert turns.leave() is None

"""The figures of a load test: above all, that a stall shows all the waiting it causes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from levelq.loadtest.arrivals import Arrival, Wanted, id_of, intended_in
from levelq.loadtest.measuring import (
    CommandTiming,
    best_second,
    courses,
    figures,
    most_waiting,
    percentile,
    rates,
    spread,
    spreads_over,
    step_for,
    waiting_at,
)
from levelq.loadtest.sending import Slot, _follow
from levelq.loadtest.watching import Tail
from levelq_core import LaneFull, LevelUp, QueueUnavailable, SendUnknown
from levelq_core.operations.verify import Recorder

RATE, STALL = 100, 1.0


class Handle:
    def __init__(self, error: Exception | None) -> None:
        self.error = error


class Queue:
    """Takes commands at once, and commits them at once, but for one stall; then refuses as it is told."""

    def __init__(self, stall: float = 0.0, errors: list[Exception | None] | None = None) -> None:
        self.committed: dict[bytes, float] = {}
        self._stall = stall
        self._errors = errors or []

    def send_many(self, commands: list[LevelUp]) -> list[Handle]:
        error = self._errors.pop(0) if self._errors else None
        if len(self.committed) == RATE // 2 and self._stall:
            threading.Event().wait(self._stall)
        if error is None:
            self.committed |= {command.command_id.bytes: time.time() for command in commands}
        return [Handle(error) for _ in commands]


def sent(queue: Queue, arrivals: list[Arrival], folder: Path, stop: threading.Event | None = None) -> Slot:
    slot = Slot(queue, arrivals, folder / "sends.jsonl", 1, 1, stop or threading.Event())
    slot.started = time.time()
    slot.start()
    slot.join(30)
    return slot


def arrival(at: float, number: int, *, again: bool = False) -> Arrival:
    return Arrival(at, (Wanted(at, number, 0, "PLAYER", 10),), again)


def test_a_stall_of_a_second_shows_in_every_command_that_was_due_meanwhile(tmp_path: Path) -> None:
    """A closed loop would have seen one slow command of 200; from the intended times it is a hundred."""
    queue = Queue(STALL)
    sent(queue, [arrival(number / RATE, number) for number in range(2 * RATE)], tmp_path)
    found = courses([tmp_path / "sends.jsonl"], queue.committed)
    told = figures(found)
    assert told.waits.size == told.begun == told.queued == 2 * RATE and told.undecided == 0
    slow = [course.wait for course in found if course.wait is not None and course.wait > 0.1]
    assert 80 <= len(slow) <= 140
    assert told.waits.longest == pytest.approx(STALL, abs=0.4)
    assert told.waits.p90 == pytest.approx(0.8 * STALL, abs=0.3)
    assert told.closed.p90 < 0.1 < told.late.p90  # as if nothing had been, for all but the one that was stuck
    assert told.closed.longest == pytest.approx(STALL, abs=0.4)
    assert 85 <= told.most_waiting <= 140


def test_what_never_is_decided_is_counted_apart_from_all_latencies(tmp_path: Path) -> None:
    queue = Queue()
    sent(queue, [arrival(0.0, number) for number in range(4)], tmp_path)
    queue.committed.pop(next(iter(queue.committed)))
    told = figures(courses([tmp_path / "sends.jsonl"], queue.committed))
    assert (told.begun, told.queued, told.undecided, told.waits.size) == (4, 4, 1, 3)


def test_what_was_refused_waits_for_nothing() -> None:
    refused = [CommandTiming(at, at, None, None) for at in (0.1, 0.2, 0.3)]
    told = figures([CommandTiming(0.0, 0.0, 0.0, 0.5), *refused, CommandTiming(0.4, 0.4, 0.4, 0.5)])
    assert (told.begun, told.queued, told.undecided, told.most_waiting) == (5, 2, 0, 2)


def test_sends_are_counted_by_what_came_of_them(tmp_path: Path) -> None:
    errors: list[Exception | None] = [None, LaneFull("full"), SendUnknown("lost"), QueueUnavailable("away"), None, None]
    first, second, third, fourth = (arrival(0.0, number) for number in range(4))
    repeats = [second._replace(again=True), first._replace(again=True)]
    slot = sent(Queue(errors=errors), [first, second, third, fourth, *repeats], tmp_path)
    assert slot.counts == {"sent": 4, "again": 2, "queued": 2, "refused": 2, "unknown": 1}
    assert slot.errors == {"LaneFull": "full", "SendUnknown": "lost", "QueueUnavailable": "away"}


def test_users_do_not_fall_silent_unnoticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Queue):
        def send_many(self, commands: list[LevelUp]) -> list[Handle]:
            raise OSError("no space left")

    slot = sent(Broken(), [arrival(0.0, 1)], tmp_path)
    with pytest.raises(OSError, match="no space left"):
        _follow([slot])
    assert "done" not in capsys.readouterr().out


def test_a_thread_that_is_told_to_stop_sends_no_more(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    slot = sent(Queue(), [arrival(0.0, 1)], tmp_path, stop)
    assert not slot.is_alive() and slot.counts["sent"] == 0


def test_the_history_says_when_each_command_was_meant_begun_and_queued(tmp_path: Path) -> None:
    history, tag, before = tmp_path / "sends.jsonl", 3, time.time()
    commands = [
        LevelUp(user_id=1, specialization="PLAYER", command_id=id_of(before - 5 + number, tag, 1))
        for number in range(3)
    ]
    with Recorder(history) as recorder:
        recorder.intend(commands)
        recorder.sent(commands, [None, LaneFull("full"), SendUnknown("lost")])
    first, second, third = courses([history], {commands[0].command_id.bytes: before + 1})
    assert first.intended == intended_in(commands[0].command_id) == pytest.approx(before - 5, abs=1e-5)
    assert first.wait == pytest.approx(6, abs=1e-5) and first.told is not None
    assert first.closed == pytest.approx(1, abs=0.5)
    assert (second.told, second.wait, third.told) == (None, None, None)


def test_percentiles_are_times_that_somebody_waited() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert [percentile(hundred, percent) for percent in (0, 50, 90, 99, 99.9, 100)] == [1, 50, 90, 99, 100, 100]
    assert spread(reversed(hundred)) == (100, 50, 90, 99, 100, 100)
    assert spread([]) == (0, 0, 0, 0, 0, 0)


def test_curves() -> None:
    meant, commits = [0.0, 0.1, 0.2, 1.5], [0.3, 1.0, 1.6]
    assert rates(meant, [0.0, 1.0, 2.0]) == [3, 1]
    assert waiting_at(meant, commits, [0.25, 0.3, 1.55, 9.0]) == [3, 2, 2, 1]
    assert most_waiting(meant, commits) == 3
    assert best_second(meant) == 3 and best_second([]) == 0
    found = [CommandTiming(0.0, 0.0, 0.0, 0.5), CommandTiming(0.5, 0.5, 0.5, 2.5), CommandTiming(1.5, 1.5, None, None)]
    assert [each.longest for each in spreads_over(found, [0.0, 1.0, 2.0])] == [2.0, 0.0]
    assert [step_for(seconds) for seconds in (5, 12, 30, 120, 86_400)] == [0.1, 0.1, 0.5, 1.0, 900.0]


def test_the_tail_of_the_ledger_misses_no_row_that_becomes_visible_late() -> None:
    """Transaction 11 draws ids 1 and 2, 10 draws 3; 10 commits first, and a look between the two must not pass by."""
    tail = Tail()
    tail.begin(10, 12)
    assert tail.take([]) == []
    tail.begin(11, 12)  # 10 has ended, 11 is under way
    assert tail.take([(3,)]) == [(3,)]
    tail.begin(11, 13)  # and 12 has begun meanwhile
    assert tail.take([(3,)]) == [] and tail.floor == 0
    tail.begin(12, 13)
    assert tail.take([(1,), (2,), (3,)]) == [(1,), (2,)]
    tail.begin(13, 13)
    assert tail.take([(4,)]) == [(4,)]
    assert tail.floor == 3
    tail.begin(13, 13)
    tail.take([])
    assert tail.floor == 4

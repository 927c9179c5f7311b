import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from levelq.loadtest.arrivals import Arrival, PlannedCommand, id_of, intended_in
from levelq.loadtest.sender import SenderThread, follow
from levelq.loadtest.timing import (
    CommandTiming,
    best_second,
    figures,
    most_waiting,
    percentiles_over,
    rates,
    step_for,
    timings,
    waiting_at,
)
from levelq_core import LaneFull, LevelUp, QueueUnavailable, SendUnknown
from levelq_core.operations.verify import Recorder
from tests.support.fixtures.waiting import until

RATE, STALL = 100, 1.0


class Queue:
    """Takes commands at once, and commits them at once, but for one stall; then refuses as the test chooses."""

    def __init__(self, stall: float = 0.0, errors: list[Exception | None] | None = None) -> None:
        self.committed: dict[bytes, float] = {}
        self._stall = stall
        self._errors = errors or []

    def send_many(self, commands: list[LevelUp]) -> list[SimpleNamespace]:
        error = self._errors.pop(0) if self._errors else None
        if len(self.committed) == RATE // 2 and self._stall:
            threading.Event().wait(self._stall)
        if error is None:
            self.committed |= {command.command_id.bytes: time.time() for command in commands}
        return [SimpleNamespace(error=error)] * len(commands)


def sent(queue: Queue, arrivals: list[Arrival], folder: Path, stop: threading.Event | None = None) -> SenderThread:
    producer: Any = queue
    thread = SenderThread(producer, arrivals, folder / "sends.jsonl", 1, 1, stop or threading.Event())
    thread.started = time.time()
    thread.start()
    thread.join(30)
    return thread


def arrival(at: float, number: int, *, again: bool = False) -> Arrival:
    return Arrival(at, (PlannedCommand(at, number, 0, "PLAYER", 10),), again)


def test_stall_shows_in_every_command_that_was_due_meanwhile(tmp_path: Path) -> None:
    """A closed loop would have seen one slow command of 200; from the intended times it is a hundred."""
    queue = Queue(STALL)
    sent(queue, [arrival(number / RATE, number) for number in range(2 * RATE)], tmp_path)
    found = timings([tmp_path / "sends.jsonl"], queue.committed)
    summary = figures(found)
    assert summary.waits.size == summary.begun == summary.queued == 2 * RATE and summary.undecided == 0
    slow = [timing.wait for timing in found if timing.wait is not None and timing.wait > 0.1]
    assert 80 <= len(slow) <= 140
    assert summary.waits.longest == pytest.approx(STALL, abs=0.4)
    assert summary.waits.p90 == pytest.approx(0.8 * STALL, abs=0.3)
    assert summary.closed.p90 < 0.1 < summary.late.p90  # as if nothing had been, for all but the one that was stuck
    assert summary.closed.longest == pytest.approx(STALL, abs=0.4)
    assert 85 <= summary.most_waiting <= 140


def test_undecided_commands_are_counted_without_a_latency(tmp_path: Path) -> None:
    queue = Queue()
    sent(queue, [arrival(0.0, number) for number in range(4)], tmp_path)
    queue.committed.pop(next(iter(queue.committed)))
    summary = figures(timings([tmp_path / "sends.jsonl"], queue.committed))
    assert (summary.begun, summary.queued, summary.undecided, summary.waits.size) == (4, 4, 1, 3)


def test_refused_commands_do_not_wait() -> None:
    refused = [CommandTiming(at, at, None, None) for at in (0.1, 0.2, 0.3)]
    summary = figures([CommandTiming(0.0, 0.0, 0.0, 0.5), *refused, CommandTiming(0.4, 0.4, 0.4, 0.5)])
    assert (summary.begun, summary.queued, summary.undecided, summary.most_waiting) == (5, 2, 0, 2)


def test_sends_are_counted_by_their_result(tmp_path: Path) -> None:
    errors: list[Exception | None] = [None, LaneFull("full"), SendUnknown("lost"), QueueUnavailable("away"), None, None]
    first, second, third, fourth = (arrival(0.0, number) for number in range(4))
    repeats = [second._replace(again=True), first._replace(again=True)]
    thread = sent(Queue(errors=errors), [first, second, third, fourth, *repeats], tmp_path)
    assert thread.counts == {"sent": 4, "again": 2, "queued": 2, "refused": 2, "unknown": 1}
    assert thread.errors == {"LaneFull": "full", "SendUnknown": "lost", "QueueUnavailable": "away"}


def test_failure_of_a_sender_thread_is_raised(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    queue: Any = Mock(send_many=Mock(side_effect=OSError("no space left")))
    thread = sent(queue, [arrival(0.0, 1)], tmp_path)
    with pytest.raises(OSError, match="no space left"):
        follow([thread], said.append)
    assert not any("done" in words for words in said)


def test_stopped_sender_thread_sends_nothing_more(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    thread = sent(Queue(), [arrival(0.0, 1)], tmp_path, stop)
    assert not thread.is_alive() and thread.counts["sent"] == 0


def test_held_command_is_sent_at_the_word(tmp_path: Path) -> None:
    producer: Any = Queue()
    arrivals = [arrival(0.0, 1), arrival(0.0, 2)._replace(held=True)]
    thread = SenderThread(producer, arrivals, tmp_path / "sends.jsonl", 1, 1, threading.Event())
    thread.start()
    until(lambda: thread.counts["sent"] == 1, what="the first send")
    assert thread.is_alive()
    thread.rest.set()
    thread.join(30)
    assert thread.counts["sent"] == 2


def test_record_shows_when_each_command_was_due_sent_and_queued(tmp_path: Path) -> None:
    history, tag, before = tmp_path / "sends.jsonl", 3, time.time()
    ids = [id_of(before - 5 + number, tag, 1) for number in range(3)]
    commands = [LevelUp(user_id=1, specialization="PLAYER", command_id=command_id) for command_id in ids]
    with Recorder(history) as recorder:
        recorder.intend(commands)
        recorder.sent(commands, [None, LaneFull("full"), SendUnknown("lost")])
    first, second, third = timings([history], {commands[0].command_id.bytes: before + 1})
    assert first.intended == intended_in(commands[0].command_id) == pytest.approx(before - 5, abs=1e-5)
    assert first.wait == pytest.approx(6, abs=1e-5) and first.queued is not None
    assert first.closed == pytest.approx(1, abs=0.5)
    assert (second.queued, second.wait, third.queued) == (None, None, None)


def test_curves() -> None:
    meant, commits = [0.0, 0.1, 0.2, 1.5], [0.3, 1.0, 1.6]
    assert rates(meant, [0.0, 1.0, 2.0]) == [3, 1]
    assert waiting_at(meant, commits, [0.25, 0.3, 1.55, 9.0]) == [3, 2, 2, 1]
    assert most_waiting(meant, commits) == 3
    assert best_second(meant) == 3 and best_second([]) == 0
    found = [CommandTiming(0.0, 0.0, 0.0, 0.5), CommandTiming(0.5, 0.5, 0.5, 2.5), CommandTiming(1.5, 1.5, None, None)]
    assert [each.longest for each in percentiles_over(found, [0.0, 1.0, 2.0])] == [2.0, 0.0]
    assert [step_for(seconds) for seconds in (5, 12, 30, 120, 86_400)] == [0.1, 0.1, 0.5, 1.0, 900.0]

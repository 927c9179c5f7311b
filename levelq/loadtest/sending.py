"""One sending process of a load test: threads that each send their users' commands when they are due.

It speaks JSON lines with the load test: a task in, `ready` out, the start's time in, counts out as it goes, at
last `done`. A second line, or the end of its input, stops it early.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from levelq.demo.producing import tell
from levelq_core import Command, LevelUp, Settings
from levelq_core.errors import LevelqError, NotDurable, SendUnknown
from levelq_core.operations.verify import Recorder
from levelq_producer import Producer

from .arrivals import Arrival, Plan, id_of
from .scenarios import Scenario

THREADS = 16  # of one process, as many as a web server's workers: the users of one wait for each other, if at all
TELL_SECONDS = 0.1
COUNTED = ("sent", "again", "queued", "refused", "unknown")


class Slot(threading.Thread):
    """One thread: the users that belong to it, and a history of its own, as order is judged within each file."""

    def __init__(
        self,
        producer: Any,
        arrivals: Sequence[Arrival],
        history: Path,
        tag: int,
        first_user: int,
        stop: threading.Event,
    ) -> None:
        super().__init__(name=history.stem, daemon=True)
        self.counts = Counter(dict.fromkeys(COUNTED, 0))  # all there from the start: another thread reads them
        self.errors: dict[str, str] = {}  # the first of each kind
        self.failure: Exception | None = None  # what ended it before its time
        self.started = 0.0  # the Unix time from which arrivals count
        self._producer = producer
        self._arrivals = arrivals
        self._history = history
        self._tag = tag
        self._first_user = first_user
        self._ended = stop  # Thread has a _stop
        self._unqueued: set[UUID] = set()

    def run(self) -> None:
        """Send everything, each when it is due or, if that has passed, at once."""
        try:
            with Recorder(self._history) as recorder:
                for arrival in self._arrivals:
                    commands = self._commands(arrival)  # made beforehand, so that nothing is left to do but to send
                    if self._ended.wait(max(0.0, self.started + arrival.at - time.time())):
                        return
                    recorder.intend(commands)
                    errors = self._send(commands)
                    recorder.sent(commands, errors)
                    self._count(arrival, commands, errors)
        except Exception as error:  # a full disk, or a mistake: users that fell silent would look like a quiet day
            self.failure = error

    def _commands(self, arrival: Arrival) -> list[Command]:
        return [
            LevelUp(
                user_id=self._first_user + wanted.account,
                specialization=wanted.specialization,
                command_id=id_of(self.started + wanted.at, self._tag, wanted.number),
                xp_gained=wanted.xp,
                sessions_completed=1,
                reason="load test",
            )
            for wanted in arrival.wanted
        ]

    def _send(self, commands: list[Command]) -> list[Exception | None]:
        try:
            return [handle.error for handle in self._producer.send_many(commands)]
        except LevelqError as error:  # of the call as a whole
            return [error] * len(commands)

    def _count(self, arrival: Arrival, commands: list[Command], errors: list[Exception | None]) -> None:
        """`queued` counts commands, not sends: those that are certain to be decided, each once."""
        self.counts["again" if arrival.again else "sent"] += len(commands)
        for command, error in zip(commands, errors, strict=True):
            if error is None or isinstance(error, NotDurable):
                fresh = not arrival.again or command.command_id in self._unqueued
                self.counts["queued"] += fresh
                self._unqueued.discard(command.command_id)
                continue
            if not arrival.again:
                self._unqueued.add(command.command_id)
            self.counts["unknown" if isinstance(error, SendUnknown) else "refused"] += 1
            self.errors.setdefault(type(error).__name__, str(error))


def main() -> None:
    """Do one task."""
    task = json.loads(sys.stdin.readline())
    stop = threading.Event()
    plan = Plan(task["seed"], Scenario(*task["scenario"]), task["levels"])
    with Producer(Settings.load()) as producer:
        slots = [
            Slot(producer, plan.arrivals(number, task["slots"]), Path(history), task["tag"], task["first_user"], stop)
            for number, history in task["histories"]
        ]
        tell(ready=True)
        begin = sys.stdin.readline()
        if not begin.strip():
            return
        threading.Thread(target=_stop_at_the_next_line, args=(stop,), daemon=True).start()
        for slot in slots:
            slot.started = float(begin)
            slot.start()
        _follow(slots)


def _stop_at_the_next_line(stop: threading.Event) -> None:
    sys.stdin.readline()
    stop.set()


def _follow(slots: Sequence[Slot]) -> None:
    """Tell what was done, some times a second, until all is."""
    told: Counter[str] = Counter()
    while alive := [slot for slot in slots if slot.is_alive()]:
        alive[0].join(TELL_SECONDS)
        counts = _counted(slots)
        tell(counts=counts - told)
        told = counts
    tell(counts=_counted(slots) - told)
    if failures := [slot.failure for slot in slots if slot.failure]:
        raise failures[0]
    tell(done={kind: text for slot in slots for kind, text in slot.errors.items()})


def _counted(slots: Sequence[Slot]) -> Counter[str]:
    return sum((slot.counts for slot in slots), Counter())


if __name__ == "__main__":
    main()

"""A sending process of a load test or a demo: threads that each send their users' commands when they are due.

Its first word is the start's Unix time. Then "rest" sends what is held, and "stop" ends it early.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from levelq.laboratory.processes import read_task, report, set_at_words, wait_for_word
from levelq_core import Command, Settings
from levelq_core.errors import LevelqError, NotDurable, SendUnknown
from levelq_core.operations.verify import Recorder
from levelq_producer import Producer

from .arrivals import Arrival, Plan, Schedule

THREADS = 16  # per process, as many as a web server's workers; the users of one thread wait for each other
_REPORT_SECONDS = 0.1
_COUNTED = ("sent", "again", "queued", "refused", "unknown")


@dataclass(eq=False)
class SenderThread(threading.Thread):
    """Sends the commands of its users, and records them in a file of its own: order is judged within each file."""

    producer: Producer
    arrivals: Sequence[Arrival]
    record: Path
    tag: int
    first_user: int
    stop_early: threading.Event
    rest: threading.Event = field(default_factory=threading.Event)  # set it to send what is held
    started: float = 0.0  # the Unix time from which arrivals count
    errors: dict[str, str] = field(default_factory=dict)  # the first of each kind
    failure: Exception | None = None  # what ended the thread early

    def __post_init__(self) -> None:
        super().__init__(name=self.record.stem, daemon=True)
        self.counts = Counter(dict.fromkeys(_COUNTED, 0))  # all keys from the start: another thread reads them
        self._unqueued: set[UUID] = set()

    def run(self) -> None:
        """Send each command when it is due or, if that has passed, at once."""
        try:
            with Recorder(self.record) as recorder:
                for arrival in self.arrivals:
                    # Made before the due time, when only the send is left.
                    commands = [one.command(self.started, self.tag, self.first_user) for one in arrival.commands]
                    if arrival.held:
                        self.rest.wait()
                    if self.stop_early.wait(max(0.0, self.started + arrival.at - time.time())):
                        return
                    recorder.intend(commands)
                    errors = self._send(commands)
                    recorder.sent(commands, errors)
                    self._count(arrival, commands, errors)
        except Exception as error:  # a full disk, or a bug: silent users would look like a quiet day
            self.failure = error

    def _send(self, commands: list[Command]) -> list[Exception | None]:
        try:
            return [handle.error for handle in self.producer.send_many(commands)]
        except LevelqError as error:  # of the call as a whole
            return [error] * len(commands)

    def _count(self, arrival: Arrival, commands: list[Command], errors: list[Exception | None]) -> None:
        """`queued` counts commands, not sends: those that will certainly be decided, each once."""
        self.counts["again" if arrival.again else "sent"] += len(commands)
        for command, error in zip(commands, errors, strict=True):
            if error is None or isinstance(error, NotDurable):
                self.counts["queued"] += not arrival.again or command.command_id in self._unqueued
                self._unqueued.discard(command.command_id)
                continue
            if not arrival.again:
                self._unqueued.add(command.command_id)
            self.counts["unknown" if isinstance(error, SendUnknown) else "refused"] += 1
            self.errors.setdefault(type(error).__name__, str(error))


def serve(schedule: Callable[..., Schedule]) -> None:
    """Do one task, which holds the arguments of the schedule."""
    task = read_task()
    plan = schedule(*task["plan"])
    stop, rest = threading.Event(), threading.Event()
    with Producer(Settings.load()) as producer:
        threads = []
        for number, record in task["records"]:
            arrivals = plan.arrivals(number, task["threads"])
            threads.append(SenderThread(producer, arrivals, Path(record), task["tag"], task["first_user"], stop, rest))
        if started := wait_for_word():
            set_at_words(stop=stop, rest=rest)
            for thread in threads:
                thread.started = float(started)
                thread.start()
            follow(threads)


def follow(threads: Sequence[SenderThread]) -> None:
    """Report what was done, some times a second, until the threads end. Raises what ended one of them early."""
    for thread in threads:
        while thread.is_alive():
            thread.join(_REPORT_SECONDS)
            report(counts=sum((one.counts for one in threads), Counter()))
    if failures := [thread.failure for thread in threads if thread.failure]:
        raise failures[0]
    counts = sum((one.counts for one in threads), Counter[str]())
    report(counts=counts, done={kind: text for thread in threads for kind, text in thread.errors.items()})


if __name__ == "__main__":
    serve(Plan)

"""A sending process of a load test or a demo: threads that each send their users' commands when they are due."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self
from uuid import UUID

from levelq.laboratory.processes import START_SECONDS, last_lines
from levelq_core import Command, Settings
from levelq_core.errors import ConfigurationError, LevelqError, NotDurable, SendUnknown
from levelq_core.operations.verify import Recorder
from levelq_producer import Producer

from .arrivals import Arrival, Schedule

_SPAWN = multiprocessing.get_context("spawn")
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


class Task(NamedTuple):
    """What a sending process does. `records`: the file in which each of its threads, by number, records its sends."""

    schedule: Schedule
    records: Sequence[tuple[int, Path]]
    threads: int  # of all sending processes
    tag: int
    first_user: int
    settings: Settings


class SenderProcess:
    """A process that gets a task, waits for the start's Unix time, and obeys the words "rest" and "stop".

    "rest" sends what is held, "stop" ends it early. It also ends when this process does. Its errors go to `log`.
    """

    def __init__(self, task: Task, log: Path) -> None:
        self._reported: dict[str, Any] = {"counts": Counter()}
        self._log = log
        log.touch()  # it may die before it writes there
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(task, log, theirs), daemon=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # for ever there: Ctrl-C is for the parent
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.done:
            self._process.terminate()
        self._process.join()
        self._pipe.close()

    def send(self, word: float | str) -> None:
        """Let it begin, go on or stop."""
        with suppress(OSError):  # it has ended; `result` returns how
            self._pipe.send(word)

    def await_ready(self) -> None:
        """Wait until it is prepared. Raises ConfigurationError if it died, or reports nothing for START_SECONDS."""
        self._await("ready")

    def result(self) -> dict[str, str]:
        """Wait until it has ended; the first error of each kind. Raises ConfigurationError if it died instead."""
        errors: dict[str, str] = self._await("done")
        return errors

    @property
    def counts(self) -> Counter[str]:
        """What it has counted, as it reported last."""
        self._receive()
        counts: Counter[str] = self._reported["counts"]
        return counts

    @property
    def done(self) -> bool:
        """Whether it has ended; `result` tells how."""
        return not self._receive() or "done" in self._reported

    def _receive(self, seconds: float = 0.0) -> bool:
        """Receive its reports; False once it has ended, or if none arrives in these seconds."""
        try:
            arrived = self._pipe.poll(seconds)
            while self._pipe.poll():
                self._reported |= self._pipe.recv()
        except (EOFError, OSError):  # also of a pipe that this end has closed
            return False
        return arrived or not seconds

    def _await(self, what: str) -> Any:
        while what not in self._reported and self._receive(START_SECONDS):
            pass
        if what not in self._reported:
            raise ConfigurationError(f"{self._log.stem} failed; {last_lines(self._log)}")
        return self._reported[what]


def _serve(task: Task, log: Path, pipe: Connection) -> None:
    """What the process runs."""
    with log.open("ab") as errors:
        os.dup2(errors.fileno(), 2)
    stop, rest = threading.Event(), threading.Event()
    with Producer(task.settings) as producer:
        threads = []
        for number, record in task.records:
            arrivals = task.schedule.arrivals(number, task.threads)
            threads.append(SenderThread(producer, arrivals, record, task.tag, task.first_user, stop, rest))
        pipe.send({"ready": True})
        started = pipe.recv()
        threading.Thread(target=_set_at_words, args=(pipe, {"stop": stop, "rest": rest}), daemon=True).start()
        for thread in threads:
            thread.started = started
            thread.start()
        follow(threads, pipe.send)


def _set_at_words(pipe: Connection, events: dict[str, threading.Event]) -> None:
    """Set the event that each further word names, and all of them when the parent ends."""
    with suppress(EOFError, OSError):
        while True:
            events[pipe.recv()].set()
    for event in events.values():
        event.set()


def follow(threads: Sequence[SenderThread], say: Callable[[dict[str, Any]], None]) -> None:
    """Say what was done, some times a second, until the threads end. Raises what ended one of them early."""
    for thread in threads:
        while thread.is_alive():
            thread.join(_REPORT_SECONDS)
            say({"counts": sum((one.counts for one in threads), Counter())})
    if failures := [thread.failure for thread in threads if thread.failure]:
        raise failures[0]
    errors = {kind: text for thread in threads for kind, text in thread.errors.items()}
    say({"counts": sum((one.counts for one in threads), Counter()), "done": errors})

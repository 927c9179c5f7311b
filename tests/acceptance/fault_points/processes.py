"""What runs in the processes: workers and producers like any other, one of them with a fault point that is armed.

They are forked from a server that has loaded everything, because starting an interpreter takes most of a second.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import coverage
import sqlalchemy.dialects.postgresql.psycopg  # noqa: F401 - loaded once, before anything forks

from levelq_core import Command, Settings
from levelq_core import failpoints as faults
from levelq_core.errors import SendUnknown
from levelq_core.lanes import script_files
from levelq_core.operations.verify import Recorder
from levelq_producer import AsyncProducer, Producer
from levelq_worker.process import worker_main as child
from levelq_worker.process.fork import with_parent
from tests.acceptance.fault_points.scenarios import LOSSES, Fault, Scenario, Victim
from tests.chaos.traced_worker import noting

SPECIALIZATIONS = ("PLAYER", "COACH")
ATTEMPTS = 10  # of an application to send what it does not know to be queued
TWICE_SECONDS = 1.05  # RQ ignores a second signal within a second, as a duplicate of the first


class Mistake(Exception):
    """The error of a bug in levelq."""


class Trigger:
    """The hook of a victim: the fault at the next passage of its point once it is armed, and word of the one after.

    A worker is armed before a claim, and makes it when there is something to claim.
    """

    def __init__(self, scenario: Scenario, wire: Connection) -> None:
        self._point, self._fault = scenario.struck_at, scenario.fault
        self._waits = scenario.victim is Victim.WORKER and self._point != "tick"
        self._wire = wire
        self._armed = self._met = self._passed_again = False

    def __call__(self, name: str) -> None:
        if not self._armed and name == ("claim request" if self._waits else self._point) and self._wire.poll():
            self._armed = bool(self._wire.recv())
            if self._waits:
                self._wire.recv()
        if name != self._point or not self._armed or self._passed_again:
            return
        self._passed_again = self._met
        self._wire.send(time.time())
        if not self._met:
            self._met = True
            _strike(self._fault, self._wire)


class Gate:
    """The hook of the other worker: once armed, it waits with a batch in hand until the victim has met its fault.

    So both hold lanes at that moment, and what the victim claims is not nothing because the other was faster: it waits
    before it asks for a second batch ahead, with which it would have all there is.
    """

    def __init__(self, wire: Connection) -> None:
        self._wire = wire
        self._claimed = False

    def __call__(self, name: str) -> None:
        in_hand = name == "decode" or (name == "claim request" and self._claimed)
        if name in ("claim request", "claim reply", "decode"):
            self._claimed = name == "claim reply"
        if in_hand and self._wire.poll():
            self._wire.recv()
            self._wire.recv()


Hook = Trigger | Gate


def _strike(fault: Fault, wire: Connection) -> None:
    if fault is Fault.RAISE:
        raise Mistake("forced by a test")
    if fault in LOSSES:
        wire.recv()  # once the proxy knows that the next message is the one to lose
        return
    os.kill(os.getpid(), _SIGNALS[fault])
    if fault is Fault.TERMINATE_TWICE:
        threading.Event().wait(TWICE_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)


_SIGNALS = {
    Fault.KILL: signal.SIGKILL,
    Fault.STOP: signal.SIGSTOP,
    Fault.TERMINATE: signal.SIGTERM,
    Fault.TERMINATE_TWICE: signal.SIGTERM,
    Fault.INTERRUPT: signal.SIGINT,
}


def worker(log: Path, settings: Settings, hook: Hook | None) -> None:
    """A worker process as the supervisor starts it, but for the hook, and for scripts that note claims and acks."""
    _begin(log, hook)
    script_files.load = noting
    sys.exit(child.run(settings, SPECIALIZATIONS, burst=False))


def application(
    log: Path, settings: Settings, hook: Hook | None, victim: Victim, history: Path, rounds: Connection
) -> None:
    """Sends each round that it is given, and reports when all of it is known to be queued."""
    _begin(log, hook)
    with Recorder(history) as recorder, asyncio.Runner() as runner:
        send: Callable[[Sequence[Command]], Any] = Producer(settings).send_many
        if victim is Victim.ASYNC_PRODUCER:
            producer = AsyncProducer(settings)
            send = lambda commands: runner.run(producer.send_many(commands))  # noqa: E731
        while commands := rounds.recv():
            deliver(send, recorder, commands)
            rounds.send(len(commands))


def deliver(send: Callable[[Sequence[Command]], Any], recorder: Recorder, commands: Sequence[Command]) -> None:
    """Send until everything is known to be queued, the same commands with the same ids: what an application does."""
    for _ in range(ATTEMPTS):
        recorder.intend(commands)
        try:
            errors = [handle.error for handle in send(commands)]
        except Mistake as mistake:
            errors = [SendUnknown(str(mistake))] * len(commands)
        recorder.sent(commands, errors)
        commands = [command for command, error in zip(commands, errors, strict=True) if error is not None]
        if not commands:
            return
    raise AssertionError(f"not queued after {ATTEMPTS} attempts: {errors[0]}")


def _begin(log: Path, hook: Hook | None) -> None:
    # What a signal's handler raises leaves the lock of coverage's tracer locked if it comes there, and what is
    # called next waits for it for ever.
    if measuring := coverage.Coverage.current():
        measuring.stop()
    server = os.getppid()  # it forks for the test, and ends with it
    with_parent(signal.SIGKILL, server)()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for output in (1, 2):
        os.dup2(file, output)
    faulthandler.register(signal.SIGUSR1, file=file)
    faults.hook = hook

"""The traffic: processes that send until they are stopped, and record the replies.

python -m tests.chaos.traffic ROLE FIRST LAST SEED HISTORY, with the settings in the environment. Each has users
of its own, so the order within a lane is known; the direct caller alone works on everybody's.
"""

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Literal

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from levelq_core import Adjust, Command, LevelUp, Reset, SetLevel, Settings, SyncLevels, level_up_atomic
from levelq_core.database.engine import engine_for
from levelq_core.errors import LevelqError, QueueUnavailable, SendUnknown
from levelq_core.operations.verify import Recorder
from levelq_producer import Handle, Outbox, Producer

SPECIALIZATIONS = ("PLAYER", "COACH", "INTERNSHIP")
SIZES = (1, 1, 1, 5, 20, 100, 300)  # commands in one call
RATE = 250  # commands a second of one process, on the average
AGAIN_SECONDS = 0.1  # before a send that failed is made again
OUTCOME_SECONDS = 0.5

MATCHES = "CREATE TABLE matches (id bigserial PRIMARY KEY, command_id uuid NOT NULL UNIQUE)"
_MATCH = text("INSERT INTO matches (command_id) VALUES (:command_id)")


class Traffic:
    """One process's share of it."""

    def __init__(self, users: range, seed: str, settings: Settings, recorder: Recorder) -> None:
        self.users = users
        self.rng = Random(seed)
        self.settings = settings
        self.recorder = recorder
        self.stop = threading.Event()
        self._past: list[Command] = []

    def until_stopped(self, step: Callable[[int], None]) -> None:
        """Call `step` with a size, pause, and so on."""
        while not self.stop.is_set():
            size = self.rng.choice(SIZES)
            step(size)
            self.stop.wait(self.rng.expovariate(RATE / size))

    def commands(self, size: int) -> list[Command]:
        """New commands, and now and then one that was sent before or one under the id of another."""
        made = [self._command() for _ in range(size)]
        if self._past and self.rng.random() < 0.1:
            made.append(self.rng.choice(self._past))
        if self._past and self.rng.random() < 0.02:
            first = self.rng.choice(self._past)
            made.append(
                LevelUp(
                    user_id=first.user_id,
                    specialization=first.specialization,
                    command_id=first.command_id,
                    xp_gained=1,
                    reason="a conflict",
                )
            )
        else:
            self._past = [*self._past, *made][-200:]
        return made

    def _command(self) -> Command:
        rng = self.rng
        user_id = min(self.users[-1], self.users[0] + int(rng.expovariate(3 / len(self.users))))  # a few are hot
        specialization = rng.choice(SPECIALIZATIONS)
        kind = rng.random()
        if kind < 0.03:
            return SyncLevels(user_id=user_id, specialization=specialization)
        if kind < 0.06:  # may go below zero: then it is rejected
            change = rng.randint(-2000, 500)
            level = rng.randint(1, 3)
            return SetLevel(user_id=user_id, specialization=specialization, new_level=level, xp_change=change)
        if kind < 0.09:  # likewise
            mode: Literal["keep", "earned"] = rng.choice(("keep", "earned"))
            change = rng.randint(-1000, 500)
            return Adjust(user_id=user_id, specialization=specialization, xp_change=change, level=mode)
        if kind < 0.10:
            return Reset(user_id=user_id, specialization=specialization, total_xp=rng.randint(0, 3000))
        gained = rng.randint(1, 400)
        return LevelUp(user_id=user_id, specialization=specialization, xp_gained=gained, sessions_completed=1)


def produce(traffic: Traffic) -> None:
    """A web application's producer: what it does not know to be queued it sends again, before anything else."""
    with Producer(traffic.settings) as producer:

        def send(size: int) -> None:
            left: Sequence[Command] = traffic.commands(size)
            while left:
                traffic.recorder.intend(left)
                handles = producer.send_many(left, reply=size == 1)
                errors = [handle.error for handle in handles]
                traffic.recorder.sent(left, errors)
                if size == 1 and errors[0] is None:
                    _ask(handles[0])
                left = [command for command, error in zip(left, errors, strict=True) if error]
                if traffic.stop.wait(AGAIN_SECONDS if left else 0):
                    return

        traffic.until_stopped(send)


def _ask(handle: Handle) -> None:
    """Wait a little for an outcome, as a web request would; what comes must fit."""
    try:
        outcome = handle.result(timeout=OUTCOME_SECONDS)
    except LevelqError:
        return  # too late, or a server is away
    assert outcome.error in (None, "validation_error", "conflict", "cancelled"), outcome


def outbox(traffic: Traffic) -> None:
    """An application that queues with its own commit. One in ten transactions is rolled back."""
    engine = engine_for(traffic.settings, name="chaos outbox")

    def transact(size: int) -> None:
        commands = [traffic._command() for _ in range(min(size, 20))]
        traffic.recorder.intend(commands)
        error: Exception | None = None
        try:
            with Session(engine) as session:
                for command in commands:
                    session.execute(_MATCH, {"command_id": command.command_id})
                Outbox(session, settings=traffic.settings).send_many(commands)
                if traffic.rng.random() < 0.1:
                    error = QueueUnavailable("rolled back")
                    session.rollback()
                else:
                    error = SendUnknown("lost in COMMIT, perhaps")
                    session.commit()
                    error = None
        except SQLAlchemyError:
            error = error or QueueUnavailable("nothing was written")
            engine.dispose()
            traffic.stop.wait(AGAIN_SECONDS)
        traffic.recorder.sent(commands, [error] * len(commands))

    traffic.until_stopped(transact)


def call(traffic: Traffic) -> None:
    """Direct calls beside the queue, on the same learners; what failed is called again with the same id."""
    engine = engine_for(traffic.settings, name="chaos direct")

    def step(_: int) -> None:
        user_id, specialization = traffic.rng.choice(traffic.users), traffic.rng.choice(SPECIALIZATIONS)
        command = LevelUp(user_id=user_id, specialization=specialization, xp_gained=7, reason="direct")
        while not traffic.stop.is_set():
            traffic.recorder.intend([command])
            with Session(engine) as session:
                result = level_up_atomic(session, user_id, specialization, 7, 0, "direct", command.command_id)
            known = result["success"] or result["error_type"] == "validation_error"
            traffic.recorder.sent([command], [None if known else SendUnknown(result["message"])])
            if known:
                return
            engine.dispose()
            traffic.stop.wait(AGAIN_SECONDS)

    traffic.until_stopped(step)


ROLES: dict[str, Callable[[Traffic], None]] = {"producer": produce, "outbox": outbox, "direct": call}


def main() -> None:
    role, first, last, seed, history = sys.argv[1:]
    with Recorder(Path(history)) as recorder:
        traffic = Traffic(range(int(first), int(last) + 1), seed, Settings.load(), recorder)
        signal.signal(signal.SIGTERM, lambda *_: traffic.stop.set())
        ROLES[role](traffic)


if __name__ == "__main__":
    main()

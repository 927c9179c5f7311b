"""Producers that go on after every error."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from levelq_core import Command, LevelUp, Settings
from levelq_core.database.engine import engine_for
from levelq_core.errors import SendUnknown
from levelq_core.keys import Partition
from levelq_core.operations.verify import Recorder
from levelq_producer import Outbox, Producer
from tests.support.fixtures.waiting import until

PARTITIONS = [Partition("PLAYER"), Partition("COACH")]
USERS = 30  # of each producer: a lane has one writer, so the order of its sends is known
SENDERS = 2
OUTBOX_USERS = range(1 + SENDERS * USERS, 1 + (SENDERS + 1) * USERS)
PAUSE_SECONDS, FAILED_SECONDS = 0.02, 0.1  # between two sends, and after one that failed


class Traffic:
    """Producers that go on after every error: two that send, one that commits to the outbox.

    What failed is sent again, with the same ids.
    """

    def __init__(self, settings: Settings, history: Path, seed: int) -> None:
        self.errors: Counter[str] = Counter()
        self.messages: set[str] = set()
        self.acknowledged = 0
        self.longest_seconds = 0.0
        self._settings = settings
        self._seed = seed
        self._stop = threading.Event()
        self._recorder = Recorder(history)
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(SENDERS)]
        self._threads.append(threading.Thread(target=self._commit, args=(SENDERS,)))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._recorder.close()

    def flows(self, commands: int = 100) -> None:
        """Wait until this number of further commands is acknowledged."""
        wanted = self.acknowledged + commands
        until(lambda: self.acknowledged >= wanted, seconds=60, what=f"{commands} more commands")

    def fails(self, *names: str) -> None:
        """Wait until producers get one of these errors some times more."""
        wanted = sum(self.errors[name] for name in names) + 3
        until(lambda: sum(self.errors[name] for name in names) >= wanted, seconds=60, what=" or ".join(names))

    def was_told(self, what: str) -> bool:
        """Whether an error has this text."""
        return any(what in message for message in set(self.messages))

    def _commands(self, number: int, rng: random.Random) -> list[Command]:
        first = 1 + number * USERS
        return [
            LevelUp(
                user_id=rng.randrange(first, first + USERS),
                specialization=rng.choice(PARTITIONS).specialization,
                xp_gained=rng.randint(1, 900),
                sessions_completed=1,
            )
            for _ in range(rng.randint(1, 8))
        ]

    def _send(self, number: int) -> None:
        rng = random.Random(self._seed * 10 + number)
        with Producer(self._settings) as producer:
            failed: list[Command] = []
            while not self._stop.wait(FAILED_SECONDS if failed else PAUSE_SECONDS):
                commands = failed or self._commands(number, rng)
                self._recorder.intend(commands)
                began = time.monotonic()
                handles = producer.send_many(commands, reply=rng.random() < 0.3)
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
                failed = self._told(commands, [handle.error for handle in handles])

    def _commit(self, number: int) -> None:
        rng = random.Random(self._seed * 10 + number)
        engine = engine_for(self._settings, name="application")
        failed: list[Command] = []
        while not self._stop.wait(FAILED_SECONDS if failed else PAUSE_SECONDS):
            commands = failed or self._commands(number, rng)
            self._recorder.intend(commands)
            error: Exception | None = None
            try:
                with Session(engine) as session:
                    Outbox(session, settings=self._settings).send_many(commands)
                    session.commit()
            except SQLAlchemyError as found:
                engine.dispose()
                error = SendUnknown(str(found))
            failed = self._told(commands, [error] * len(commands))
        engine.dispose()

    def _told(self, commands: Sequence[Command], errors: Sequence[Exception | None]) -> list[Command]:
        """Record what became of a send; the commands to send again."""
        self._recorder.sent(commands, errors)
        self.errors.update(type(error).__name__ for error in errors if error is not None)
        self.messages.update(str(error) for error in errors if error is not None)
        self.acknowledged += sum(error is None for error in errors)
        return [command for command, error in zip(commands, errors, strict=True) if error is not None]

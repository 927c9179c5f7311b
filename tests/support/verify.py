"""What the checker's tests share: a small world whose sends are recorded, and ways to look at a report."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import typer
from redis import Redis
from sqlalchemy import Engine, text
from typer.testing import CliRunner

from levelq.cli.verify import verify as verify_of_the_command_line
from levelq_core import Command, Settings
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.parked import Acknowledgements, Reasons
from levelq_core.lanes.pending_reply import PendingReply
from levelq_core.lanes.protocol import Claim
from levelq_core.operations.verify import Options, Recorder, Report, verify
from levelq_worker.draining.context import Runtime
from tests.support.coupler import runtime
from tests.support.fixtures.keys import KEYS
from tests.support.system import PLAYER, System, up

__all__ = ["PLAYER", "Traced", "World", "assert_clean", "up", "verify_command", "violations_of", "world_on"]

T = TypeVar("T")


class World(System):
    """A system, and the history of what was sent."""

    def __init__(self, settings: Settings, redis: Redis, engine: Engine, path: Path) -> None:
        super().__init__(settings, redis, engine)
        self.path, self.recorder = path, Recorder(path)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.recorder.close()

    def send(self, *commands: Command) -> None:
        """Send through the producer, and record its errors."""
        self.recorder.intend(commands)
        handles = self.producer.send_many(commands)
        self.recorder.sent(commands, [handle.error for handle in handles])

    def verify(self, step: Callable[[str], None] = lambda name: None, **given: Any) -> Report:
        options = Options(history=(self.path,), **given)
        return verify(self.engine, self.redis, self.settings, options, step=step)

    def sql(self, *statements: str, **values: Any) -> None:
        """Tamper with the database, where each of these finds something to change."""
        with self.engine.begin() as connection:
            for statement in statements:
                assert connection.execute(text(statement), values).rowcount != 0

    def lane(self, user_id: int) -> str:
        return KEYS.lane(PLAYER, user_id)

    def expire(self, *users: int) -> None:
        """Let the claims on these lanes run out at once."""
        self.redis.zadd(KEYS.of(PLAYER, "claimed"), dict.fromkeys(map(str, users), 1), xx=True)

    def apply(self, *commands: Command) -> None:
        self.send(*commands)
        self.drain()

    @contextmanager
    def another_worker(self) -> Iterator[Runtime]:
        with runtime(self.settings) as made:
            yield made


def verify_command(world: World, *arguments: str) -> tuple[int, str]:
    """`levelq verify` by itself, as the command line registers it: exit code and output."""
    app = typer.Typer()
    app.command()(verify_of_the_command_line)
    done = CliRunner().invoke(app, arguments, env=world.settings.environment(), catch_exceptions=False)
    return done.exit_code, done.output


def violations_of(report: Report) -> list[tuple[str, str, int | None, str | None, UUID | None]]:
    """The violations without their wording."""
    return [example[:5] for example in report.examples]


def assert_clean(report: Report) -> None:
    assert report.examples == []
    assert report.violations == 0


def world_on(settings: Settings, redis: Redis, engine: Engine, folder: Path) -> World:
    """A world on these servers, whose history is in the folder."""
    return World(settings, redis, engine, folder / "history.jsonl")


class Traced(Lanes):
    """Lanes that record claims and acknowledgements."""

    def __init__(self, redis: Redis, settings: Settings, recorder: Recorder) -> None:
        super().__init__(redis, settings)
        self._recorder = recorder

    def begin_claim(
        self, partition: Partition, drain: str, token: str, commands: int, **how: Any
    ) -> PendingReply[Claim]:
        def note(claim: Claim) -> None:
            self._recorder.claimed(partition, token, [user for user, _ in claim.lanes])

        return _noted(super().begin_claim(partition, drain, token, commands, **how), note)

    def begin_ack(
        self, partition: Partition, token: str, lanes: Acknowledgements, reasons: Reasons = None
    ) -> PendingReply[list[int]]:
        def note(removed: list[int]) -> None:
            self._recorder.acknowledged(partition, token, [user for user, _, _ in lanes], removed)

        return _noted(super().begin_ack(partition, token, lanes, reasons), note)


def _noted(answer: PendingReply[T], note: Callable[[T], None]) -> PendingReply[T]:
    """The answer, noted when it is read."""
    meaning = answer._meaning

    def noted(reply: Any) -> T:
        found = meaning(reply)
        note(found)
        return found

    answer._meaning = noted
    return answer

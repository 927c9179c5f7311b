"""The outbox: commands that are sent if, and only if, the application's own transaction commits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import TextClause
from sqlalchemy.orm import Session

from levelq_core import outbox
from levelq_core.codec import FLAG_REPLY
from levelq_core.commands import Command
from levelq_core.connections import connect
from levelq_core.errors import InvalidCommand
from levelq_core.settings import Settings

from .handles import Handle, LedgerReader
from .reply_reader import ReplyReader
from .sending import payload_of

_FLAGS_AT, _DIGEST = 3, slice(20, 36)  # of an entry without its stamp; see levelq_core.codec
_ATTEMPTS = 5  # a row may be decided, and so be deleted, between the two looks at it


class _Connections(NamedTuple):
    replies: ReplyReader
    ledger: LedgerReader | None


@cache
def _environment() -> Settings:
    return Settings.load()


@cache
def _connections(settings: Settings) -> _Connections:
    """What handles ask for outcomes: shared by all, as an outbox lives no longer than a session; safe after a fork."""
    redis = connect(settings.redis_url, settings.redis_seconds)
    return _Connections(ReplyReader(redis, settings.redis_seconds / 2), LedgerReader.of(settings))


class Outbox:
    """Writes commands into the caller's transaction; a worker's relay pushes them within a second of the commit.

        with Session(engine) as session:
            session.add(Match(...))
            handle = Outbox(session).send(LevelUp(user_id=42, specialization="PLAYER", xp_gained=150))
            session.commit()
        handle.result()

    The session must be bound to levelq's database. It is neither committed nor flushed, and no connection to
    Redis is needed. With an AsyncSession: `await session.run_sync(lambda s: Outbox(s).send(command))`.

    Of one lane, commands take effect in the order in which they were written, transactions that overlapped in
    time in either order. A command sent by a Producer meanwhile may overtake one that is still in the outbox.
    """

    def __init__(self, session: Session, *, settings: Settings | None = None) -> None:
        self.settings = settings or _environment()
        self._session = session

    def send(self, command: Command, reply: bool = True) -> Handle:
        """Write one command; `.result()` of its handle can be had after the commit.

        The same command again, with the same content, changes nothing. Raises InvalidCommand for what the
        catalog can never allow and for an id that is in the outbox with other content; the session's
        transaction stays usable. SQLAlchemy's errors pass through.
        """
        (handle,) = self.send_many([command], reply)
        return handle

    def send_many(self, commands: Iterable[Command], reply: bool = False) -> list[Handle]:
        """Write many commands in one statement; one handle each, in order. Raises as `send`: all or none."""
        batch = list(commands)
        payloads: dict[UUID, bytes] = {}
        wanted: dict[UUID, Command] = {}
        for command in batch:
            payload = payload_of(self.settings, command, reply)
            if payloads.setdefault(command.command_id, payload)[_DIGEST] != payload[_DIGEST]:
                raise _used_before(command.command_id)
            wanted.setdefault(command.command_id, command)
        kept = self._write(wanted, payloads) if batch else {}
        replies, ledger = _connections(self.settings)
        return [Handle(replies, self.settings, ledger, c.command_id, None, kept[c.command_id]) for c in batch]

    def _write(self, wanted: dict[UUID, Command], payloads: dict[UUID, bytes]) -> dict[UUID, bool]:
        """Write what is not there yet; whether each command's outcome will be kept for its sender."""
        kept: dict[UUID, bool] = {}
        written: list[UUID] = []
        left = list(wanted)
        for _ in range(_ATTEMPTS):
            new = self._insert([wanted[command_id] for command_id in left], payloads)
            written += new
            kept |= {command_id: bool(payloads[command_id][_FLAGS_AT] & FLAG_REPLY) for command_id in new}
            left = [command_id for command_id in left if command_id not in kept]
            for command_id, there in self._find(left).items():
                if there[_DIGEST] != payloads[command_id][_DIGEST]:
                    self._execute(outbox.WITHDRAW, command_ids=[str(i) for i in written])
                    raise _used_before(command_id)
                kept[command_id] = bool(there[_FLAGS_AT] & FLAG_REPLY)
            left = [command_id for command_id in left if command_id not in kept]
            if not left:
                break
        # What vanished at every look was decided each time; what is left was so, too: nothing to be sent.
        return dict.fromkeys(left, False) | kept

    def _insert(self, commands: Sequence[Command], payloads: dict[UUID, bytes]) -> list[UUID]:
        rows = self._execute(
            outbox.INSERT_AND_NOTIFY if self.settings.notify else outbox.INSERT,
            command_ids=[str(command.command_id) for command in commands],
            user_ids=[command.user_id for command in commands],
            specializations=[command.specialization for command in commands],
            payloads=[payloads[command.command_id].hex() for command in commands],
        )
        return [UUID(command_id) for command_id, *_ in rows]

    def _find(self, command_ids: Sequence[UUID]) -> dict[UUID, bytes]:
        if not command_ids:
            return {}
        rows = self._execute(outbox.FIND, command_ids=[str(i) for i in command_ids])
        return {UUID(command_id): bytes.fromhex(payload) for command_id, payload in rows}

    def _execute(self, statement: TextClause, **values: Any) -> Any:
        with self._session.no_autoflush:  # the application's pending objects are its own to flush
            return self._session.execute(statement, values)


def _used_before(command_id: UUID) -> InvalidCommand:
    return InvalidCommand(f"command_id: {command_id} is in the outbox with other content; a new command needs a new id")

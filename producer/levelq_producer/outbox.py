"""The outbox: commands that are sent if, and only if, the application's own transaction commits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, partial
from typing import Any
from uuid import UUID

from levelq_core.database import outbox_insert
from levelq_core.database.urls import check_database_urls
from levelq_core.domain.codec import FLAG_REPLY
from levelq_core.domain.commands import Command
from levelq_core.errors import InvalidCommand
from levelq_core.settings import Settings

from .async_handles import AsyncHandle
from .event_loops import AsyncConnections
from .handles import Handle
from .sending import encode
from .threads import Connections
from .transactions import OpenTransaction, opener

_FLAGS_AT, _DIGEST = 3, slice(20, 36)  # of an entry without its stamp; see levelq_core.domain.codec
_ATTEMPTS = 5  # a row may be decided, and so be deleted, between the insert and the read


@cache
def _environment() -> Settings:
    return Settings.load()


@cache
def _connections(settings: Settings) -> Connections:
    """What handles ask for outcomes, shared by all, as an outbox lives no longer than a session."""
    return Connections(settings)


@cache
def _async_connections(settings: Settings) -> AsyncConnections:
    return AsyncConnections(settings)


class Outbox:
    """Writes commands into the caller's transaction; a worker's relay pushes them within a second of the commit.

        with Session(engine) as session:
            session.add(Match(...))
            handle = Outbox(session).send(LevelUp(user_id=42, specialization="PLAYER", xp_gained=150))
            session.commit()
        handle.result()

    `session` is a SQLAlchemy Session, scoped_session or Connection, a psycopg Connection, or Django's connection
    (`django.db.connection`, `connections["other"]`), on the database that has levelq's tables. It is neither
    committed nor flushed, and no connection to Redis is needed. On asyncio:
    `handle = await session.run_sync(lambda s: Outbox(s).send(command))`, and later `await handle`.

    Raises TypeError for what has no transaction, TransactionMisuse for an AsyncSession that was passed itself,
    ConfigurationError for settings that cannot work.

    Of one lane, commands take effect in the order in which they were written, transactions that overlapped in
    time in either order. A command sent by a Producer meanwhile may overtake one that is still in the outbox.
    """

    def __init__(self, session: Any, *, settings: Settings | None = None) -> None:
        self._open = opener(session)
        self.settings = settings or _environment()
        check_database_urls(self.settings)  # not in `send`, after its row was written

    def send(self, command: Command, reply: bool = True) -> Any:
        """Write one command; returns its Handle, in a transaction on asyncio its AsyncHandle.

        `.result()` of the handle can be had after the commit. The same command again, with the same content,
        changes nothing. Raises InvalidCommand for what the catalog can never allow and for an id that is in the
        outbox with other content; the transaction stays usable. Raises TransactionMisuse in autocommit and in a
        closed or aborted transaction, SchemaError where the outbox's table is missing. The driver's other errors
        pass through.
        """
        (handle,) = self.send_many([command], reply)
        return handle

    def send_many(self, commands: Iterable[Command], reply: bool = False) -> list[Any]:
        """Write many commands in one statement; one handle each, in order. Raises as `send`: all or none."""
        batch = list(commands)
        payloads: dict[UUID, bytes] = {}
        wanted: dict[UUID, Command] = {}
        for command in batch:
            payload = encode(self.settings, command, reply=reply)
            if payloads.setdefault(command.command_id, payload)[_DIGEST] != payload[_DIGEST]:
                raise _used_before(command.command_id)
            wanted.setdefault(command.command_id, command)
        if not batch:
            return []
        transaction = self._open()
        kept = self._write(transaction, wanted, payloads)
        make: Any = (
            partial(AsyncHandle, _async_connections(self.settings))
            if transaction.is_async
            else partial(Handle, _connections(self.settings))
        )
        return [make(command.command_id, kept[command.command_id]) for command in batch]

    def _write(
        self, transaction: OpenTransaction, wanted: dict[UUID, Command], payloads: dict[UUID, bytes]
    ) -> dict[UUID, bool]:
        """Write what is not there yet; whether each command's outcome will be kept for its sender."""
        kept: dict[UUID, bool] = {}
        written: list[UUID] = []
        left = list(wanted)
        for _ in range(_ATTEMPTS):
            new = self._insert(transaction, [wanted[command_id] for command_id in left], payloads)
            written += new
            kept |= {command_id: bool(payloads[command_id][_FLAGS_AT] & FLAG_REPLY) for command_id in new}
            left = [command_id for command_id in left if command_id not in kept]
            for command_id, there in _find(transaction, left).items():
                if there[_DIGEST] != payloads[command_id][_DIGEST]:
                    transaction.execute(outbox_insert.WITHDRAW, {"command_ids": [str(i) for i in written]})
                    raise _used_before(command_id)
                kept[command_id] = bool(there[_FLAGS_AT] & FLAG_REPLY)
            left = [command_id for command_id in left if command_id not in kept]
            if not left:
                break
        # Ids that disappeared each time have been decided: nothing to send.
        return dict.fromkeys(left, False) | kept

    def _insert(
        self, transaction: OpenTransaction, commands: Sequence[Command], payloads: dict[UUID, bytes]
    ) -> list[UUID]:
        notify = self.settings.notify and transaction.can_notify  # without it, a relay finds the row at its next poll
        rows = transaction.execute(
            outbox_insert.INSERT_AND_NOTIFY if notify else outbox_insert.INSERT,
            {
                "command_ids": [str(command.command_id) for command in commands],
                "user_ids": [command.user_id for command in commands],
                "specializations": [command.specialization for command in commands],
                "payloads": [payloads[command.command_id].hex() for command in commands],
            },
        )
        return [UUID(_ascii(command_id)) for command_id, *_ in rows]


def _find(transaction: OpenTransaction, command_ids: Sequence[UUID]) -> dict[UUID, bytes]:
    if not command_ids:
        return {}
    rows = transaction.execute(outbox_insert.FIND, {"command_ids": [str(i) for i in command_ids]})
    return {UUID(_ascii(command_id)): bytes.fromhex(_ascii(payload)) for command_id, payload in rows}


def _ascii(value: str | bytes) -> str:
    """A text column's value: psycopg gives bytes where the client encoding is SQL_ASCII."""
    return value if isinstance(value, str) else value.decode("ascii")


def _used_before(command_id: UUID) -> InvalidCommand:
    return InvalidCommand(f"command_id: {command_id} is in the outbox with other content; a new command needs a new id")

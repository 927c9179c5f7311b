"""The outbox: commands that are sent if, and only if, the application's own transaction commits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Generic
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
from .send_span import send_span
from .sending import encode
from .threads import Connections
from .transactions import OpenTransaction, opener

_FLAGS_AT, _DIGEST = 3, slice(20, 36)  # of an entry without its stamp; see levelq_core.domain.codec
_ATTEMPTS = 5  # a row may be decided, and so be deleted, between the insert and the read


if TYPE_CHECKING:  # before Python 3.13 only type checkers know a default
    from typing_extensions import TypeVar

    _H = TypeVar("_H", Handle, AsyncHandle, default=Handle)
else:
    from typing import TypeVar

    _H = TypeVar("_H")
C = TypeVar("C")


@cache
def _environment() -> Settings:
    return Settings.load()


# Where handles read outcomes: shared by all outboxes, as one lives no longer than a session.
_connections: dict[Settings, Connections] = {}
_async_connections: dict[Settings, AsyncConnections] = {}


def forget_settings() -> None:
    """Close what handles of outboxes share; the next Outbox reads the environment again. Each test has its own."""
    _environment.cache_clear()
    while _connections:
        _connections.popitem()[1].close()
    if not _async_connections:
        return
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:  # which leaves the thread's own loop alone
        while _async_connections:
            runner.run(_async_connections.popitem()[1].close())


class Outbox(Generic[_H]):
    """Writes commands into the caller's transaction; a worker's relay pushes them within a second of the commit.

        with Session(engine) as session:
            session.add(Match(...))
            handle = Outbox(session).send(LevelUp(user_id=42, specialization="PLAYER", xp_gained=150))
            session.commit()
        handle.result()

    `session` is a SQLAlchemy Session, scoped_session or Connection, a psycopg Connection, or Django's connection
    (`django.db.connection`, `connections["other"]`), on the database that has levelq's tables. It is neither
    committed nor flushed, and no connection to Redis is needed. On asyncio:
    `handle = await session.run_sync(lambda s: Outbox(s).send(command))`, and later `await handle`; there, write
    `Outbox[AsyncHandle](s)` for a type checker, which cannot tell the two apart.

    Raises TypeError for what has no transaction, TransactionMisuse for an AsyncSession that was passed itself,
    ConfigurationError for settings that cannot work.

    Commands of one lane take effect in the order in which they were written; those of transactions that overlapped in
    time, in either order. A command that a Producer sends meanwhile may overtake one that is still in the outbox.
    """

    def __init__(self, session: Any, *, settings: Settings | None = None) -> None:
        self._open = opener(session)
        self.settings = _environment() if settings is None else Settings.of(settings)
        check_database_urls(self.settings)  # not in `send`, after its row was written

    def send(self, command: Command, reply: bool = True) -> _H:
        """Write one command; returns its Handle, in a transaction on asyncio its AsyncHandle.

        The outcome comes after the commit. The same command again, with the same content,
        changes nothing. Raises InvalidCommand for what the catalog can never allow and for an id that is in the
        outbox with other content; the transaction stays usable. Raises TransactionMisuse in autocommit and in a
        closed or aborted transaction, SchemaError where the outbox's table is missing. The driver's other errors
        pass through.
        """
        (handle,) = self.send_many([command], reply)
        return handle

    def send_many(self, commands: Iterable[Command], reply: bool = False) -> list[_H]:
        """Write many commands in one statement; one handle each, in order. Raises as `send`: all or none."""
        batch = list(commands)
        with send_span("outbox", batch) as trace:
            return self._send(batch, reply, trace)

    def _send(self, batch: Sequence[Command], reply: bool, trace: bytes) -> list[_H]:
        payloads: dict[UUID, bytes] = {}
        for command in batch:
            payload = encode(self.settings, command, reply=reply, trace=trace)
            if payloads.setdefault(command.command_id, payload)[_DIGEST] != payload[_DIGEST]:
                raise _used_before(command.command_id)
        if not batch:
            return []
        transaction = self._open()
        stored = self._write(transaction, {command.command_id: command for command in batch}, payloads)
        kept = {command_id for command_id, payload in stored.items() if payload[_FLAGS_AT] & FLAG_REPLY}
        kind: Any = AsyncHandle if transaction.is_async else Handle
        connections: Any = (
            _shared(_async_connections, AsyncConnections, self.settings)
            if transaction.is_async
            else _shared(_connections, Connections, self.settings)
        )
        return [kind(connections, one.command_id, one.command_id in kept) for one in batch]

    def _write(
        self, transaction: OpenTransaction, commands: Mapping[UUID, Command], payloads: Mapping[UUID, bytes]
    ) -> dict[UUID, bytes]:
        """Write what is not in the outbox yet; returns what it holds under each id."""
        stored: dict[UUID, bytes] = {}
        written: list[UUID] = []
        for _ in range(_ATTEMPTS):
            new = self._insert(transaction, [commands[id_] for id_ in commands if id_ not in stored], payloads)
            written += new
            stored |= {command_id: payloads[command_id] for command_id in new}
            for command_id, payload in _find(transaction, [id_ for id_ in commands if id_ not in stored]).items():
                if payload[_DIGEST] != payloads[command_id][_DIGEST]:
                    transaction.execute(outbox_insert.WITHDRAW, {"command_ids": [str(id_) for id_ in written]})
                    raise _used_before(command_id)
                stored[command_id] = payload
            if len(stored) == len(commands):
                break
        return stored  # ids that disappeared each time have been decided: nothing to send

    def _insert(
        self, transaction: OpenTransaction, commands: Sequence[Command], payloads: Mapping[UUID, bytes]
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


def _shared(made: dict[Settings, C], make: Callable[[Settings], C], settings: Settings) -> C:
    return made[settings] if settings in made else made.setdefault(settings, make(settings))


def _ascii(value: str | bytes) -> str:
    """A text column's value: psycopg gives bytes where the client encoding is SQL_ASCII."""
    return value if isinstance(value, str) else value.decode("ascii")


def _used_before(command_id: UUID) -> InvalidCommand:
    message = f"command_id: {command_id} is in the outbox with other content; a new command needs a new id"
    return InvalidCommand(message, field="command_id", value=command_id, command_id=command_id)

"""Producers that apply commands at once on the test's own session, with the workers' code. Needs levelq[worker]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from levelq_core.coupler.apply import Decided, decide
from levelq_core.coupler.sessions import AnySession, check_session, refresh_rows, session_of
from levelq_core.database.session_binds import bind_of
from levelq_core.domain.commands import Command
from levelq_core.domain.outcome import Outcome
from levelq_core.errors import OutcomeTimeout
from levelq_core.operations.queries import outcome_of
from levelq_core.settings import Settings

from .async_local import AsyncLocalProducer
from .destination import Destination, Taken
from .local import LocalProducer

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session

    AnyAsyncSession = AsyncSession | async_scoped_session[AsyncSession]

T = TypeVar("T")


class Inliner(Destination):
    """Applies commands in a SAVEPOINT of the session's transaction, which it neither commits nor rolls back."""

    def __init__(self, session: Callable[[], Session], settings: Settings | None) -> None:
        super().__init__(settings)
        self._session = session
        self._undecided: dict[UUID, Decided] = {}  # as of a lane that a worker would park

    def _take(self, commands: Sequence[Command]) -> Sequence[Taken]:
        session = self._session()
        with session.begin_nested():  # flushes first, so the caller's pending rows are there
            bind = bind_of(session)
            decided = decide(
                session.connection(bind_arguments={"bind": bind}),
                commands,
                catalog=self.settings.tracks,
                savepoint=False,
            )
            for user_id in {one.outcome.user_id for one in decided if one.outcome.status == "applied"}:
                refresh_rows(session, user_id, bind)
        self._undecided |= {one.outcome.command_id: one for one in decided if not one.is_final}
        return [Taken(partial(_outcome, one)) for one in decided]

    def _known(self, command_id: UUID) -> Outcome | None:
        return outcome_of(self._connection(), command_id)

    def _answer(self, command_id: UUID) -> Outcome:
        known = self._known(command_id)
        if known is None and command_id in self._undecided:
            return _outcome(self._undecided[command_id])
        if known is None:
            message = f"command {command_id} is not in the ledger that this session sees"
            raise OutcomeTimeout(message, command_id=command_id, state="unknown")
        return known

    def _was_sent(self, command_id: UUID) -> bool:
        return command_id in self._undecided

    def _connection(self) -> Connection:
        session = self._session()
        return session.connection(bind_arguments={"bind": bind_of(session)})


class InlineProducer(Inliner, LocalProducer):
    """A Producer that applies each command at once on `session`, a Session or a scoped_session of the test.

        producer = InlineProducer(session)
        handle = producer.level_up(42, "PLAYER", 150)
        assert handle.result().to_level == 1
        session.rollback()  # nothing is left of it

    The rules, the ledger and the outcomes are the workers'. The session's pending objects are flushed before, and those
    it holds of the user's progress and licenses show the new values after. The commands become part of the session's
    transaction, which this class neither commits nor rolls back; a command that is refused leaves it usable.

    Raises TypeError for another kind of session. `send` raises InvalidCommand; TransactionMisuse for a session that is
    not on psycopg 3 or not READ COMMITTED; SchemaError; and SQLAlchemy's errors. A command that the database cannot
    decide now, so that a worker would try again, has no outcome: its handle raises OutcomeTimeout with the reason.
    """

    def __init__(self, session: AnySession, settings: Settings | None = None) -> None:
        if _name(session).lower().startswith("async"):
            raise TypeError(f"session: expected a SQLAlchemy Session, got {_name(session)}; use AsyncInlineProducer")
        check_session(session)
        super().__init__(lambda: session_of(session), settings)


class AsyncInlineProducer(Inliner, AsyncLocalProducer):
    """The same for asyncio: an AsyncProducer on the test's AsyncSession or async_scoped_session."""

    def __init__(self, session: AnyAsyncSession, settings: Settings | None = None) -> None:
        if not _name(session).lower().startswith("async"):
            raise TypeError(f"session: expected a SQLAlchemy AsyncSession, got {_name(session)}; use InlineProducer")
        given: Any = session
        self._current: Callable[[], AsyncSession] = given if hasattr(given, "registry") else lambda: given
        super().__init__(lambda: self._current().sync_session, settings)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._current().run_sync(lambda _: work(*arguments))


def _outcome(decided: Decided) -> Outcome:
    outcome, is_final = decided
    if not is_final:
        why = f"could not be decided, and a worker would park its lane: {outcome.message}"
        raise OutcomeTimeout(
            f"command {outcome.command_id} {why}",
            command_id=outcome.command_id,
            state="queued",
            user_id=outcome.user_id,
            specialization=outcome.specialization,
        )
    return outcome


def _name(given: object) -> str:
    return type(given).__qualname__

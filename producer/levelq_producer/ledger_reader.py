"""Questions to the ledger for outcomes: many waiters share one connection and one query."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self
from uuid import UUID

from levelq_core.database.urls import check_database_urls
from levelq_core.domain.outcome import Outcome
from levelq_core.errors import ConfigurationError
from levelq_core.redis_client.per_process import PerProcess
from levelq_core.settings import Settings, redacted

if TYPE_CHECKING:
    from sqlalchemy import Engine

Asked = tuple[UUID, bytes | None]  # a command's id, and the digest of what was sent under it
_MOST = 1_000  # commands in one query
_POLL_SECONDS = 0.05  # between two questions of one waiter
_EACH_SECONDS = 0.0002  # and for each waiter, so that 5,000 do not ask without a pause


class _Question:
    """What one thread wants to know; `turn` is called when it is answered, or when it is to ask for all."""

    __slots__ = ("answers", "asked", "error", "turn")

    def __init__(self, asked: Sequence[Asked]) -> None:
        self.asked = asked
        self.answers: list[Outcome | None] | None = None
        self.error: Exception | None = None
        self.turn = threading.Event()


class _ProcessState:
    """One process's engine, and the questions that wait while a query for others runs."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.engine: Engine | None = None
        self.busy = False
        self.pending: list[_Question] = []
        self.waiters = 0


class LedgerReader:
    """Asks the ledger for outcomes, on a connection of each process's own, made at the first question."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._state = PerProcess(_ProcessState)

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """A reader, if a database URL is set. Raises ConfigurationError for one that libpq would refuse."""
        if settings.database_url is None:
            return None
        check_database_urls(settings)
        return cls(settings)

    def look_up(self, command_id: UUID, digest: bytes | None = None) -> Outcome | None:
        """The decision on a command, if there is one; a conflict if it was on another content than `digest`.

        Raises ConfigurationError if the ledger cannot be asked, WrongDatabase if it is another deployment's.
        """
        return self.look_up_many([(command_id, digest)])[0]

    def look_up_many(self, asked: Sequence[Asked]) -> list[Outcome | None]:
        """The same for many commands, in one query for each thousand, in their order."""
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError  # noqa: PLC0415 - needs levelq[worker]

        from levelq_core.database.engine import NoAnswer, unreachable  # noqa: PLC0415
        from levelq_core.operations.queries import WrongAnswer  # noqa: PLC0415

        try:
            try:
                return self._query(asked)
            except DBAPIError as error:
                # The server ended this connection before, as by a restart: a new one may do. Nothing was changed.
                if not error.connection_invalidated or isinstance(error.orig, NoAnswer):
                    raise
                return self._query(asked)
        except DBAPIError as error:
            raise unreachable(self._settings, error) from error
        except (SQLAlchemyError, WrongAnswer) as error:
            where = f"LEVELQ_DATABASE_URL: {redacted(self._settings.database_url or '')}"
            raise ConfigurationError(f"{where}: {error}") from error

    def _query(self, asked: Sequence[Asked]) -> list[Outcome | None]:
        from levelq_core.operations.queries import WrongAnswer, outcomes_of  # noqa: PLC0415

        state, engine = self._state.get(), self._engine()
        pool = engine.pool
        found: list[Outcome | None] = []
        try:
            with engine.connect() as connection:
                try:
                    for start in range(0, len(asked), _MOST):
                        found += outcomes_of(connection, asked[start : start + _MOST])
                except WrongAnswer:
                    connection.invalidate()
                    raise
        finally:
            if state.engine is not engine:  # closed meanwhile, without the connection that was in use
                pool.dispose()
        return found

    def _engine(self) -> Engine:
        from levelq_core.database.engine import engine_for  # noqa: PLC0415
        from levelq_core.operations.identity import require_ours  # noqa: PLC0415

        state = self._state.get()
        engine = state.engine
        if engine is not None:
            return engine
        made = engine_for(self._settings, name="levelq producer", connections=4, limited=True)
        try:
            require_ours(made, self._settings)
        except BaseException:
            made.dispose()
            raise
        with state.lock:
            kept = state.engine = state.engine or made
        if kept is not made:  # another thread was first
            made.dispose()
        return kept

    def ask(self, command_id: UUID, digest: bytes | None = None) -> Outcome | None:
        """As look_up, together with what other threads want to know at the same time."""
        return self.ask_many([(command_id, digest)])[0]

    def ask_many(self, asked: Sequence[Asked]) -> list[Outcome | None]:
        """As look_up_many, together with what other threads want to know: one of them asks for all."""
        state, mine = self._state.get(), _Question(asked)
        with state.lock:
            state.pending.append(mine)
            leads = not state.busy
            state.busy = True
        if not leads:
            try:
                mine.turn.wait()
            except BaseException:  # a signal's handler raised
                self._withdraw(state, mine)
                raise
        if mine.answers is None and mine.error is None:
            self._ask_for_all(state)
        if mine.error is not None:
            raise mine.error
        assert mine.answers is not None
        return mine.answers

    def _ask_for_all(self, state: _ProcessState) -> None:
        with state.lock:
            together, state.pending = state.pending, []
        try:
            self._answer(together)
        except BaseException as error:  # also what a signal's handler raises: the others must not wait for ever
            for question in together:
                question.error = (
                    error if isinstance(error, Exception) else ConfigurationError(f"interrupted: {error!r}")
                )
            if not isinstance(error, Exception):
                raise
        finally:
            with state.lock:
                following = state.pending[0] if state.pending else None
                state.busy = following is not None
            for question in together:
                question.turn.set()
            if following is not None:
                following.turn.set()

    @staticmethod
    def _withdraw(state: _ProcessState, mine: _Question) -> None:
        """Wait no longer; if it was this thread's turn to ask for all, it is another's."""
        with state.lock:
            if mine not in state.pending:
                return
            state.pending.remove(mine)
            if not mine.turn.is_set():
                return
            following = state.pending[0] if state.pending else None
            state.busy = following is not None
        if following is not None:
            following.turn.set()

    def _answer(self, together: Sequence[_Question]) -> None:
        asked = [one for question in together for one in question.asked]
        answers = [self.look_up(*asked[0])] if len(asked) == 1 else self.look_up_many(asked)
        at = 0
        for question in together:
            question.answers = answers[at : at + len(question.asked)]
            at += len(question.asked)

    def pause(self, seconds: float = _POLL_SECONDS) -> float:
        """How long a waiter waits between two questions: `seconds`, or longer if many wait."""
        return max(seconds, _EACH_SECONDS * self._state.get().waiters)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count one waiter more while this block runs."""
        state = self._state.get()
        with state.lock:
            state.waiters += 1
        try:
            yield
        finally:
            with state.lock:
                state.waiters -= 1

    def close(self) -> None:
        """Give this process's connections back."""
        state = self._state.get()
        with state.lock:
            engine, state.engine = state.engine, None
        if engine is not None:
            engine.dispose()

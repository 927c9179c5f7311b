"""Outcomes from the ledger: the threads that wait for one share a connection and a query."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import UUID

from levelq_core.database.urls import check_database_urls
from levelq_core.domain.outcome import Outcome
from levelq_core.errors import ConfigurationError, LevelqError, ProducerClosed
from levelq_core.redis_client.per_process import PerProcess
from levelq_core.redis_client.url_options import redacted

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from levelq_core.settings import Settings

T = TypeVar("T")
Key = tuple[UUID, bytes | None]  # a command's id, and the digest of what was sent under it
_MOST = 1_000  # commands in one query
_EACH_SECONDS = 0.0002  # of pause for each waiter, so that 5,000 do not query without one


class _Request:
    """What one thread wants to know; `turn` is set when it is answered, or when this thread must query for all."""

    __slots__ = ("error", "keys", "outcomes", "turn")

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys
        self.outcomes: list[Outcome | None] | None = None
        self.error: Exception | None = None
        self.turn = threading.Event()


class _ProcessState:
    """One process's engine, and the requests that wait while a query for others runs."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.engine: Engine | None = None
        self.busy = False
        self.closed = False
        self.pending: list[_Request] = []
        self.waiters = 0


class LedgerReader:
    """Reads the ledger, on connections of each process's own, made at the first query."""

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

    def query(self, keys: Sequence[Key]) -> list[Outcome | None]:
        """The decision on each command, if there is one; a conflict if it was on other content than the digest's.

        Raises ConfigurationError if the ledger cannot be read, WrongDatabase if it is another deployment's.
        """

        def select(connection: Connection) -> list[Outcome | None]:
            from levelq_core.operations.queries import outcomes_of  # noqa: PLC0415 - needs levelq[worker]

            steps = range(0, len(keys), _MOST)
            return [one for start in steps for one in outcomes_of(connection, keys[start : start + _MOST])]

        return self._read(select)

    def last_in_outbox(self, user_id: int, specialization: str, *ids: int) -> int | None:
        """See levelq_core.operations.queries. Raises as `query`."""

        def select(connection: Connection) -> int | None:
            from levelq_core.operations.queries import last_in_outbox  # noqa: PLC0415

            return last_in_outbox(connection, user_id, specialization, *ids)

        return self._read(select)

    def in_outbox(self, command_id: UUID) -> str | None:
        """The specialization of a command that is in the outbox; None if it is not there. Raises as `query`."""

        def select(connection: Connection) -> str | None:
            from levelq_core.operations.queries import in_outbox  # noqa: PLC0415

            return in_outbox(connection, command_id)

        return self._read(select)

    def _read(self, select: Callable[[Connection], T]) -> T:
        url, setting = redacted(self._settings.database_url or ""), "LEVELQ_DATABASE_URL"
        try:
            from sqlalchemy.exc import DBAPIError, SQLAlchemyError  # noqa: PLC0415

            from levelq_core.database.engine import NoAnswer, unreachable  # noqa: PLC0415
            from levelq_core.operations.queries import WrongAnswer  # noqa: PLC0415
        except ModuleNotFoundError as error:
            what = f"set, but {error.name} is not installed: pip install 'levelq[worker]', or unset it"
            raise ConfigurationError(f"{setting}: {what}", setting=setting, value=url) from error
        try:
            try:
                return self._select(select)
            except DBAPIError as error:
                # The server ended this connection before, as by a restart: a new one may do. Nothing was changed.
                if not error.connection_invalidated or isinstance(error.orig, NoAnswer):
                    raise
                return self._select(select)
        except DBAPIError as error:
            raise unreachable(self._settings, error) from error
        except (SQLAlchemyError, WrongAnswer) as error:
            raise ConfigurationError(f"{setting}: {url}: {error}", setting=setting, value=url) from error

    def _select(self, select: Callable[[Connection], T]) -> T:
        from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

        state, engine = self._state.get(), self._engine()
        pool = engine.pool
        try:
            with engine.connect() as connection:
                try:
                    return select(connection)
                except DBAPIError:
                    raise
                except BaseException:  # WrongAnswer, or what a signal's handler raised: an answer may be under way
                    connection.invalidate()
                    raise
        finally:
            if state.engine is not engine:  # closed meanwhile, without the connection that was in use: of this pool,
                pool.dispose()  # or of the one that the engine has had since
                engine.pool.dispose()

    def _engine(self) -> Engine:
        from levelq_core.database.engine import engine_for  # noqa: PLC0415
        from levelq_core.operations.identity import require_ours  # noqa: PLC0415

        state = self._state.get()
        engine = state.engine
        if state.closed:
            raise ProducerClosed
        if engine is not None:
            return engine
        made = engine_for(self._settings, name="levelq producer", connections=4, limited=True)
        try:
            require_ours(made, self._settings)
        except BaseException:
            made.dispose()
            raise
        with state.lock:
            kept = None if state.closed else state.engine or made
            state.engine = kept
        if kept is not made:  # another thread was first, or closed the producer
            made.dispose()
        if kept is None:
            raise ProducerClosed
        return kept

    def outcome(self, command_id: UUID, digest: bytes | None = None) -> Outcome | None:
        """The decision on one command; threads that wait at the same time share a query. Raises as `query`."""
        return self.outcomes([(command_id, digest)])[0]

    def outcomes(self, keys: Sequence[Key]) -> list[Outcome | None]:
        """The same for many commands, in their order."""
        state, mine = self._state.get(), _Request(keys)
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
        if mine.outcomes is None and mine.error is None:
            self._query_for_all(state, mine)
        if mine.error is not None:
            raise mine.error
        assert mine.outcomes is not None
        return mine.outcomes

    def _query_for_all(self, state: _ProcessState, mine: _Request) -> None:
        with state.lock:
            together, state.pending = state.pending, []
        try:
            outcomes = iter(self.query([key for request in together for key in request.keys]))
            for request in together:
                request.outcomes = list(islice(outcomes, len(request.keys)))
        except LevelqError as error:
            for request in together:
                request.error = error
        except BaseException:  # a signal's handler raised: the others query without this thread
            with state.lock:
                state.pending = [request for request in together if request is not mine] + state.pending
            for request in together:
                request.outcomes = None
            together = []
            raise
        finally:
            with state.lock:
                following = self._next(state)
            for request in together:
                request.turn.set()
            if following is not None:
                following.turn.set()

    def _withdraw(self, state: _ProcessState, mine: _Request) -> None:
        """Remove a request; if its thread was to query for all, the next one's does."""
        with state.lock:
            if mine not in state.pending:
                return
            state.pending.remove(mine)
            following = self._next(state) if mine.turn.is_set() else None
        if following is not None:
            following.turn.set()

    @staticmethod
    def _next(state: _ProcessState) -> _Request | None:
        """The request whose thread queries for all next, if any waits."""
        following = state.pending[0] if state.pending else None
        state.busy = following is not None
        return following

    def pause(self, seconds: float) -> float:
        """How long a waiter pauses between two queries: `seconds`, or longer if many wait."""
        return max(seconds, _EACH_SECONDS * self._state.get().waiters)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count one more waiter while this block runs."""
        state = self._state.get()
        with state.lock:
            state.waiters += 1
        try:
            yield
        finally:
            with state.lock:
                state.waiters -= 1

    def close(self) -> None:
        """Close this process's connections."""
        state = self._state.get()
        with state.lock:
            engine, state.engine, state.closed = state.engine, None, True
        if engine is not None:
            engine.dispose()

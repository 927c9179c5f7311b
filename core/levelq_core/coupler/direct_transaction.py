"""One command on the application's own session: who owns the transaction, and how it ends.

In a transaction that the caller owns, a command is one SAVEPOINT. Any other ends here: it is committed with the
command, or rolled back, and then only the rejection is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import cached_property
from typing import Any, NoReturn

from pydantic import ValidationError
from sqlalchemy import Connection, TextClause
from sqlalchemy.exc import DBAPIError, MissingGreenlet, SQLAlchemyError, UnboundExecutionError
from sqlalchemy.orm import Session

from levelq_core.database.schema import schema_of
from levelq_core.database.session_binds import Bind, bind_of
from levelq_core.database.sqlstate import ErrorClass, classify, in_words
from levelq_core.database.transactions import (
    check_driver,
    check_schema,
    driver_connection,
    dropped_if_interrupted,
)
from levelq_core.domain.catalog import Catalog
from levelq_core.domain.codec import record_of
from levelq_core.domain.commands import Command
from levelq_core.domain.outcome import Outcome, state_of
from levelq_core.domain.record import lane_of
from levelq_core.domain.results import ErrorType, Failure
from levelq_core.domain.rules import Decision
from levelq_core.errors import InvalidCommand, LevelqError, LevelUpRefused

from .apply import Decided, batch_transaction, decide
from .ledger import write
from .sessions import caller_owns, ends_savepoint, refresh_rows


class DirectTransaction:
    """A session, for one call. `catalog`: the settings' unless given."""

    def __init__(self, session: Session, catalog: Catalog | None) -> None:
        self._session = session
        self._catalog = catalog
        self.is_callers = caller_owns(session)

    def apply(self, kind: Callable[..., Command], fields: dict[str, Any]) -> Outcome:
        """Build a command and apply it. Raises LevelUpRefused, with the cause, if it was not applied."""
        try:
            command = kind(**fields)
        except ValidationError as error:
            self._refuse(fields, "validation_error", invalid(error))
        fields["command_id"] = command.command_id
        try:
            check_driver(self._bind.dialect)
            driver_connection(self._connection())
            outcome = self._apply_in_savepoint(command) if self.is_callers else self._apply_and_commit(command)
        except (SQLAlchemyError, LevelqError) as error:
            self._refuse(fields, "database_error", error)
        except Exception as error:
            self._refuse(fields, "unknown_error", error)
        except BaseException:  # a later commit must not find half of it
            with suppress(SQLAlchemyError):
                self._undo()
            raise
        if outcome.status == "rejected":
            error_type: ErrorType = "database_error" if outcome.error == "database_error" else "validation_error"
            raise self._refusal(fields, error_type, outcome.message)
        return outcome

    def read(self, statement: TextClause, parameters: Mapping[str, Any]) -> Any:
        """The only row of a query, which sees the session's pending work unless `autoflush` is off.

        An error leaves a transaction of the caller's usable, and ends any other.
        """
        try:
            if self._session.autoflush:
                self._session.flush()
            connection = self._connection()
            check_schema(connection)
            with connection.begin_nested() if self.is_callers else nullcontext(), dropped_if_interrupted(connection):
                return connection.execute(statement, dict(parameters)).one()
        except BaseException:
            self._undo()
            raise

    @cached_property
    def _bind(self) -> Bind:
        return bind_of(self._session)

    def _connection(self) -> Connection:
        return self._session.connection(bind_arguments={"bind": self._bind})

    def _apply_in_savepoint(self, command: Command) -> Outcome:
        session = self._session
        with session.begin_nested():  # flushes first, so the caller's pending rows are not part of it
            outcome, _ = self._decide(command)
            if outcome.status == "applied":
                refresh_rows(session, command.user_id, self._bind)
        if outcome.status == "applied" and ends_savepoint(session, self._connection()):
            session.commit()
        return outcome

    def _apply_and_commit(self, command: Command) -> Outcome:
        session = self._session
        session.flush()
        outcome, is_final = self._decide(command)
        if outcome.status == "applied":
            if not session.expire_on_commit:
                refresh_rows(session, command.user_id, self._bind)
            session.commit()
            return outcome
        session.rollback()
        if not is_final or outcome.error == "conflict" or outcome.duplicate or self._record(command, outcome):
            return outcome
        return self._apply_and_commit(command)

    def _decide(self, command: Command) -> Decided:
        # Without a savepoint of its own: a failure rolls back the one around it, or the whole transaction.
        (decided,) = decide(self._connection(), [command], catalog=self._catalog, savepoint=False)
        return decided

    def _record(self, command: Command, rejected: Outcome) -> bool:
        """Keep the rejection, without the caller's pending work, so that the same id gets the same answer.

        False if another transaction has decided the same id meanwhile: that decision is the first.
        """
        before, after = (state_of(totals) if totals else None for totals in (rejected.before, rejected.after))
        decision = Decision(rejected.error, rejected.message, before=before, after=after)
        try:
            connection = self._connection()
            encoding = schema_of(connection).encoding
            with batch_transaction(connection, "direct") as (cursor, info):
                write(cursor, [(lane_of(command), record_of(command), decision)], info, encoding=encoding)
        except DBAPIError as error:
            if classify(error) is not ErrorClass.RETRY:
                raise
            self._session.rollback()
            return False
        self._session.commit()
        return True

    def _refuse(self, fields: Mapping[str, Any], error_type: ErrorType, error: Exception) -> NoReturn:
        self._undo()
        raise self._refusal(fields, error_type, failure(error_type, error)["message"]) from error

    def _refusal(self, fields: Mapping[str, Any], error_type: ErrorType, message: str) -> LevelUpRefused:
        result: Failure = {"success": False, "message": message, "error_type": error_type}
        if self.is_callers:
            result["committed"] = False
        return LevelUpRefused(
            message,
            user_id=fields["user_id"],
            specialization=fields["specialization"],
            error_type=error_type,
            command_id=fields.get("command_id"),
            result=result,
        )

    def _undo(self) -> None:
        """Roll back what the session holds, unless the caller owns the transaction."""
        if self.is_callers:
            return
        try:
            self._session.rollback()
        except MissingGreenlet:
            pass  # nothing was sent
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # The connection was lost, and the transaction with it. The session has released both.


def invalid(error: ValidationError) -> InvalidCommand:
    """What pydantic found, in one line."""
    return InvalidCommand.from_details(error.errors(include_url=False))


def failure(error_type: ErrorType, error: Exception) -> Failure:
    """An error as a result."""
    if isinstance(error, MissingGreenlet):
        message = "this session is an AsyncSession's: use await session.run_sync(level_up_atomic, ...)"
    elif isinstance(error, UnboundExecutionError):
        message = "session: it has no bind for levelq's tables; use one of their engine, as in Session(engine)"
    else:
        message = in_words(error)
    return {"success": False, "message": message, "error_type": error_type}

"""Producers that send nothing and remember everything: for tests of what an application sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from levelq_core.domain.commands import Command
from levelq_core.domain.outcome import Outcome
from levelq_core.errors import LevelqError, NotDurable, OutcomeTimeout, OutcomeUnknown, SendUnknown
from levelq_core.settings import Settings

from .async_local import AsyncLocalProducer
from .destination import Destination, Taken
from .expectation import Expectation, shown
from .local import LocalProducer


class _Prepared(NamedTuple):
    """What a test prepared for some commands: an outcome without the command's identity, or an error."""

    expectation: Expectation
    outcome: Outcome | None
    error: LevelqError | None


class Recorder(Destination):
    """What was sent, the assertions about it, and the outcomes that a test prepared."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.sent: list[Command] = []
        self._prepared: list[_Prepared] = []

    def answer(
        self,
        kind: type[Command] | None = None,
        /,
        *,
        outcome: Mapping[str, Any] | None = None,
        raises: LevelqError | None = None,
        **fields: Any,
    ) -> None:
        """Prepare what becomes of commands of this kind (None: any) with these fields; the latest that fits counts.

        `outcome`: fields of Outcome, such as `{"to_level": 3}` or `{"error": "validation_error", "message": "..."}`;
        the status is "rejected" with an `error`, else "applied", and the ids are the command's. `raises`: instead, an
        error: OutcomeTimeout and OutcomeUnknown from the handle's `result`, any other (LaneFull, QueueUnavailable)
        from `send`, and from `send_many` as the handle's `error`. Raises TypeError for a field that does not exist.
        """
        if (outcome is None) == (raises is None):
            raise TypeError("outcome, raises: expected one of the two")
        prepared: Outcome | None = None
        if outcome is not None:
            if unknown := outcome.keys() - Outcome.model_fields.keys():
                raise TypeError(f"outcome: expected fields of Outcome, got {', '.join(sorted(unknown))}")
            status = "rejected" if outcome.get("error") else "applied"
            identity = {"command_id": UUID(int=0), "user_id": 0, "specialization": ""}
            prepared = Outcome(**(identity | {"status": status} | dict(outcome)))
        self._prepared.append(_Prepared(Expectation(kind, fields), prepared, raises))

    def clear(self) -> None:
        """Forget what was sent; prepared outcomes stay."""
        self.sent.clear()

    def assert_sent(self, kind: type[Command] | None = None, /, **fields: Any) -> Command:
        """Fail unless a command of this kind was sent with these values in its fields; returns the first.

        Fields that are not given may have any value. Raises TypeError for a field that the kind does not have.
        """
        __tracebackhide__ = True
        expectation = Expectation(kind, fields)
        for command in self.sent:
            if expectation.matches(command):
                return command
        raise AssertionError(f"not sent: {expectation}\n{expectation.listing(self.sent)}")

    def assert_not_sent(self, kind: type[Command] | None = None, /, **fields: Any) -> None:
        """Fail if a command of this kind was sent with these values; without arguments, if anything was sent."""
        __tracebackhide__ = True
        expectation = Expectation(kind, fields)
        if found := [command for command in self.sent if expectation.matches(command)]:
            raise AssertionError(f"expected not to be sent: {expectation}\n{expectation.listing(found)}")

    def assert_sent_count(self, count: int, kind: type[Command] | None = None, /, **fields: Any) -> None:
        """Fail unless exactly `count` commands of this kind were sent with these values."""
        __tracebackhide__ = True
        expectation = Expectation(kind, fields)
        found = sum(map(expectation.matches, self.sent))
        if found != count:
            message = f"expected {count} of {expectation}, {found} sent"
            raise AssertionError(f"{message}\n{expectation.listing(self.sent)}")

    def _take(self, commands: Sequence[Command]) -> Sequence[Taken]:
        taken = []
        for command in commands:
            prepared = self._prepared_for(command)
            error = None if prepared is None or _comes_late(prepared.error) else prepared.error
            if error is None or isinstance(error, NotDurable | SendUnknown):  # with these two it is queued, or may be
                self.sent.append(command)
            taken.append(Taken(partial(self._outcome_of, command), error))
        return taken

    def _known(self, command_id: UUID) -> Outcome | None:
        command = self._sent_as(command_id)
        prepared = command and self._prepared_for(command)
        return self._outcome_of(command) if command and prepared and prepared.outcome else None

    def _answer(self, command_id: UUID) -> Outcome:
        command = self._sent_as(command_id)
        if command is None:
            message = f"command_id: {command_id} was not sent through this {type(self).__name__}"
            raise OutcomeUnknown(message, command_id=command_id)
        return self._outcome_of(command)

    def _outcome_of(self, command: Command) -> Outcome:
        prepared = self._prepared_for(command)
        if prepared is None:
            kind = type(command).__name__
            # No LevelqError: the code under test may handle those, and the test would pass for a wrong reason.
            raise AssertionError(
                f"no outcome was prepared for {shown(command)}: call answer({kind}, outcome={{...}}) before, "
                "or use InlineProducer, which applies commands"
            )
        if prepared.error is not None:
            raise prepared.error
        assert prepared.outcome is not None
        identity = {name: getattr(command, name) for name in ("command_id", "user_id", "specialization")}
        return prepared.outcome.model_copy(update=identity)

    def _was_sent(self, command_id: UUID) -> bool:
        return self._sent_as(command_id) is not None

    def _sent_as(self, command_id: UUID) -> Command | None:
        return next((command for command in self.sent if command.command_id == command_id), None)

    def _prepared_for(self, command: Command) -> _Prepared | None:
        return next((one for one in reversed(self._prepared) if one.expectation.matches(command)), None)


class RecordingProducer(Recorder, LocalProducer):
    """A Producer that sends nothing: no server is needed, and what was sent can be asserted.

        producer = RecordingProducer()
        finish_session(producer, user_id=42)
        producer.assert_sent(LevelUp, user_id=42, xp_gained=150)

    Commands are validated as ever. A handle's `result` returns what `answer` prepared, else fails with AssertionError.
    """


class AsyncRecordingProducer(Recorder, AsyncLocalProducer):
    """The same for asyncio: an AsyncProducer that sends nothing."""


def _comes_late(error: LevelqError | None) -> bool:
    """Whether a handle's `result` raises this error, not `send`."""
    return isinstance(error, OutcomeTimeout) or type(error) is OutcomeUnknown

"""Every error levelq raises, as one tree.

LevelqError
├── InvalidArgument         an argument of a call cannot be used, such as a timeout of 0
├── InvalidCommand          a command that cannot be built or that the catalog can never allow
├── ProducerClosed          a call on a producer that was closed, or on a handle of it
├── QueueFull
│   ├── LaneFull            one (user, specialization) holds as many commands as it may
│   └── PartitionFull       one partition holds as many commands as it may
├── NotDurable              queued, but the durability asked for was not confirmed in time
├── QueueUnavailable        Redis cannot be reached, or refuses: nothing was queued
│   └── Moved               the partition was closed by a change of the shard count
├── OutcomeUnknown          the command's outcome is not kept anywhere
│   └── SendUnknown         the connection was lost midway: the command may be queued (also a QueueUnavailable)
├── OutcomeTimeout          not decided within the timeout; the command may still be applied
├── ConfigurationError      a setting, an address or a permission is wrong
│   ├── CatalogError        the catalog file is wrong
│   ├── SchemaError         the database lacks what levelq needs
│   └── WrongDatabase       the namespace is bound to another database
├── LevelUpRefused          a direct call with raise_on_failure=True changed nothing
└── TransactionMisuse       levelq cannot work in this connection or transaction
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from .domain.results import ErrorType, Failure


class LevelqError(Exception):
    """The base of every error levelq raises.

    An error has attributes for what its message names, such as `field` and `value`; a pickle and a copy keep them.
    Where the message does not name it, an attribute has its class's default.
    """

    def __init__(self, message: str = "", **named: Any) -> None:
        super().__init__(message)
        if unknown := [name for name in named if not hasattr(type(self), name)]:
            raise TypeError(f"{type(self).__name__} has no attribute {', '.join(unknown)}")
        self.__dict__.update(named)


class InvalidArgument(LevelqError, ValueError):
    """An argument of a call, `field`, cannot be `value`; nothing was done."""

    field: str = ""
    value: Any = None


class InvalidCommand(LevelqError, ValueError):
    """The command cannot be built, or the catalog can never allow it; nothing was sent.

    `field` and `value`: the first that is wrong. `limit`: the most that is allowed, where the message names a limit.
    """

    field: str = ""
    value: Any = None
    limit: int | None = None
    user_id: int | None = None
    specialization: str = ""
    command_id: UUID | None = None

    @classmethod
    def from_details(cls, details: Iterable[Any]) -> InvalidCommand:
        """Describe in one line what a validation found: field, value given, what was expected."""
        found = list(details)
        message = "; ".join(describe(detail) for detail in found)
        context = found[0].get("ctx", {})
        limit = context.get("le", context.get("max_length"))
        return cls(message, field=field_of(found[0]), value=found[0]["input"], limit=limit)


class ProducerClosed(LevelqError):
    """The producer was closed: it sends nothing, and its handles cannot be waited for. Make another producer."""

    def __init__(self, message: str = "the producer is closed: call it inside its `with` block, or make another one"):
        super().__init__(message)


class QueueFull(LevelqError):
    """A limit on waiting commands was reached; this command was not queued.

    `limit` is the value of `setting`, such as LEVELQ_LANE_LIMIT; `partition` is a name such as PLAYER:1:0.
    """

    user_id: int | None = None
    specialization: str = ""
    partition: str = ""
    limit: int = 0
    setting: str = ""


class LaneFull(QueueFull):
    """The lane holds LEVELQ_LANE_LIMIT commands already; this one was not queued."""


class PartitionFull(QueueFull):
    """The partition holds LEVELQ_PARTITION_LIMIT commands already; this one was not queued."""


class NotDurable(LevelqError):
    """The command is queued, but the durability asked for was not confirmed in time.

    It takes effect like any other, unless Redis loses it first. Sending it again with the same id is safe, and
    waits again. `numlocal` and `numreplicas`: how many disks and replicas had confirmed it. `milliseconds`: the wait.
    """

    command_id: UUID | None = None
    wanted: str = ""
    numlocal: int = 0
    numreplicas: int = 0
    milliseconds: int = 0


class QueueUnavailable(LevelqError, ConnectionError):
    """Redis could not be reached or refused the command; it was not queued.

    `setting` and `value`: the setting that names the server, and its URL without the password.
    """

    setting: str = ""
    value: str = ""
    partition: str = ""
    user_id: int | None = None


class Moved(QueueUnavailable):
    """The partition was closed when the number of shards changed; send to the new one."""


class OutcomeUnknown(LevelqError):
    """The command's outcome is kept neither in Redis nor in a ledger that this process can read."""

    command_id: UUID | None = None
    user_id: int | None = None
    specialization: str = ""


class SendUnknown(OutcomeUnknown, QueueUnavailable):
    """The connection was lost midway: the command may be queued. Sending it again with the same id is safe."""


class OutcomeTimeout(LevelqError, TimeoutError):
    """The command was not decided within the timeout; it still waits, or its outcome is no longer kept.

    `state`: that of the command when the time was up, as `Producer.state` gives it; None if it could not be read.
    `workers`: how many workers serve its specialization; None if unknown. `timeout` in seconds.
    """

    command_id: UUID | None = None
    timeout: float = 0.0
    state: str | None = None
    workers: int | None = None
    user_id: int | None = None
    specialization: str = ""


class ConfigurationError(LevelqError):
    """A setting, an address or a permission is wrong; the message names it and what was expected.

    `setting` and `value`: the first that is wrong, without a password. `reasons`: where several things are wrong, one
    sentence for each; else the message alone.
    """

    setting: str = ""
    value: Any = None
    reasons: tuple[str, ...] = ()

    def __init__(self, message: str = "", *, reasons: Sequence[str] = (), **named: Any) -> None:
        super().__init__(message, reasons=tuple(reasons) or (message,), **named)


class CatalogError(ConfigurationError):
    """The catalog file is wrong; the message names the file, the specialization and the level."""

    path: str = ""
    specialization: str = ""
    level: int | None = None
    field: str = ""


class SchemaError(ConfigurationError):
    """The database lacks a table, a column or a unique constraint that levelq needs.

    `table`: which one, where the message names one alone.
    """

    table: str = ""


class WrongDatabase(ConfigurationError):
    """The namespace is bound to another database; nothing was applied to this one.

    `namespace`: LEVELQ_NAMESPACE. `bound_to` and `this_database`: both databases as name, server and short identity.
    """

    namespace: str = ""
    bound_to: str = ""
    this_database: str = ""


class LevelUpRefused(LevelqError):
    """A direct call with `raise_on_failure=True` changed nothing. `result` is the dict it would have returned.

    `command_id` is None if none was given and no command could be built; the other values are the caller's.
    """

    def __init__(
        self,
        message: str = "",
        *,
        user_id: int = 0,
        specialization: str = "",
        error_type: ErrorType = "unknown_error",
        command_id: UUID | None = None,
        result: Failure | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.user_id, self.specialization = user_id, specialization
        self.error_type: ErrorType = error_type
        self.command_id = command_id
        self.result: Failure = result or {"success": False, "message": message, "error_type": error_type}

    def __str__(self) -> str:
        return f"{self.error_type}: {self.specialization} of user {self.user_id}: {self.message}"


class TransactionMisuse(LevelqError):
    """levelq cannot work in this connection or transaction.

    The reason: its driver, its isolation level, a schema_translate_map, or that it is read-only or aborted. `field`:
    which of these, as the message begins. `value`: what was found there.
    """

    field: str = ""
    value: Any = None


def field_of(detail: Any) -> str:
    """The field that one pydantic error detail is about."""
    return ".".join(str(part) for part in detail["loc"]) or "command"


def describe(detail: Any) -> str:
    """One pydantic error detail as `field: expected ..., got value`, safe to print on one line."""
    got = repr(detail["input"])
    if len(got) > 80:
        got = got[:77] + "..."
    expected = detail["msg"].removeprefix("Value error, ")
    if detail.get("type") == "user_id" and type(detail["input"]) is not int:
        expected += f", not {type(detail['input']).__name__}"
    return f"{field_of(detail)}: {expected}, got {got}"

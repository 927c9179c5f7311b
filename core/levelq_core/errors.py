"""Every error levelq raises, as one tree.

LevelqError
├── InvalidCommand          a command that cannot be built or that the catalog can never allow
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
    """The base of every error levelq raises."""


class InvalidCommand(LevelqError, ValueError):
    """The command cannot be built, or the catalog can never allow it; nothing was sent."""

    @classmethod
    def from_details(cls, details: Iterable[Any]) -> InvalidCommand:
        """Describe in one line what a validation found: field, value given, what was expected."""
        return cls("; ".join(describe(detail) for detail in details))


class QueueFull(LevelqError):
    """A limit on waiting commands was reached; this command was not queued."""


class LaneFull(QueueFull):
    """The lane holds LEVELQ_LANE_LIMIT commands already; this one was not queued."""


class PartitionFull(QueueFull):
    """The partition holds LEVELQ_PARTITION_LIMIT commands already; this one was not queued."""


class NotDurable(LevelqError):
    """The command is queued, but the durability asked for was not confirmed in time.

    It takes effect like any other, unless Redis loses it first. Sending it again with the same id is safe, and
    waits again. `numlocal` and `numreplicas`: how many disks and replicas had confirmed it. `milliseconds`: the wait.
    """

    def __init__(
        self,
        message: str = "",
        *,
        command_id: UUID | None = None,
        wanted: str = "",
        numlocal: int = 0,
        numreplicas: int = 0,
        milliseconds: int = 0,
    ) -> None:
        super().__init__(message)
        self.command_id, self.wanted, self.milliseconds = command_id, wanted, milliseconds
        self.numlocal, self.numreplicas = numlocal, numreplicas


class QueueUnavailable(LevelqError, ConnectionError):
    """Redis could not be reached or refused the command; it was not queued."""


class Moved(QueueUnavailable):
    """The partition was closed when the number of shards changed; send to the new one."""


class OutcomeUnknown(LevelqError):
    """The command's outcome is kept neither in Redis nor in a ledger that this process can read."""


class SendUnknown(OutcomeUnknown, QueueUnavailable):
    """The connection was lost midway: the command may be queued. Sending it again with the same id is safe."""


class OutcomeTimeout(LevelqError, TimeoutError):
    """The command was not decided within the timeout; it still waits, or its outcome is no longer kept."""


class ConfigurationError(LevelqError):
    """A setting, an address or a permission is wrong; the message names it and what was expected.

    `reasons`: where several things are wrong, one sentence for each; else the message alone.
    """

    def __init__(self, message: str = "", *, reasons: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons) or (message,)


class CatalogError(ConfigurationError):
    """The catalog file is wrong; the message names the file, the specialization and the level."""


class SchemaError(ConfigurationError):
    """The database lacks a table, a column or a unique constraint that levelq needs."""


class WrongDatabase(ConfigurationError):
    """The namespace is bound to another database; nothing was applied to this one.

    `namespace`: LEVELQ_NAMESPACE. `bound_to` and `this_database`: both databases as name, server and short identity.
    """

    def __init__(self, message: str = "", *, namespace: str = "", bound_to: str = "", this_database: str = "") -> None:
        super().__init__(message)
        self.namespace, self.bound_to, self.this_database = namespace, bound_to, this_database


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

    The reason: its driver, its isolation level, a schema_translate_map, or that it is read-only or aborted.
    """


def describe(detail: Any) -> str:
    """One pydantic error detail as `field: expected ..., got value`, safe to print on one line."""
    field = ".".join(str(part) for part in detail["loc"]) or "command"
    got = repr(detail["input"])
    if len(got) > 80:
        got = got[:77] + "..."
    return f"{field}: {detail['msg'].removeprefix('Value error, ')}, got {got}"

"""The commands that an application sends, validated strictly.

The bounds come from the tables (user ids are bigint, totals at least integer), the pattern of a
specialization from its use as part of a Redis key and of an RQ queue name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from levelq_core.errors import InvalidCommand

MAX_USER_ID = 2**63 - 1
MAX_NUMBER = 2**31 - 1
MAX_KEY = 200  # characters of an idempotency key
KEY_NAMESPACE = uuid5(NAMESPACE_URL, "levelq:idempotency-key")  # a promise: docs/reference/api.md shows it
RETRY_NAMESPACE = uuid5(NAMESPACE_URL, "levelq:retry")  # a promise, too: retries that are recorded are found by it


def new_command_id() -> UUID:
    """A UUIDv7 (RFC 9562, 5.7): 48 bits of Unix milliseconds, 12 bits of the fraction, 62 random bits.

    Ids that ascend in time keep the ledger's unique index append-only.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") & (2**62 - 1)
    return UUID(int=(milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random)


def command_id_for(key: str) -> UUID:
    """The command id of an idempotency key of 1 to 200 characters, the same in every process and language.

    It is the UUIDv5 of the key's UTF-8 bytes in KEY_NAMESPACE. Raises InvalidCommand for anything but such a text.
    """
    try:
        return uuid5(KEY_NAMESPACE, _checked_key(key))
    except ValueError as error:
        got = repr(key)
        message = f"idempotency_key: {error}, got {got[:80]}"
        raise InvalidCommand(message, field="idempotency_key", value=key, limit=MAX_KEY) from None


def retry_id(command_id: UUID) -> UUID:
    """The id under which a rejected command is retried: the UUIDv5 of the id's text in RETRY_NAMESPACE.

    So a retry that is sent twice is one command, and what was retried as what can be told from the ids alone.
    """
    return uuid5(RETRY_NAMESPACE, str(command_id))


def _checked_key(key: Any) -> Any:
    fits = isinstance(key, str) and 1 <= len(key) <= MAX_KEY
    if not fits or any("\ud800" <= character <= "\udfff" for character in key):
        expected = f"expected a text of 1 to {MAX_KEY} characters without lone surrogates"
        raise PydanticCustomError("idempotency_key", expected, {"max_length": MAX_KEY})
    return key


def _no_nul(text: str) -> str:
    # PostgreSQL's text cannot hold it. Pydantic itself refuses lone surrogates.
    if "\0" in text:
        raise ValueError("must not contain the NUL character")
    return text


def _level_or_earned(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    # One error instead of pydantic's two, one for each member of the union.
    try:
        return validate(value)
    except ValidationError:
        raise ValueError("expected 'earned' or a level (an integer of less than 2^31 in size)") from None


class _OwnMessage:
    """One message for whatever is wrong with a user id: applications pass other types here than elsewhere."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        expected = "expected an integer from 1 to 2^63 - 1 (int(...) makes one of a text, a Decimal or a NumPy integer)"
        limit = {"le": MAX_USER_ID}
        return core_schema.custom_error_schema(
            handler(source), "user_id", custom_error_message=expected, custom_error_context=limit
        )


Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY), BeforeValidator(_checked_key)]
UserId = Annotated[int, Field(ge=1, le=MAX_USER_ID), _OwnMessage()]
Specialization = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$"), AfterValidator(str.upper)]
Number = Annotated[int, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Gain = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
LevelOrEarned = Annotated[Number | Literal["earned"], WrapValidator(_level_or_earned)]
Reason = Annotated[str, Field(max_length=500), AfterValidator(_no_nul)]


class _Command(BaseModel):
    """What all commands share. Strict: "5", 5.0 and true are not 5; unknown fields are refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)

    kind: ClassVar[str]

    user_id: UserId
    specialization: Specialization
    # Only an input: it sets command_id, and is None afterwards, so a command equals its copies, dumped or received.
    # Type checkers see a default only if it is given by name.
    idempotency_key: Key | None = Field(default=None, exclude=True, repr=False)
    command_id: UUID = Field(default_factory=new_command_id)
    reason: Reason = ""
    advanced_by: UserId | None = None

    @field_validator("command_id")
    @classmethod
    def _id_or_key(cls, command_id: UUID, info: ValidationInfo) -> UUID:
        # Not called for the default.
        if info.data.get("idempotency_key") is not None:
            raise ValueError("expected either command_id or idempotency_key")
        return command_id

    @model_validator(mode="after")
    def _id_of_the_key(self) -> Self:
        if self.idempotency_key is not None:
            self.__dict__.update(command_id=command_id_for(self.idempotency_key), idempotency_key=None)
            self.model_fields_set.add("command_id")
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values, which are validated: unlike pydantic's, a copy is as valid as its original."""
        if not update:
            return super().model_copy(deep=deep)
        values = dict(self) | dict(update)
        if update.get("idempotency_key") is not None and "command_id" not in update:
            del values["command_id"]
        return type(self)(**values)


class LevelUp(_Command):
    """Add to a learner's totals and raise both levels as far as the totals earn; never lowers a level."""

    kind: ClassVar[str] = "level_up"

    xp_gained: Gain = 0
    sessions_completed: Gain = 0
    projects_completed: Gain = 0
    theory_hours: Gain = 0
    practice_hours: Gain = 0


class SetLevel(_Command):
    """Set both levels, up or down, and add the changes to the totals. The level must be in the catalog.

    A demotion does not last: the totals stay, and the next LevelUp rises to what they earn. See Adjust and Reset.
    """

    kind: ClassVar[str] = "set_level"

    new_level: Number
    xp_change: Number = 0
    sessions_change: Number = 0
    projects_change: Number = 0
    theory_hours_change: Number = 0
    practice_hours_change: Number = 0


class SyncLevels(_Command):
    """Copy the level of one table to the other, creating the other row if it is missing."""

    kind: ClassVar[str] = "sync_levels"

    source: Literal["progress", "license"] = "progress"


class Adjust(_Command):
    """Add signed changes to the totals: a penalty, a refund, a correction.

    `level`: "keep" leaves the levels as they are; "earned" sets both to what the new totals earn, up or down.
    """

    kind: ClassVar[str] = "adjust"

    xp_change: Number = 0
    sessions_change: Number = 0
    projects_change: Number = 0
    theory_hours_change: Number = 0
    practice_hours_change: Number = 0
    level: Literal["keep", "earned"] = "keep"


class Reset(_Command):
    """Set all totals to the values given, and both levels to what these earn, or to a level of the catalog."""

    kind: ClassVar[str] = "reset"

    total_xp: Gain = 0
    completed_sessions: Gain = 0
    completed_projects: Gain = 0
    theory_hours: Gain = 0
    practice_hours: Gain = 0
    level: LevelOrEarned = "earned"


Command = LevelUp | SetLevel | SyncLevels | Adjust | Reset
COMMAND_NAMES = "LevelUp, SetLevel, SyncLevels, Adjust or Reset"
_C = TypeVar("_C", LevelUp, SetLevel, SyncLevels, Adjust, Reset)


def build(model: type[_C], **fields: Any) -> _C:
    """Make a command, or raise InvalidCommand naming each wrong field, its value and what was expected."""
    try:
        return model(**fields)
    except ValidationError as error:
        raise InvalidCommand.from_details(error.errors(include_url=False)) from error


def fields_of(model: type[Command], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a command among a method's arguments. An id or a key that is None was not given."""
    optional = ("command_id", "idempotency_key")
    given = model.model_fields.keys() & arguments
    return {name: arguments[name] for name in given if arguments[name] is not None or name not in optional}

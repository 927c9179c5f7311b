"""The commands that an application sends, validated strictly.

The bounds come from the tables (user ids are bigint, totals at least integer), the pattern of a
specialization from its use as part of a Redis key and of an RQ queue name.
"""

from __future__ import annotations

import os
import time
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from levelq_core.errors import InvalidCommand

MAX_USER_ID = 2**63 - 1
MAX_NUMBER = 2**31 - 1


def new_command_id() -> UUID:
    """A UUIDv7 (RFC 9562, 5.7): 48 bits of Unix milliseconds, 12 bits of the fraction, 62 random bits.

    Ids that ascend in time keep the ledger's unique index append-only.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") & (2**62 - 1)
    return UUID(int=(milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random)


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


UserId = Annotated[int, Field(ge=1, le=MAX_USER_ID)]
Specialization = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}\z"), AfterValidator(str.upper)]
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
    command_id: UUID = Field(default_factory=new_command_id)
    reason: Reason = ""
    advanced_by: UserId | None = None


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

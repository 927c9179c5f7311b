"""Arguments and options that several commands share, and how their values are read."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from typer import Argument, BadParameter, Option

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MAX_AGE = timedelta(days=36_500)


def check_user(user: int | None) -> int | None:
    """Refuse what is no user id."""
    from levelq_core.domain.commands import MAX_USER_ID

    if user is not None and not 1 <= user <= MAX_USER_ID:
        raise BadParameter(f"expected 1 to {MAX_USER_ID}, got {user}")
    return user


class Source(StrEnum):
    """The side whose level is copied to the other."""

    PROGRESS = "progress"
    LICENSE = "license"


class AnySource(StrEnum):
    """The same for many pairs; `higher` copies the higher level of each."""

    HIGHER = "higher"
    PROGRESS = "progress"
    LICENSE = "license"


User = Annotated[int, Argument(metavar="USER", help="The user's id.", callback=check_user)]
Specialization = Annotated[
    str, Argument(metavar="SPECIALIZATION", help="PLAYER, COACH, ...: `levelq catalog` lists them.")
]
Yes = Annotated[bool, Option("--yes", help="Do not ask for confirmation.")]
DryRun = Annotated[bool, Option("--dry-run", help="Only show what would be done.")]
AsJson = Annotated[bool, Option("--json", help="Print one JSON object.")]


def age_of(option: str, text: str) -> timedelta:
    """Read 30d, 12h, 90m, 600s or 2w. Raises ConfigurationError."""
    from levelq_core.errors import ConfigurationError

    match = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip().lower())
    age = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
    if age is None or age > _MAX_AGE:
        raise ConfigurationError(
            f"{option}: expected a number and a unit (s, m, h, d, w), like 30d or 12h, got {text!r}"
        )
    return age

"""Arguments and options that several commands share, and how their values are read."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from typer import Argument, BadParameter, Option


def check_user(user: int | None) -> int | None:
    """The id, or None where none is given. Raises BadParameter."""
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
Specializations = Annotated[list[str] | None, Argument(metavar="SPECIALIZATION", help="Default: the whole namespace.")]
OfCatalog = Annotated[list[str] | None, Argument(metavar="SPECIALIZATION", help="Default: all of the catalog.")]
Yes = Annotated[bool, Option("--yes", help="Do not ask for confirmation.")]
DryRun = Annotated[bool, Option("--dry-run", help="Only show what would be done.")]
AsJson = Annotated[bool, Option("--json", help="Print one JSON object.")]
JsonWithoutQuestion = Annotated[
    bool, Option("--json", help="Print one JSON object; needs --yes or --dry-run, because it never asks.")
]
OfUser = Annotated[int | None, Option("--user", metavar="ID", help="Only of this user.", callback=check_user)]
OfSpecialization = Annotated[
    str | None, Option("--specialization", "-s", metavar="NAME", help="Only of this specialization.")
]
OfReason = Annotated[str | None, Option("--reason", metavar="TEXT", help="Only with this in the message; any case.")]
Since = Annotated[str | None, Option("--since", metavar="TIME", help="Only since then: 1d, 12h or 2026-01-31T06:00Z.")]
Until = Annotated[str | None, Option("--until", metavar="TIME", help="Only before then: 1h or 2026-01-31T06:00Z.")]


def time_of(option: str, text: str | None) -> datetime | None:
    """Read an age (1d, 12h), or ISO 8601; see levelq_core.operations.written_times. Raises ConfigurationError."""
    from levelq_core.operations.written_times import time_of as read

    return None if text is None else read(option, text)


def age_of(option: str, text: str) -> timedelta:
    """Read 30d, 12h, 90m, 600s or 2w. Raises ConfigurationError."""
    from levelq_core.operations.written_times import age_of as read

    return read(option, text)

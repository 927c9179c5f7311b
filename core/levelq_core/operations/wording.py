"""Numbers, durations and times as levelq's messages show them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from levelq_core.untrusted_text import printable

MOST_NAMED = 5  # users in a message
_LAST_MS = 253_402_300_799_000  # of the year 9999


def one_line(text: str) -> str:
    """A message on one line."""
    return printable(" ".join(text.split()))


def duration(seconds: float) -> str:
    """A duration in the unit a person would choose: 0.4 s, 12 s, 3.2 min, 2.5 h, 4.0 d."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def count(number: int, thing: str) -> str:
    """`1 pair`, `1,200 pairs`, `2 entries`."""
    many = f"{thing[:-1]}ies" if thing.endswith("ry") else f"{thing}s"
    return f"{number:,} {thing if number == 1 else many}"


def users_named(users: Sequence[int | str]) -> str:
    """The first few by name: `user 13`, `users 1, 2, 3, 4, 5 and 7 more`."""
    named = ", ".join(map(str, users[:MOST_NAMED]))
    more = f" and {len(users) - MOST_NAMED:,} more" if len(users) > MOST_NAMED else ""
    return f"user{'s' if len(users) > 1 else ''} {named}{more}"


def time_of(ms: int) -> datetime:
    """A time of Redis in ms. One that no calendar has, as any program may have written, is the nearest that one has."""
    return datetime.fromtimestamp(min(max(ms, 0), _LAST_MS) / 1000, UTC)


def when_utc(moment: datetime) -> str:
    """A time for people: 2026-01-31 02:58:11 UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso_utc(moment: datetime) -> str:
    """A time for programs: 2026-01-31T02:58:11.123Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

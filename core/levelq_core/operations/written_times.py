"""Times and ages as people write them, in options of commands and in fields of pages."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from levelq_core.errors import ConfigurationError

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MAX_AGE = timedelta(days=36_500)


def time_of(name: str, text: str) -> datetime:
    """Read an age (1d, 12h), or ISO 8601, in UTC unless it names a zone. `name`: of the option or the field.

    Raises ConfigurationError, also for a time in the future.
    """
    now = datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text.strip())
        moment = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        try:
            moment = now - age_of(name, text)
        except ConfigurationError:
            expected = "expected an age like 1d or 12h, or a time like 2026-01-31T06:00Z"
            raise ConfigurationError(f"{name}: {expected}, got {text!r}", setting=name, value=text) from None
    if moment > now:
        raise ConfigurationError(f"{name}: expected a time in the past, got {text!r}", setting=name, value=text)
    return moment


def age_of(name: str, text: str) -> timedelta:
    """Read 30d, 12h, 90m, 600s or 2w. Raises ConfigurationError."""
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip().lower())
    age = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
    if age is None or age > _MAX_AGE:
        message = f"{name}: expected a number and a unit (s, m, h, d, w), like 30d or 12h, got {text!r}"
        raise ConfigurationError(message, setting=name, value=text)
    return age

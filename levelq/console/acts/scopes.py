"""What an act's URL names: a specialization of the catalog, perhaps one user of it."""

from __future__ import annotations

from collections.abc import Mapping

from levelq.console.whole_numbers import whole_number
from levelq_core.domain.commands import MAX_USER_ID
from levelq_core.errors import ConfigurationError, InvalidArgument
from levelq_core.settings import Settings
from levelq_core.untrusted_text import quoted


def specialization_of(settings: Settings, values: Mapping[str, str]) -> str | None:
    """The specialization, None if the URL names none. Raises ConfigurationError for one that the catalog lacks."""
    given = values.get("specialization", "")
    if not given:
        return None
    name = given.upper()
    if name not in settings.tracks:
        expected = f"expected one of {', '.join(settings.tracks)}, got {quoted(given)}"
        raise ConfigurationError(f"specialization: {expected}", setting="specialization", value=given)
    return name


def require_specialization(settings: Settings, values: Mapping[str, str]) -> str:
    """The same, for an act on one. Raises InvalidArgument if the URL names none."""
    name = specialization_of(settings, values)
    if name is None:
        message = f"specialization: expected one of {', '.join(settings.tracks)}, got none"
        raise InvalidArgument(message, field="specialization", value=None)
    return name


def user_of(values: Mapping[str, str]) -> int | None:
    """The user's id, None if the URL names none. Raises InvalidArgument."""
    given = values.get("user", "")
    if not given:
        return None
    number = whole_number(given, MAX_USER_ID)
    if number is None:
        raise InvalidArgument(f"user: expected 1 to {MAX_USER_ID}, got {quoted(given)}", field="user", value=given)
    return number

"""What an act's URL names: a specialization of the catalog, a user, or both."""

from __future__ import annotations

from levelq.console.whole_numbers import whole_number
from levelq_core.domain.commands import MAX_USER_ID
from levelq_core.errors import ConfigurationError, InvalidArgument
from levelq_core.untrusted_text import quoted

from .act import Asked


def specialization_of(asked: Asked) -> str | None:
    """The specialization, None if the URL names none. Raises ConfigurationError for one that the catalog lacks."""
    given, tracks = asked.values.get("specialization", ""), asked.console.settings.tracks
    if not given:
        return None
    name = given.upper()
    if name not in tracks:
        expected = f"expected one of {', '.join(tracks)}, got {quoted(given)}"
        raise ConfigurationError(f"specialization: {expected}", setting="specialization", value=given)
    return name


def require_specialization(asked: Asked) -> str:
    """The same, for an act on one. Raises InvalidArgument if the URL names none."""
    name = specialization_of(asked)
    if name is None:
        message = f"specialization: expected one of {', '.join(asked.console.settings.tracks)}, got none"
        raise InvalidArgument(message, field="specialization", value=None)
    return name


def user_of(asked: Asked) -> int | None:
    """The user's id, None if the URL names none. Raises InvalidArgument."""
    given = asked.values.get("user", "")
    if not given:
        return None
    number = whole_number(given, MAX_USER_ID)
    if number is None:
        raise InvalidArgument(f"user: expected 1 to {MAX_USER_ID}, got {quoted(given)}", field="user", value=given)
    return number


def require_user(asked: Asked) -> int:
    """The same, for an act on one. Raises InvalidArgument if the URL names none."""
    user_id = user_of(asked)
    if user_id is None:
        raise InvalidArgument(f"user: expected 1 to {MAX_USER_ID}, got none", field="user", value=None)
    return user_id


def lane_of(asked: Asked) -> tuple[int, str]:
    """The user and the specialization. Raises InvalidArgument, ConfigurationError."""
    return require_user(asked), require_specialization(asked)

"""What acts on one user name: the user, and mostly one of the user's specializations."""

from __future__ import annotations

from levelq_core.domain.commands import MAX_USER_ID
from levelq_core.errors import InvalidArgument

from .act import Asked
from .scopes import require_specialization, user_of


def require_user(asked: Asked) -> int:
    """The user's id. Raises InvalidArgument, also if the URL names none."""
    user_id = user_of(asked.values)
    if user_id is None:
        raise InvalidArgument(f"user: expected 1 to {MAX_USER_ID}, got none", field="user", value=None)
    return user_id


def lane_of(asked: Asked) -> tuple[int, str]:
    """The user and the specialization. Raises InvalidArgument, ConfigurationError."""
    return require_user(asked), require_specialization(asked.console.settings, asked.values)

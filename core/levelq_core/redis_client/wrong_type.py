"""Keys that hold another Redis type than levelq expects: any program with access to Redis can leave one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.exceptions import ResponseError


def is_wrong_type(error: BaseException) -> bool:
    """Whether Redis refused a command, or a command inside a script, because its key holds another type."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def unless_wrong_type(otherwise: Any, command: Callable[..., Any], *arguments: Any) -> Any:
    """The reply to a command; `otherwise` if its key holds another type."""
    try:
        return command(*arguments)
    except ResponseError as error:
        if not is_wrong_type(error):
            raise
        return otherwise

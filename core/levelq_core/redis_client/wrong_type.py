"""Keys that hold another Redis type than levelq expects: any program with access to Redis can leave one."""

from __future__ import annotations

from redis.exceptions import ResponseError


def is_wrong_type(error: BaseException) -> bool:
    """Whether Redis refused a command, or a command inside a script, because its key holds another type."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)

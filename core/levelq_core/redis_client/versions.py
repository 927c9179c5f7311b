"""What differs between the versions of redis-py that levelq works with: 5.0.1 and later."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, Literal

from redis.connection import ConnectionPool, DefaultParser


def _needs_name(get_connection: Callable[..., Any]) -> bool:
    name = signature(get_connection).parameters.get("command_name")
    return name is not None and name.default is Parameter.empty


# The arguments of a pool's get_connection: before 5.3 it takes the name of a command, which it does not use.
OF_POOL = ("",) if _needs_name(ConnectionPool.get_connection) else ()


def parser_of(module: Literal["redis.cluster", "redis.asyncio.cluster"]) -> dict[str, Any]:
    """Before 6, redis-py reads MOVED and CLUSTERDOWN as such with the parser of its cluster client only."""
    if "MOVED" in DefaultParser.EXCEPTION_CLASSES:
        return {}
    return {"parser_class": import_module(module).ClusterParser}


def must_reconnect(connection: Any) -> bool:
    """Whether the server has announced that this connection will end; redis-py before 7 does not know."""
    return hasattr(connection, "should_reconnect") and bool(connection.should_reconnect())

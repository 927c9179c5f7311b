"""Differences between the versions of redis-py that levelq supports: 5.0.1 and later."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, Literal

from redis.connection import ConnectionPool, DefaultParser


def _needs_name(get_connection: Callable[..., Any]) -> bool:
    name = signature(get_connection).parameters.get("command_name")
    return name is not None and name.default is Parameter.empty


# The arguments of get_connection of a pool: before 5.3 it requires the name of a command, which it does not use.
OF_POOL = ("",) if _needs_name(ConnectionPool.get_connection) else ()


def parser_of(module: Literal["redis.cluster", "redis.asyncio.cluster"]) -> dict[str, Any]:
    """The parser that knows MOVED and CLUSTERDOWN: before 6, redis-py uses it in its cluster client only."""
    if "MOVED" in DefaultParser.EXCEPTION_CLASSES:
        return {}
    return {"parser_class": import_module(module).ClusterParser}


def must_reconnect(connection: Any) -> bool:
    """Whether the server has announced that this connection will end; redis-py does not know before 7."""
    return hasattr(connection, "should_reconnect") and bool(connection.should_reconnect())

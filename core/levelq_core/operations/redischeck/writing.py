"""Whether this user of Redis may do what levelq's scripts do, tried on a key that is deleted at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from redis import Redis
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from levelq_core.lanes.script_files import load
from levelq_core.operations.dbcheck import Finding

_WHERE = re.compile(r" script: [0-9a-f]{40}, on .*$")
_ALLOW = "-- allow EVALSHA, EVAL, SCRIPT LOAD, the commands of levelq's scripts and its keys to this user (ACL SETUSER)"


def check_writing(redis: Redis, key: str) -> Iterator[Finding]:
    """Yield why writes are refused. Raises RedisError if the server does not answer."""
    try:
        try:
            redis.evalsha(redis.script_load(_script()), 1, key)
        except NoScriptError:  # flushed in between
            redis.eval(_script(), 1, key)
    except OutOfMemoryError as error:  # draining still works then
        fix = ("-- start more workers, or raise maxmemory",)
        yield Finding("warning", f"pushes are refused: {_words(error)}", fix, "pushes")
    except ResponseError as error:
        cause = _words(error)
        denied = "permission" in cause.lower()
        yield Finding("error", f"writes are refused: {cause}", (_ALLOW,) if denied else (), "pushes")


def check_scripts(redis: Redis) -> Iterator[Finding]:
    """Yield whether every script can be loaded. Raises RedisError if the server does not answer."""
    names = [path.name[:-4] for path in (files("levelq_core.lanes") / "lua").iterdir() if path.name.endswith(".lua")]
    scripts = sorted(set(names) - {"prelude"})
    try:
        for name in scripts:
            redis.script_load(load(name).text)
    except ResponseError as error:
        yield Finding("error", f"{name}.lua is refused: {_words(error)}", (_ALLOW,), "scripts")
    else:
        yield Finding("ok", f"all {len(scripts)} load", topic="scripts")


@cache
def _script() -> str:
    return (files(__package__) / "write.lua").read_text(encoding="utf-8")


def _words(error: ResponseError) -> str:
    """The message without the hash and the line of the script."""
    return _WHERE.sub("", str(error)).rstrip(".")

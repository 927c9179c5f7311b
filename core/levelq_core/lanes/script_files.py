"""The Lua scripts as files, and the calls of them. No network I/O here."""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple


class Script(NamedTuple):
    """The source of a script and the SHA that the server knows it by."""

    text: str
    sha: str


@cache
def load(name: str) -> Script:
    """Read lua/<name>.lua, with the shared prelude behind its #! line."""
    folder = files(__package__) / "lua"
    first, _, rest = (folder / f"{name}.lua").read_text(encoding="utf-8").partition("\n")
    text = first + "\n" + (folder / "prelude.lua").read_text(encoding="utf-8") + rest
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


class Call(NamedTuple):
    """One script call on one partition."""

    name: str
    key: str
    args: list[Any]

    def command(self, *, known: bool = True) -> tuple[Any, ...]:
        """As a Redis command. `known`: the server has the script; after a restart it has none."""
        script = load(self.name)
        name, source = ("EVALSHA", script.sha) if known else ("EVAL", script.text)
        return (name, source, 1, self.key, *self.args)

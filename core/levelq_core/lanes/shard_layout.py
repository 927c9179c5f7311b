"""Layouts: how many shards each specialization has, and how far a change of their number has come.

The hash `<namespace>:shards` holds one layout for each specialization, in one of three forms:

    1:4      generation 1 has 4 shards
    1:4>8    generation 1 is being closed for a change to 8 shards: its partitions answer MOVED, one after another
    2:8<4    generation 2 has 8 shards and takes commands; they are not claimed before the 4 of generation 1 are empty

No command of a lane enters the new generation before the old one is closed, and none is claimed from the new one
before the old one is empty. So the lane's order is kept, whichever process makes each step.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Self

from redis.exceptions import ResponseError

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.redis_client.wrong_type import is_wrong_type
from levelq_core.settings import Settings
from levelq_core.untrusted_text import quoted

_FORM = re.compile(r"(\d{1,9}):(\d{1,4})(?:>(\d{1,4})|<(\d{1,4}))?")
_MOST_BYTES = 60  # of a layout


class Layout(NamedTuple):
    """The layout of one specialization. `next_shards` and `previous_shards` are 0 unless a change is under way."""

    generation: int = 1
    shards: int = 1
    next_shards: int = 0
    previous_shards: int = 0

    def __str__(self) -> str:
        change = (
            f">{self.next_shards}" if self.next_shards else f"<{self.previous_shards}" if self.previous_shards else ""
        )
        return f"{self.generation}:{self.shards}{change}"

    @classmethod
    def parse(cls, text: str, key: str) -> Self:
        """Read what `str` gives; `key` is where it was found. Raises ConfigurationError."""
        match = _FORM.fullmatch(text)
        if match is None or not int(match[2]):
            raise ConfigurationError(f"{key}: expected generation:shards, got {text!r}")
        generation, shards, next_shards, previous_shards = (int(number or 0) for number in match.groups())
        return cls(generation, shards, next_shards, previous_shards)

    @classmethod
    def read(cls, text: bytes) -> Self | None:
        """As `parse`, but None for text that is no layout, which any program may have written."""
        try:
            return cls.parse(text.decode("ascii", "replace"), "") if len(text) <= _MOST_BYTES else None
        except ConfigurationError:
            return None

    @property
    def steady(self) -> bool:
        """Whether no change is under way."""
        return not self.next_shards and not self.previous_shards

    def is_blocked(self, partition: Partition) -> bool:
        """Whether claims from this partition are blocked: the previous generation may still hold commands.

        Generations newer than the known layout, which Redis may have lost, stay blocked until a relay restores it.
        """
        return partition.generation > self.generation - (self.previous_shards > 0)

    def accepts(self, partition: Partition) -> bool:
        """Whether this partition takes commands, which may be claimed."""
        return partition.generation == self.generation and not self.previous_shards

    def begin_change(self, shards: int) -> Self:
        """The first step of a change."""
        return self._replace(next_shards=shards)

    @property
    def next_step(self) -> Self:
        """The next step of a change that is under way."""
        if self.next_shards:
            return type(self)(self.generation + 1, self.next_shards, previous_shards=self.shards)
        return self._replace(previous_shards=0)

    def partition(self, specialization: str, user_id: int) -> Partition:
        """The partition that a user's commands go to."""
        return Partition.of(specialization, user_id, self.shards, self.generation)

    def partitions(self, specialization: str) -> list[Partition]:
        """All partitions of the generation."""
        return [Partition(specialization, self.generation, shard) for shard in range(self.shards)]

    def previous_partitions(self, specialization: str) -> list[Partition]:
        """All partitions of the previous generation, while they may hold commands."""
        return [Partition(specialization, self.generation - 1, shard) for shard in range(self.previous_shards)]

    def holding(self, specialization: str, user_id: int) -> list[Partition]:
        """The partitions that may hold commands of a user, the older first."""
        found = [self.partition(specialization, user_id)]
        if self.previous_shards:
            found.insert(0, Partition.of(specialization, user_id, self.previous_shards, self.generation - 1))
        return found


UNSHARDED = Layout()


class LayoutQuery:
    """Layouts as read from Redis, without the I/O: which to read, and which are missing or unreadable."""

    def __init__(self, specializations: Collection[str], settings: Settings) -> None:
        self.names = sorted(specializations)
        self.key = settings.keys.shards
        self.first = Layout(1, settings.shards)
        self.missing: list[str] = []
        self.unreadable: dict[str, str] = {}  # by name, what is wrong with its layout
        self._found: dict[str, Layout] = {}

    def read(self, reply: Sequence[Any]) -> None:
        """Take the reply of HMGET for the names."""
        self._found, self.missing, self.unreadable = {}, [], {}
        for name, text in zip(self.names, reply, strict=True):
            layout = None if text is None else Layout.read(text)
            if text is None:
                self.missing.append(name)
            elif layout is None:
                self.unreadable[name] = f"expected generation:shards, got {quoted(text)} for {name}"
            else:
                self._found[name] = layout

    def refuse(self, error: ResponseError) -> None:
        """Take an error instead of the reply: a key of another type has no readable layout. Raises other errors."""
        if not is_wrong_type(error):
            raise error
        self._found, self.missing = {}, []
        self.unreadable = dict.fromkeys(self.names, "expected a hash, found another type")

    @property
    def found(self) -> dict[str, Layout]:
        """The layout of each that can be read."""
        return {name: self._found.get(name, self.first) for name in self.names if name not in self.unreadable}

    @property
    def errors(self) -> dict[str, ConfigurationError]:
        """Why each of the others cannot be read."""
        remedy = "`levelq rebuild` removes it"
        return {name: ConfigurationError(f"{self.key}: {what}; {remedy}") for name, what in self.unreadable.items()}

    def require(self) -> dict[str, Layout]:
        """The layout of each. Raises ConfigurationError if one cannot be read."""
        for error in self.errors.values():
            raise error
        return self.found

"""Layouts: how many shards each specialization has now, and what is left of a change of their number.

The hash `<namespace>:shards` holds one for each specialization, in one of three forms:

    1:4      generation 1 has 4 shards
    1:4>8    it is being closed, because 8 are wanted: its partitions answer MOVED, one after the other
    2:8<4    generation 2 has 8 and takes commands; nothing of it is claimed before the 4 of generation 1 are empty

So of one lane nothing enters the new generation before the old one has closed, and nothing leaves the new one before
the old one is empty: whatever is done in between, and by whom, the lane's order is kept.
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
    """One specialization's. `becoming`: the shards of the next generation; `before`: of the one before; 0: none."""

    generation: int = 1
    shards: int = 1
    becoming: int = 0
    before: int = 0

    def __str__(self) -> str:
        change = f">{self.becoming}" if self.becoming else f"<{self.before}" if self.before else ""
        return f"{self.generation}:{self.shards}{change}"

    @classmethod
    def parse(cls, text: str, key: str) -> Self:
        """Read what `str` gives; `key` is where it was found. Raises ConfigurationError."""
        match = _FORM.fullmatch(text)
        if match is None or not int(match[2]):
            raise ConfigurationError(f"{key}: expected generation:shards, got {text!r}")
        generation, shards, becoming, before = (int(number or 0) for number in match.groups())
        return cls(generation, shards, becoming, before)

    @classmethod
    def read(cls, text: bytes) -> Self | None:
        """As `parse`, but None for text that is no layout: any program may have written it."""
        try:
            return cls.parse(text.decode("ascii", "replace"), "") if len(text) <= _MOST_BYTES else None
        except ConfigurationError:
            return None

    @property
    def steady(self) -> bool:
        """Whether no change is under way."""
        return not self.becoming and not self.before

    def waits(self, partition: Partition) -> bool:
        """Whether nothing of this partition may be claimed yet: the generation before may hold something.

        Or the layout was lost with Redis's data, and no relay has put it back: what is of later generations than it
        tells of cannot be told from what is not.
        """
        return partition.generation > self.generation - (self.before > 0)

    def open(self, partition: Partition) -> bool:
        """Whether commands go to this partition, and may be claimed."""
        return partition.generation == self.generation and not self.before

    def to(self, shards: int) -> Self:
        """The first step of a change."""
        return self._replace(becoming=shards)

    @property
    def after(self) -> Self:
        """The next step of a change that is under way."""
        if self.becoming:
            return type(self)(self.generation + 1, self.becoming, before=self.shards)
        return self._replace(before=0)

    def partition(self, specialization: str, user_id: int) -> Partition:
        """Where a user's commands go."""
        return Partition.of(specialization, user_id, self.shards, self.generation)

    def partitions(self, specialization: str) -> list[Partition]:
        """All of the generation."""
        return [Partition(specialization, self.generation, shard) for shard in range(self.shards)]

    def old(self, specialization: str) -> list[Partition]:
        """All of the generation before, while it may hold something."""
        return [Partition(specialization, self.generation - 1, shard) for shard in range(self.before)]

    def holding(self, specialization: str, user_id: int) -> list[Partition]:
        """Where commands of a user may be: the partition they go to, and that of the generation before."""
        before = [Partition.of(specialization, user_id, self.before, self.generation - 1)] if self.before else []
        return [*before, self.partition(specialization, user_id)]


UNSHARDED = Layout()


class LayoutQuery:
    """Reads layouts, shared with asyncio: which to ask for, and what to write down where nobody has yet."""

    def __init__(self, specializations: Collection[str], settings: Settings) -> None:
        self.names = sorted(specializations)
        self.key = settings.keys.shards
        self.first = Layout(1, settings.shards)
        self.missing: list[str] = []
        self.unreadable: dict[str, str] = {}  # by name, what is wrong with its layout
        self._found: dict[str, Layout] = {}

    def read(self, reply: Sequence[Any]) -> None:
        """Take what HMGET gives for the names."""
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
        """Take an error instead of an answer: a key of another type has no readable layout. Raises other errors."""
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
        """Why the others cannot be read."""
        remedy = "`levelq rebuild` removes it"
        return {name: ConfigurationError(f"{self.key}: {what}; {remedy}") for name, what in self.unreadable.items()}

    def require(self) -> dict[str, Layout]:
        """The layout of each. Raises ConfigurationError if one cannot be read."""
        for error in self.errors.values():
            raise error
        return self.found

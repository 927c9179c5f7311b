"""Layouts: how many shards each specialization has, and how far a change of that number is.

The hash `<namespace>:shards` holds one layout for each specialization, in one of three forms:

    1:4      generation 1 has 4 shards
    1:4>8    a change to 8 has begun: the partitions of generation 1 are closed, one after the other (pushes get MOVED)
    2:8<4    generation 2 has 8 shards and takes commands; its claims are blocked until the 4 of generation 1 are empty

A lane enters generation 2 only after generation 1 is closed, and leaves it only after generation 1 is empty. So its
order is kept, whatever happens between two steps.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from redis.exceptions import ResponseError

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.redis_client.wrong_type import is_wrong_type
from levelq_core.untrusted_text import quoted

if TYPE_CHECKING:
    from levelq_core.settings import Settings

_FORM = re.compile(rb"(\d{1,9}):(\d{1,4})(?:>(\d{1,4})|<(\d{1,4}))?")


class Layout(NamedTuple):
    """The shards of one specialization. `next_shards` and `previous_shards` are 0 unless a change is under way."""

    generation: int = 1
    shards: int = 1
    next_shards: int = 0
    previous_shards: int = 0

    def __str__(self) -> str:
        change = f">{self.next_shards}" if self.next_shards else ""
        change = f"<{self.previous_shards}" if self.previous_shards else change
        return f"{self.generation}:{self.shards}{change}"

    @classmethod
    def read(cls, text: bytes) -> Self | None:
        """Read what `str` gives; None for text that is no layout, because any program may have written it."""
        match = _FORM.fullmatch(text)
        numbers = [int(number or 0) for number in match.groups()] if match else []
        return cls(*numbers) if numbers and numbers[1] else None

    @property
    def steady(self) -> bool:
        """Whether no change is under way."""
        return not self.next_shards and not self.previous_shards

    def is_blocked(self, partition: Partition) -> bool:
        """Whether nothing of this partition may be claimed yet.

        Either the previous generation is not empty yet, or Redis lost the layout: generations newer than the known
        layout stay blocked until a relay restores it.
        """
        return partition.generation > self.generation - (self.previous_shards > 0)

    def accepts(self, partition: Partition) -> bool:
        """Whether commands go to this partition, and may be claimed."""
        return partition.generation == self.generation and not self.previous_shards

    def begin_change(self, shards: int) -> Self:
        """The layout after the first step of a change to `shards`."""
        return self._replace(next_shards=shards)

    @property
    def next_step(self) -> Self:
        """The layout after the next step of the change that is under way."""
        if self.next_shards:
            return type(self)(self.generation + 1, self.next_shards, previous_shards=self.shards)
        return self._replace(previous_shards=0)

    def partition(self, specialization: str, user_id: int) -> Partition:
        """Where the commands of a user go."""
        return Partition.of(specialization, user_id, self.shards, self.generation)

    def partitions(self, specialization: str) -> list[Partition]:
        """The partitions of this generation."""
        return [Partition(specialization, self.generation, shard) for shard in range(self.shards)]

    def previous_partitions(self, specialization: str) -> list[Partition]:
        """The partitions of the previous generation, while they may hold something."""
        return [Partition(specialization, self.generation - 1, shard) for shard in range(self.previous_shards)]

    def all_partitions(self, specialization: str) -> list[Partition]:
        """The partitions that may hold something, the previous generation first."""
        return self.previous_partitions(specialization) + self.partitions(specialization)

    def holding(self, specialization: str, user_id: int) -> list[Partition]:
        """Where commands of a user may be, the previous generation first."""
        now = self.partition(specialization, user_id)
        if not self.previous_shards:
            return [now]
        return [Partition.of(specialization, user_id, self.previous_shards, self.generation - 1), now]


class LayoutQuery:
    """What to read from the hash of layouts, and what the reply means. Threads and asyncio share it.

    `found`: the layouts that can be read, by name. `missing`: names without a layout yet, for which `first` counts.
    `unreadable`: what is wrong with each of the others.
    """

    def __init__(self, specializations: Collection[str], settings: Settings) -> None:
        self.names = sorted(specializations)
        self.key = settings.keys.shards
        self.first = Layout(1, settings.shards)
        self.found: dict[str, Layout] = {}
        self.missing: list[str] = []
        self.unreadable: dict[str, str] = {}

    def read(self, reply: Sequence[Any]) -> None:
        """Take the answer to HMGET for the names."""
        self.found, self.missing, self.unreadable = {}, [], {}
        for name, text in zip(self.names, reply, strict=True):
            layout = self.first if text is None else Layout.read(text)
            if text is None:
                self.missing.append(name)
            if layout is None:
                self.unreadable[name] = f"expected generation:shards, got {quoted(text)} for {name}"
            else:
                self.found[name] = layout

    def refuse(self, error: ResponseError) -> None:
        """Take an error as the answer: a key of another type holds no readable layout. Raises any other error."""
        if not is_wrong_type(error):
            raise error
        self.found, self.missing = {}, []
        self.unreadable = dict.fromkeys(self.names, "expected a hash, found another type")

    @property
    def errors(self) -> dict[str, ConfigurationError]:
        """`unreadable` as errors."""
        remedy = "`levelq rebuild` removes it"
        return {
            name: ConfigurationError(f"{self.key}: {what}; {remedy}", setting=self.key)
            for name, what in self.unreadable.items()
        }

    def require(self) -> dict[str, Layout]:
        """The layouts by name. Raises ConfigurationError if one cannot be read."""
        for error in self.errors.values():
            raise error
        return self.found

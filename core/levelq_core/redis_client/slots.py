"""Which server of a cluster holds which keys: the table that CLUSTER SLOTS gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.crc import key_slot

from .urls import Address


class Slots:
    """The primaries by their ranges of slots. Not changed once made, so that any thread may read it."""

    def __init__(self, ranges: Iterable[tuple[int, int, Address]], moved: dict[int, Address] | None = None) -> None:
        self._ranges = sorted(ranges)
        self._moved = moved or {}

    @classmethod
    def read(cls, reply: Any, asked: Address) -> Slots:
        """Read a reply of CLUSTER SLOTS; a server that does not know its own name is the one that was asked."""
        return cls((first, last, _address(primary, asked)) for first, last, primary, *_ in reply)

    def holder(self, key: str | bytes) -> Address | None:
        """The server of a key; None if its slot has none."""
        slot = slot_of(key)
        if slot in self._moved:
            return self._moved[slot]
        return next((address for first, last, address in self._ranges if first <= slot <= last), None)

    def after(self, moved: dict[int, Address]) -> Slots:
        """The same with some slots elsewhere: what the server says that was asked, before the others know it."""
        return Slots(self._ranges, self._moved | moved)

    @property
    def addresses(self) -> list[Address]:
        """The primaries, each once."""
        return sorted({*(address for _, _, address in self._ranges), *self._moved.values()})


def slot_of(key: str | bytes) -> int:
    """The slot of a key: CRC-16 of what is in braces, or of the whole (the cluster specification)."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def _address(primary: Any, asked: Address) -> Address:
    host, port = primary[0], int(primary[1])
    return Address(host.decode() if host else asked.host, port)

"""How far a lane is, for a caller that waits until what it holds now is decided: the reply of tail.lua."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from levelq_core.untrusted_text import printable

from .parked import MOST_BYTES


class LaneTail(NamedTuple):
    """One entry of a lane, how many wait up to it, and why; `server` and `restored` change where Redis loses data."""

    entry: bytes
    waiting: int
    server: bytes
    restored: bytes
    parked: str
    claimed: bool
    drains: int

    @classmethod
    def read(cls, reply: list[Any]) -> Self:
        """Read the script's reply."""
        entry, waiting, server, restored, parked, claimed, drains = reply
        return cls(entry, waiting, server, restored, printable(parked, MOST_BYTES), bool(claimed), drains)

    def lost_since(self, earlier: LaneTail) -> bool:
        """Whether Redis may have lost entries since: another server answers, or its data was restored."""
        return self.server != earlier.server or earlier.restored not in (b"", self.restored)

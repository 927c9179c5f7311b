"""levelq's producers. `pip install levelq` is enough to send; outcomes from the ledger need levelq[worker].

Each name loads when it is first used: a producer for threads needs nothing of asyncio's, and the reverse.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from levelq_core.errors import (
    InvalidArgument,
    InvalidCommand,
    LaneFull,
    LevelqError,
    NotDurable,
    OutcomeTimeout,
    OutcomeUnknown,
    PartitionFull,
    ProducerClosed,
    QueueUnavailable,
    SendUnknown,
)

if TYPE_CHECKING:
    from .async_handles import AsyncHandle
    from .async_producer import AsyncProducer
    from .handles import Handle
    from .outbox import Outbox
    from .producer import Producer

_LAZY = {
    "AsyncHandle": "async_handles", "AsyncProducer": "async_producer", "Handle": "handles", "Outbox": "outbox",
    "Producer": "producer",
}  # fmt: skip


if not TYPE_CHECKING:  # a type checker would take every misspelt name for Any

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
        return value


__all__ = [
    "AsyncHandle", "AsyncProducer", "Handle", "InvalidArgument", "InvalidCommand", "LaneFull", "LevelqError",
    "NotDurable", "Outbox", "OutcomeTimeout", "OutcomeUnknown", "PartitionFull", "Producer", "ProducerClosed",
    "QueueUnavailable", "SendUnknown",
]  # fmt: skip

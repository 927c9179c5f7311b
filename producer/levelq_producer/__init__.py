"""levelq's producers. `pip install levelq` is enough to send; answers from the ledger need levelq[worker]."""

from __future__ import annotations

from levelq_core.errors import (
    InvalidCommand,
    LaneFull,
    LevelqError,
    NotDurable,
    OutcomeTimeout,
    OutcomeUnknown,
    PartitionFull,
    QueueUnavailable,
    SendUnknown,
)

from .async_handles import AsyncHandle
from .async_producer import AsyncProducer
from .handles import Handle
from .outbox import Outbox
from .producer import Producer

__all__ = [
    "AsyncHandle",
    "AsyncProducer",
    "Handle",
    "InvalidCommand",
    "LaneFull",
    "LevelqError",
    "NotDurable",
    "Outbox",
    "OutcomeTimeout",
    "OutcomeUnknown",
    "PartitionFull",
    "Producer",
    "QueueUnavailable",
    "SendUnknown",
]

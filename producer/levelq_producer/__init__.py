"""levelq's producers. `pip install levelq` is enough to send; the ledger and the outbox need levelq[worker]."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

from .async_producer import AsyncProducer
from .handles import AsyncHandle, Handle
from .producer import Producer

if TYPE_CHECKING:
    from .outbox import Outbox


def __getattr__(name: str) -> Any:
    if name != "Outbox":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return import_module(f"{__name__}.outbox").Outbox
    except ModuleNotFoundError as error:
        if error.name in ("sqlalchemy", "psycopg"):
            raise ImportError(f"{name} needs the database libraries: pip install 'levelq[worker]'") from error
        raise


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

"""levelq's front door: every public name, loaded when it is first used.

from levelq import Producer, LevelUp, level_up_atomic

`pip install levelq` is enough to send; names that touch the database or RQ's worker need `levelq[worker]`; without
it their import fails with that hint.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; `__all__` below has the names
    from levelq_core import *
    from levelq_producer import *
    from levelq_worker import *

_PACKAGES = {
    "levelq_producer": ("AsyncHandle", "AsyncProducer", "Handle", "Outbox", "Producer"),
    "levelq_worker": ("LaneWorker", "drain"),
}
_PACKAGE_OF = {name: package for package, names in _PACKAGES.items() for name in names}  # all others: levelq_core


if not TYPE_CHECKING:  # a type checker would take every misspelt name for Any

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            value = globals()[name] = getattr(import_module(_PACKAGE_OF.get(name, "levelq_core")), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in ("sqlalchemy", "psycopg"):
                raise ImportError(f"{name} needs the database libraries: pip install 'levelq[worker]'") from error
            raise
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "ActivePause", "Adjust", "AsyncHandle", "AsyncProducer", "Catalog", "CatalogError", "CheckReport", "Command",
    "ConfigurationError", "Explanation", "Handle", "History", "HistoryEntry", "HotLane", "InvalidArgument",
    "InvalidCommand", "LaneExplanation", "LaneFull", "LaneWorker", "LevelEvent", "LevelEvents", "LevelUp",
    "LevelUpRefused", "LevelqError", "Moved", "NotDurable", "OutOfStep", "Outbox", "Outcome", "OutcomeTimeout",
    "OutcomeUnknown", "ParkedLane", "ParkedUserLane", "PartitionFull", "PartitionStatus", "Producer", "ProducerClosed",
    "ProgressLicenseCoupler", "QuarantinedEntry", "QueueFull", "QueueUnavailable", "Rates", "Reset", "SchemaError",
    "SendUnknown", "SetLevel", "Settings", "StatusReport", "SyncLevels", "SystemOverview", "Totals",
    "TransactionMisuse", "WaitingCommand", "WaitingLane", "WorkerStatus", "WorkersReport", "WrongDatabase",
    "apply_commands", "check", "command_id_for", "drain", "explain", "level_up_atomic", "overview", "status", "workers",
]  # fmt: skip

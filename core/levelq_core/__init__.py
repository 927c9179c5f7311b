"""levelq's core: commands, catalog, rules, lanes and the coupler. See README.md for the whole.

Every name loads at its first use: what only a producer needs imports without SQLAlchemy and psycopg.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .coupler.apply import apply_commands
    from .coupler.direct import ProgressLicenseCoupler, level_up_atomic
    from .domain.catalog import Catalog
    from .domain.commands import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels, command_id_for
    from .domain.outcome import Outcome, Totals
    from .errors import (
        CatalogError,
        ConfigurationError,
        InvalidArgument,
        InvalidCommand,
        LaneFull,
        LevelqError,
        LevelUpRefused,
        Moved,
        NotDurable,
        OutcomeTimeout,
        OutcomeUnknown,
        PartitionFull,
        ProducerClosed,
        QueueFull,
        QueueUnavailable,
        SchemaError,
        SendUnknown,
        TransactionMisuse,
        WrongDatabase,
    )
    from .operations.events import LevelEvent, LevelEvents
    from .operations.readings.check import CheckReport, OutOfStep, check
    from .operations.readings.explanation import Explanation, LaneExplanation, explain
    from .operations.readings.history import History, HistoryEntry, QuarantinedEntry
    from .operations.readings.overview import SystemOverview, overview
    from .operations.readings.pauses import ActivePause
    from .operations.readings.records import ParkedLane
    from .operations.readings.status import PartitionStatus, StatusReport, status
    from .operations.readings.waiting import ParkedUserLane, WaitingCommand, WaitingLane
    from .operations.readings.workers import HotLane, Rates, WorkersReport, WorkerStatus, workers
    from .settings import Settings

_MODULES = {
    "coupler.apply": ["apply_commands"],
    "coupler.direct": ["ProgressLicenseCoupler", "level_up_atomic"],
    "domain.catalog": ["Catalog"],
    "domain.commands": ["Adjust", "Command", "LevelUp", "Reset", "SetLevel", "SyncLevels", "command_id_for"],
    "domain.outcome": ["Outcome", "Totals"],
    "operations.events": ["LevelEvent", "LevelEvents"],
    "operations.readings.check": ["CheckReport", "OutOfStep", "check"],
    "operations.readings.explanation": ["Explanation", "LaneExplanation", "explain"],
    "operations.readings.history": ["History", "HistoryEntry", "QuarantinedEntry"],
    "operations.readings.overview": ["SystemOverview", "overview"],
    "operations.readings.pauses": ["ActivePause"],
    "operations.readings.records": ["ParkedLane"],
    "operations.readings.status": ["PartitionStatus", "StatusReport", "status"],
    "operations.readings.waiting": ["ParkedUserLane", "WaitingCommand", "WaitingLane"],
    "operations.readings.workers": ["HotLane", "Rates", "WorkerStatus", "WorkersReport", "workers"],
    "settings": ["Settings"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}  # all others: errors


if not TYPE_CHECKING:  # a type checker would take every misspelt name for Any

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'errors')}"), name)
        except ModuleNotFoundError as error:
            if error.name in ("sqlalchemy", "psycopg"):
                raise ImportError(f"{name} needs the database libraries: pip install 'levelq[worker]'") from error
            raise
        return value


__all__ = [
    "ActivePause", "Adjust", "Catalog", "CatalogError", "CheckReport", "Command", "ConfigurationError", "Explanation",
    "History", "HistoryEntry", "HotLane", "InvalidArgument", "InvalidCommand", "LaneExplanation", "LaneFull",
    "LevelEvent", "LevelEvents", "LevelUp", "LevelUpRefused", "LevelqError", "Moved", "NotDurable", "OutOfStep",
    "Outcome", "OutcomeTimeout", "OutcomeUnknown", "ParkedLane", "ParkedUserLane", "PartitionFull", "PartitionStatus",
    "ProducerClosed", "ProgressLicenseCoupler", "QuarantinedEntry", "QueueFull", "QueueUnavailable", "Rates", "Reset",
    "SchemaError", "SendUnknown", "SetLevel", "Settings", "StatusReport", "SyncLevels", "SystemOverview", "Totals",
    "TransactionMisuse", "WaitingCommand", "WaitingLane", "WorkerStatus", "WorkersReport", "WrongDatabase",
    "apply_commands", "check", "command_id_for", "explain", "level_up_atomic", "overview", "status", "workers",
]  # fmt: skip

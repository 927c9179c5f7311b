"""levelq's core: commands, catalog, rules, lanes and the coupler. See README.md for the whole.

What only a producer needs imports without SQLAlchemy and psycopg; the coupler's names load at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .domain.catalog import Catalog
from .domain.commands import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels
from .domain.outcome import Outcome, Totals
from .errors import (
    CatalogError,
    ConfigurationError,
    InvalidCommand,
    LaneFull,
    LevelqError,
    LevelUpRefused,
    Moved,
    NotDurable,
    OutcomeTimeout,
    OutcomeUnknown,
    PartitionFull,
    QueueFull,
    QueueUnavailable,
    SchemaError,
    SendUnknown,
    TransactionMisuse,
    WrongDatabase,
)
from .settings import Settings

if TYPE_CHECKING:
    from .coupler.apply import apply_commands
    from .coupler.direct import ProgressLicenseCoupler, level_up_atomic

_LAZY = {
    "apply_commands": "coupler.apply",
    "ProgressLicenseCoupler": "coupler.direct",
    "level_up_atomic": "coupler.direct",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name in ("sqlalchemy", "psycopg"):
            raise ImportError(f"{name} needs the database libraries: pip install 'levelq[worker]'") from error
        raise


__all__ = [
    "Adjust",
    "Catalog",
    "CatalogError",
    "Command",
    "ConfigurationError",
    "InvalidCommand",
    "LaneFull",
    "LevelUp",
    "LevelUpRefused",
    "LevelqError",
    "Moved",
    "NotDurable",
    "Outcome",
    "OutcomeTimeout",
    "OutcomeUnknown",
    "PartitionFull",
    "ProgressLicenseCoupler",
    "QueueFull",
    "QueueUnavailable",
    "Reset",
    "SchemaError",
    "SendUnknown",
    "SetLevel",
    "Settings",
    "SyncLevels",
    "Totals",
    "TransactionMisuse",
    "WrongDatabase",
    "apply_commands",
    "level_up_atomic",
]

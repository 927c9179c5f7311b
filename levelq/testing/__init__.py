"""What applications use in their own tests: producers without servers, fixtures for pytest, a worker that dies.

The fixtures are in the pytest plugin "levelq", which pytest finds by itself. Each name here loads when it is first
used, so that pytest's start loads none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .burst_worker import BurstWorker
    from .dying_worker import WORKER_POINTS, worker_dying_at
    from .inline import AsyncInlineProducer, InlineProducer
    from .recording import AsyncRecordingProducer, RecordingProducer
    from .run_servers import ServerUrls

_LAZY = {
    "AsyncInlineProducer": "inline", "AsyncRecordingProducer": "recording", "BurstWorker": "burst_worker",
    "InlineProducer": "inline", "RecordingProducer": "recording", "ServerUrls": "run_servers",
    "WORKER_POINTS": "dying_worker", "worker_dying_at": "dying_worker",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = globals()[name] = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name in ("sqlalchemy", "psycopg"):
            raise ImportError(f"{name} needs the database libraries: pip install 'levelq[worker]'") from error
        raise
    return value


__all__ = [
    "WORKER_POINTS", "AsyncInlineProducer", "AsyncRecordingProducer", "BurstWorker", "InlineProducer",
    "RecordingProducer", "ServerUrls", "worker_dying_at",
]  # fmt: skip

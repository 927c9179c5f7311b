"""levelq's workers: the RQ worker class and the job it runs. Needs levelq[worker]."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .draining.drain import drain
    from .rq_adapter.worker import LaneWorker

_LAZY = {"LaneWorker": "rq_adapter.worker", "drain": "draining.drain"}


if not TYPE_CHECKING:  # a type checker would take every misspelt name for Any

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


__all__ = ["LaneWorker", "drain"]

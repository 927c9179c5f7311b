"""What all pages of a console share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from sqlalchemy import Engine

from levelq_core.database.engine import engine_for
from levelq_core.operations.readings.overview import SystemOverview, overview
from levelq_core.operations.readings.trends import Trends, Window, trends
from levelq_core.settings import Settings

from .cached import Cached

READING_SECONDS = 1.5  # a page refreshes every two; all viewers share a reading
TRENDS_SECONDS = 10.0  # of points that are 20 s apart, or ten minutes
CONNECTIONS = 8

T = TypeVar("T")


@dataclass
class Console:
    """A console on one namespace. `read_only`: nobody may act, whatever their role. Give it back with `close`."""

    settings: Settings
    read_only: bool = False
    engine: Engine | None = field(init=False)
    overview: Cached[SystemOverview] = field(init=False)
    trends: dict[Window, Cached[Trends]] = field(init=False)
    _shared: dict[str, Cached[Any]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = None
        if self.settings.database_url is not None:
            self.engine = engine_for(self.settings, name="levelq console", connections=CONNECTIONS, limited=True)
        self.overview = Cached(lambda: overview(self.settings, engine=self.engine), READING_SECONDS)
        self.trends = {
            "1h": Cached(lambda: trends(self.settings, "1h"), TRENDS_SECONDS),
            "24h": Cached(lambda: trends(self.settings, "24h"), TRENDS_SECONDS),
        }

    def shared(self, name: str, read: Callable[[], T]) -> T:
        """A reading by its name, that all viewers share as they do `overview`. The caller bounds how many names."""
        return cast("T", self._shared.setdefault(name, Cached(read, READING_SECONDS)).get())

    def forget(self) -> None:
        """Have all readings read again: something was changed."""
        self._shared.clear()
        self.overview.forget()

    def close(self) -> None:
        """Close the connections."""
        if self.engine is not None:
            self.engine.dispose()

"""The connections that cancelling and forgetting need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.wakeups import Waker
from levelq_core.operations.connections import database_of, redis_of
from levelq_core.settings import Settings

Parts = tuple[Engine, LaneEditor, Waker, Settings]


@contextmanager
def editing(
    settings: Settings, engine: Engine | None = None, *, name: str = "levelq", patient: bool = False
) -> Iterator[Parts]:
    """The arguments of a Canceller and of Forgetting, connected; what they raise becomes a ConfigurationError.

    `engine`, `name` and `patient`: see `database_of`.
    """
    database = database_of(settings, engine, name=name, patient=patient)
    with database as used, redis_of(settings) as redis, redis_of(settings, rq=True) as rq:
        yield used, LaneEditor(redis, settings), Waker(redis, rq, settings.keys), settings

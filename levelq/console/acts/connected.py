"""The connections of an act on lanes and database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from redis import Redis
from sqlalchemy import Engine

from levelq_core.errors import ConfigurationError
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.wakeups import Waker
from levelq_core.operations.connections import database_of, redis_of

from .act import Asked


class Connected(NamedTuple):
    """What acts on both servers: the database is levelq's own engine, without the console's limit on a statement."""

    engine: Engine
    lanes: LaneEditor
    rq: Redis
    waker: Waker


@contextmanager
def connected(asked: Asked) -> Iterator[Connected]:
    """Connected to all servers. An error of a server inside becomes a ConfigurationError."""
    settings = asked.console.settings
    if settings.database_url is None:
        raise ConfigurationError(
            "LEVELQ_DATABASE_URL: expected with this act, not set", setting="LEVELQ_DATABASE_URL", value=None
        )
    database = database_of(settings, name="levelq console")
    with database as engine, redis_of(settings) as redis, redis_of(settings, rq=True) as rq:
        yield Connected(engine, LaneEditor(redis, settings), rq, Waker(redis, rq, settings.keys))

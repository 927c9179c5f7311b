"""The environment of a run: the servers, connections to them, and the workers of the run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from sqlalchemy import Engine

from levelq.embedded import Servers
from levelq_core.database.engine import engine_open
from levelq_core.database.migrations import upgrade
from levelq_core.errors import ConfigurationError
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.wakeups import workers_of
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings

from .processes import START_SECONDS, WorkerPool


@dataclass(frozen=True)
class Environment:
    """Connections to both servers, and the workers that the run starts. `embedded`: no one else uses the servers."""

    settings: Settings
    redis: Redis
    engine: Engine
    workers: WorkerPool
    embedded: bool

    @property
    def lanes(self) -> Lanes:
        """The lane protocol."""
        return Lanes(self.redis, self.settings)

    def serving(self) -> set[str]:
        """The live workers that are registered for any specialization of the catalog."""
        with connect(self.settings.queue_url, self.settings.redis_seconds) as redis:
            names = [self.settings.keys.queue(name) for name in self.settings.tracks]
            return set().union(*(workers_of(redis, name) for name in names))

    def start_workers(self) -> None:
        """Start the workers and wait until they serve. Raises ConfigurationError if they do not."""
        before = self.serving()
        self.workers.start()
        deadline = time.monotonic() + START_SECONDS
        while len(self.serving() - before) < self.workers.processes:
            self.workers.check()
            if time.monotonic() > deadline:
                raise ConfigurationError(f"the workers do not serve after {START_SECONDS:g} s")
            time.sleep(0.05)


@contextmanager
def connected_environment(
    name: str, settings: Settings, processes: int, folder: Path, *, embedded: bool = False
) -> Iterator[Environment]:
    """The servers that the settings name. `name` is what PostgreSQL shows; `folder` gets the workers' log."""
    with (
        engine_open(settings, name=name, connections=2) as engine,
        connect(settings.redis_url, settings.redis_seconds) as redis,
        WorkerPool(processes, settings, folder / "workers.log") as workers,
    ):
        yield Environment(settings, redis, engine, workers, embedded)


@contextmanager
def embedded_environment(name: str, given: Mapping[str, Any], processes: int, folder: Path) -> Iterator[Environment]:
    """New servers with levelq's tables, their data in `folder`; `given`: settings instead of the environment's."""
    servers = Servers(folder / "servers")
    servers.postgres.options = ("track_commit_timestamp=on",)  # records when each batch was committed
    with servers:
        urls = {
            "redis_url": servers.valkey.url,
            "database_url": servers.postgres.url,
            "rq_url": None,
            "listen_url": None,
        }
        settings = Settings.load(**{**given, **urls})
        with connected_environment(name, settings, processes, folder, embedded=True) as environment:
            upgrade(environment.engine)
            yield environment

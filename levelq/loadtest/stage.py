"""Where a load test runs: on servers and workers of its own, or on a system that is there already."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis
from sqlalchemy import Engine

from levelq.demo.helpers import START_SECONDS, WorkerPool
from levelq.embedded import Servers
from levelq_core.database.engine import engine_for
from levelq_core.database.migrations import upgrade
from levelq_core.errors import ConfigurationError
from levelq_core.lanes.client import Lanes
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings
from levelq_worker.rq_adapter.registry import workers_of
from levelq_worker.support.preflight import preflight


class Stage(NamedTuple):
    """Both servers, and the workers if they are the test's own."""

    settings: Settings
    redis: Redis
    engine: Engine
    crew: WorkerPool
    own: bool  # nobody else sends, and nothing was there before

    def start_workers(self) -> None:
        """Start ours, if any, and wait until they serve. Raises ConfigurationError if they do not."""
        if not self.crew.processes:
            return
        before = _serving(self.settings)
        self.crew.start()
        deadline = time.monotonic() + START_SECONDS
        while len(_serving(self.settings) - before) < self.crew.processes:
            self.crew.check()
            if time.monotonic() > deadline:
                raise ConfigurationError(f"the workers do not serve after {START_SECONDS:g} s")
            time.sleep(0.05)

    @property
    def lanes(self) -> Lanes:
        """The lanes' protocol."""
        return Lanes(self.redis, self.settings)


def own_stage(stack: ExitStack, settings: Settings, processes: int, folder: Path) -> Stage:
    """Servers in the folder, and workers; the stack ends them. Of the settings all counts but the URLs."""
    servers = Servers(folder / "servers")
    servers.postgres.options = ("track_commit_timestamp=on",)  # for when each command was committed
    stack.enter_context(servers)
    urls: dict[str, Any] = {"redis_url": servers.valkey.url, "database_url": servers.postgres.url}
    settings = Settings.load(**urls, rq_url=None, listen_url=None)
    engine = engine_for(settings, name="levelq loadtest", connections=2)
    stack.callback(engine.dispose)
    upgrade(engine)
    return _stage(stack, settings, engine, processes, folder, own=True)


def given_stage(stack: ExitStack, settings: Settings, processes: int, folder: Path) -> Stage:
    """The servers that the settings name, and their workers. Raises ConfigurationError for what cannot work."""
    preflight(settings)
    engine = engine_for(settings, name="levelq loadtest", connections=2)
    stack.callback(engine.dispose)
    stage = _stage(stack, settings, engine, processes, folder, own=False)
    if not processes and not _serving(settings):
        raise ConfigurationError(
            "--external: expected workers that serve these queues, got none: start `levelq worker`, or give --processes"
        )
    return stage


def _stage(stack: ExitStack, settings: Settings, engine: Engine, processes: int, folder: Path, *, own: bool) -> Stage:
    redis = stack.enter_context(connect(settings.redis_url, settings.redis_seconds))
    crew = stack.enter_context(WorkerPool(processes, settings, folder / "workers.log"))
    return Stage(settings, redis, engine, crew, own)


def _serving(settings: Settings) -> set[str]:
    """The live workers that are registered for any specialization of the catalog."""
    with connect(settings.queue_url, settings.redis_seconds) as redis:
        return set().union(*(workers_of(redis, settings.keys.queue(name)) for name in settings.tracks))

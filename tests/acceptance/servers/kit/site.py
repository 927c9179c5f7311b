"""A site: servers that a test may break, what runs on them, and how it looks from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
from redis import Redis

from levelq.embedded import Servers
from levelq_core import Settings
from levelq_core.database.engine import engine_for
from levelq_core.database.migrations import upgrade
from levelq_core.lanes.client import Lanes
from levelq_core.operations.readings.status import status as look
from tests.acceptance.servers.kit.scene import Scene
from tests.acceptance.servers.kit.traffic import PARTITIONS
from tests.acceptance.servers.kit.workers import Fleet
from tests.support.fixtures.waiting import until


class Site:
    """Servers that a test may break, and the settings of what runs on them: claims of 2 s, one lock limit 0.2 s."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = Servers(folder)
        self.servers.postgres.options = ("max_connections=40", "deadlock_timeout=50ms")
        self._scenes = 0

    def __enter__(self) -> Self:
        self.servers.__enter__()
        self.settings = Settings.load(
            redis_url=self.servers.valkey.url,
            database_url=self.servers.postgres.url,
            claim_seconds=2.0,
            sweep_seconds=0.3,
            slice_seconds=0.5,
            redis_seconds=0.5,
            batch_commands=200,
        )
        self.redis = Redis.from_url(self.servers.valkey.url)
        engine = engine_for(self.settings)
        upgrade(engine)
        engine.dispose()
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()
        self.servers.__exit__()

    def admin(self, *statements: str) -> list[Any]:
        """Run statements as the operator, on a connection of their own; the last one's rows."""
        with psycopg.connect(self.servers.postgres.url, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = local")
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def count(self, rows: str) -> int:
        """How many rows there are of `table [WHERE ...]`."""
        return int(self.admin(f"SELECT count(*) FROM {rows}")[0][0])

    def waiting(self) -> int:
        """Commands in the lanes."""
        lanes = Lanes(self.redis, self.settings)
        return sum(lanes.status(partition).waiting for partition in PARTITIONS)

    def problems(self) -> str:
        """The problems that `levelq status` prints."""
        return "\n".join(look(self.settings).problems)

    @contextmanager
    def scene(self, *fleets: Fleet) -> Iterator[Scene]:
        """Workers and producers at work."""
        self._scenes += 1
        folder = self.folder / f"scene{self._scenes}"
        folder.mkdir()
        with Scene(self, folder, fleets or [Fleet(self.settings, 2)]) as scene:
            until(scene.at_work, seconds=60, what="all workers to be at work")
            scene.flows()
            yield scene

"""Workers and producers cut off from Redis or from PostgreSQL, one way or both, for longer than a claim."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from levelq.server_account import temporary_folder
from tests.acceptance.servers.kit.site import Site
from tests.acceptance.servers.kit.workers import Fleet
from tests.support.fixtures.proxy import Proxy

WAYS: list[tuple[Literal["requests", "replies"], ...]] = [("requests",), ("replies",), ("requests", "replies")]


class Network:
    """One proxy for the producers' way to Redis, one for a worker's, one for another worker's to PostgreSQL."""

    def __init__(self, site: Site, producers: Proxy, redis: Proxy, postgres: Proxy) -> None:
        self.producers, self.redis, self.postgres = producers, redis, postgres
        direct = site.settings
        site.settings = direct.model_copy(update={"redis_url": f"redis://127.0.0.1:{producers.port}/0"})
        postgres_url = f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres"
        self.fleets = [
            Fleet(direct.model_copy(update={"redis_url": f"redis://127.0.0.1:{redis.port}/0"})),
            Fleet(direct.model_copy(update={"database_url": postgres_url})),
            Fleet(direct),
        ]


@contextmanager
def network() -> Iterator[tuple[Site, Network]]:
    with temporary_folder("levelq-faults-") as folder, Site(folder) as site:
        sockets = site.servers.sockets
        valkey, postgres = str(sockets / "valkey.sock"), str(sockets / ".s.PGSQL.5432")
        with Proxy(valkey) as producers, Proxy(valkey) as redis, Proxy(postgres) as database:
            yield site, Network(site, producers, redis, database)


def test_worker_that_is_cut_off_disturbs_no_other_and_comes_back() -> None:
    with network() as (site, net), site.scene(*net.fleets) as scene:
        for ways in WAYS:
            with scene.fault(f"worker cut off from Redis, another from PostgreSQL: {' and '.join(ways)} lost"):
                net.redis.lose(*ways)
                net.postgres.lose(*ways)
                scene.goes_on(1.25 * site.settings.claim_seconds)
                net.redis.heal()
                net.postgres.heal()
        with scene.fault("producers cut off from Redis"):
            net.producers.lose("requests", "replies")
            scene.traffic.fails("SendUnknown", "QueueUnavailable")
            net.producers.heal()
        scene.fleets[-1].stop()
        with scene.fault("every connection of the workers silent for ever"):
            net.redis.forget()
            net.postgres.forget()
        assert scene.finish().broken == set()

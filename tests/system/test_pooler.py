"""Many workers on few connections of PostgreSQL: through a real pgbouncer in transaction mode."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from levelq.server_account import temporary_folder
from levelq_core.database.engine import engine_for
from tests.acceptance.servers.kit.site import Site
from tests.acceptance.servers.kit.workers import Fleet
from tests.system.pooler import Pooler, pooled

CONNECTIONS = 2
_THEIRS = "pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


@pytest.fixture
def pooled_site() -> Iterator[tuple[Site, Pooler]]:
    """Servers, and a pooler that all but the operator goes through."""
    with temporary_folder("levelq-faults-") as folder, ExitStack() as stack:
        site = stack.enter_context(Site(folder))
        pooler = stack.enter_context(pooled(site.servers.sockets, CONNECTIONS))
        through = {"database_url": pooler.url, "prepared_statements": False}
        site.settings = site.settings.model_copy(update=through)
        yield site, pooler


def test_six_workers_an_application_and_the_checker_on_two_connections(pooled_site: tuple[Site, Pooler]) -> None:
    site, pooler = pooled_site
    with site.scene(Fleet(site.settings, 6)) as scene:
        for _ in range(5):
            scene.flows()
            assert site.count(_THEIRS) <= CONNECTIONS
        with scene.fault("the pooler killed, restarted"):
            pooler.kill()
            scene.says("waiting: PostgreSQL")
            pooler.start()
        scene.flows()
        assert site.count(_THEIRS) <= CONNECTIONS
        assert scene.finish().broken == set()


def test_with_prepared_statements_an_old_pgbouncer_gives_an_error_with_the_remedy(
    pooled_site: tuple[Site, Pooler],
) -> None:
    site, _ = pooled_site
    engines = [engine_for(site.settings.model_copy(update={"prepared_statements": True})) for _ in range(2)]
    with pytest.raises(DBAPIError, match='prepared statement "_pg3_0" already exists'):
        for _ in range(10):
            for engine in engines:
                with engine.begin() as connection:
                    connection.execute(text("SELECT 1"))
    for engine in engines:
        engine.dispose()

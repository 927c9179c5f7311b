"""URLs with options and several hosts, on real servers."""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from redis import Redis
from sqlalchemy import text

from levelq import AsyncProducer, LevelUp, Producer, Settings
from levelq.embedded import Servers
from levelq_core.database.engine import engine_for
from levelq_worker.draining.context import Runtime
from tests.support.coupler import drain_all
from tests.support.fixtures.ports import free_port
from tests.support.fixtures.proxy import Proxy


@pytest.fixture
def proxy(servers: Servers) -> Iterator[Proxy]:
    with Proxy(str(servers.postgres.sockets / ".s.PGSQL.5432")) as running:
        yield running


@pytest.mark.parametrize(
    "options",
    [
        "decode_responses=True",
        "decode_responses=yes&encoding=utf-16&encoding_errors=replace&retry_on_timeout=yes&retry_on_error=x",
        "protocol=3",
        "client_name=app&socket_read_size=1024&health_check_interval=1",
    ],
)
def test_options_of_an_application_do_not_change_levelq(
    servers: Servers, redis: Redis, own_database_url: str, options: str
) -> None:
    settings = Settings.load(redis_url=f"{servers.valkey.url}?{options}", database_url=own_database_url)
    with Producer(settings) as producer:
        sent = producer.level_up(1, "PLAYER", 150, reason="é")

        async def also() -> None:
            async with AsyncProducer(settings) as sender:
                handle = await sender.send(LevelUp(user_id=1, specialization="PLAYER", xp_gained=50))
                worker = Runtime(settings)
                await asyncio.to_thread(drain_all, worker, "PLAYER")
                worker.close()
                assert (await handle.result()).status == "applied"

        asyncio.run(also())
        outcome = sent.result()
        assert outcome.after is not None and outcome.after.total_xp == 150


def test_second_host_of_a_database_url_is_tried_when_the_first_is_down(proxy: Proxy, own_database_url: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(own_database_url)["dbname"]
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{proxy.port}"
    engine = engine_for(Settings.load(database_url=f"postgresql://postgres@{hosts}/{name}"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT current_database()")).scalar_one() == name
    engine.dispose()

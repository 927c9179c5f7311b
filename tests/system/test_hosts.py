"""Workers on three hosts, each in a network of its own, during a burst; two of them cut off, one after the other."""

from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import text

from levelq.embedded import Servers
from levelq.server_account import temporary_folder
from levelq_core import Settings
from levelq_core.database.engine import engine_for
from levelq_core.database.migrations import upgrade
from tests.acceptance.outgrown.running import Running
from tests.support.fixtures.waiting import until
from tests.system.machine import Cable

HOSTS = 3
REDIS_PORT = 17_380
TIMES = {"claim_seconds": 2.0, "sweep_seconds": 0.3, "redis_seconds": 0.5}


def started(stack: ExitStack, folder: Path, cables: list[Cable]) -> Servers:
    """Servers that every host can reach."""
    servers = Servers(folder)
    addresses = [cable.host for cable in cables]
    network = ("--port", str(REDIS_PORT), "--bind", *addresses, "--protected-mode", "no")
    servers.valkey.options = ("--appendfsync", "always", *network)
    servers.postgres.options = (f"listen_addresses={','.join(addresses)}",)
    stack.enter_context(servers)
    with (servers.postgres.folder / "pg_hba.conf").open("a") as rules:
        rules.writelines(f"host all all {cable.guest}/32 trust\n" for cable in cables)
    engine = engine_for(Settings.load(database_url=servers.postgres.url))
    with engine.begin() as connection:
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    upgrade(engine)
    engine.dispose()
    return servers


def at_work(running: Running) -> set[str]:
    """The addresses from which workers have sessions."""
    query = "SELECT host(client_addr) FROM pg_stat_activity WHERE application_name = 'levelq worker'"
    with running.engine.connect() as connection:
        return {row[0] for row in connection.execute(text(query)) if row[0]}


def test_workers_on_several_hosts_of_which_one_is_cut_off_in_a_burst() -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("levelq-hosts-"))
        cables = [stack.enter_context(Cable(number)) for number in range(HOSTS)]
        servers = started(stack, folder / "data", cables)
        settings = Settings.load(redis_url=servers.valkey.url, database_url=servers.postgres.url, **TIMES)
        running = stack.enter_context(Running(folder, settings))
        for cable in cables:
            running.start_workers(
                "--processes",
                "1",
                inside=cable.inside,
                LEVELQ_REDIS_URL=f"redis://{cable.host}:{REDIS_PORT}/0",
                LEVELQ_DATABASE_URL=f"postgresql://postgres@{cable.host}/postgres",
            )
        running.start_traffic()
        until(lambda: at_work(running) == {cable.guest for cable in cables}, what="workers of every host")
        for cable in cables[:2]:
            cable.cut("requests", "replies")
            running.goes_on(2_000)
            cable.heal()
            running.goes_on()
        report = running.at_rest()
        assert report.violations == 0, report.examples[:5]

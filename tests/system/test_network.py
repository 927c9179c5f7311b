"""A worker in a network of its own, whose cable is cut: frames vanish, connections stay, no process is notified."""

from collections.abc import Iterator
from contextlib import contextmanager

from levelq.server_account import temporary_folder
from levelq_core import Settings
from tests.acceptance.servers.kit.site import Site
from tests.acceptance.servers.kit.workers import Fleet
from tests.system.machine import Cable, Way

REDIS_PORT = 17_379  # no other server has that address
WAYS: list[tuple[Way, ...]] = [("requests",), ("replies",), ("requests", "replies")]


@contextmanager
def connected() -> Iterator[tuple[Site, Cable, Settings]]:
    """Servers, a cable, and the settings for its other end."""
    with temporary_folder("levelq-faults-") as folder, Cable() as cable:
        site = Site(folder)
        valkey, postgres = site.servers.valkey, site.servers.postgres
        valkey.options = (*valkey.options, "--port", str(REDIS_PORT), "--bind", cable.host, "--protected-mode", "no")
        postgres.options = (*postgres.options, f"listen_addresses={cable.host}")
        with site:
            with (postgres.folder / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {cable.guest}/32 trust\n")
            site.admin("SELECT pg_reload_conf()")
            urls = {
                "redis_url": f"redis://{cable.host}:{REDIS_PORT}/0",
                "database_url": f"postgresql://postgres@{cable.host}/postgres",
            }
            yield site, cable, site.settings.model_copy(update=urls)


def test_a_worker_that_is_cut_off_disturbs_no_other_and_comes_back() -> None:
    with connected() as (site, cable, far), site.scene(Fleet(far, inside=cable.inside), Fleet(site.settings)) as scene:
        for ways in WAYS:
            with scene.fault(f"worker's network cut, {' and '.join(ways)} lost"):
                cable.cut(*ways)
                scene.goes_on(1.25 * site.settings.claim_seconds)
                cable.heal()
        scene.fleets[1].stop()
        assert scene.finish().broken == set()

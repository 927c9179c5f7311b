"""A disk that is full: errors, nothing acknowledged that was not kept, and work again once there is space."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from levelq.embedded import Postgres, Server, Valkey
from levelq.server_account import temporary_folder
from tests.acceptance.servers.kit.site import Site
from tests.support.fixtures.waiting import until
from tests.system.machine import filled, small_disk

LITTLE_WAL = ("min_wal_size=32MB", "max_wal_size=64MB", "wal_recycle=off")


@contextmanager
def site_on_a_small_disk(which: str, *options: str) -> Iterator[Site]:
    """Servers, one of them on a small disk."""
    with temporary_folder("levelq-faults-") as folder:
        site = Site(folder)
        server: Postgres | Valkey = getattr(site.servers, which)
        server.options = (*server.options, *options)
        with small_disk(server.folder), site:
            yield site


def test_a_full_disk_of_valkey_is_waited_for() -> None:
    with site_on_a_small_disk("valkey") as site, site.scene() as scene:
        with scene.fault("disk of Valkey full", lines=30), filled(site.servers.valkey.folder):
            scene.traffic.fails("QueueUnavailable")
            assert any(
                "refused, nothing was queued: MISCONF Errors writing to the AOF" in message
                for message in scene.traffic.messages
            )
            scene.says("waiting: Redis: MISCONF")
            assert "Redis refuses pushes: MISCONF Errors writing to the AOF file: No space left" in site.problems()
        assert scene.finish().broken == set()


def test_a_valkey_that_must_keep_everything_ends_when_it_cannot() -> None:
    with site_on_a_small_disk("valkey", "--appendfsync", "always") as site, site.scene() as scene:
        with scene.fault("disk of Valkey full, appendfsync always", lines=30):
            with filled(site.servers.valkey.folder):
                until(lambda: ended(site.servers.valkey), what="Valkey to end")
                scene.traffic.fails("QueueUnavailable")
            site.servers.valkey.start()
        assert scene.finish().broken == set()


def test_a_full_disk_of_postgresql_is_waited_for() -> None:
    with site_on_a_small_disk("postgres", *LITTLE_WAL) as site, site.scene() as scene:
        with scene.fault("disk of PostgreSQL full"), filled(site.servers.postgres.folder):
            scene.says("waiting: PostgreSQL: .*No space left on device")
            assert "No space left on device" in site.problems()
        with scene.fault("disk of PostgreSQL full, no WAL either", lines=30):
            with filled(site.servers.postgres.folder):
                until(lambda: panicked(site), what="a panic")
            # With room while it recovers, it comes back, or ends, or (18, four times in 340) hangs: start it again.
            site.servers.postgres.stop(signal.SIGQUIT)
            site.servers.postgres.start()
        assert scene.finish().broken == set()


def panicked(site: Site) -> bool:
    """Go on to another WAL file, for which there is no room; whether the server noticed."""
    with suppress(psycopg.OperationalError):
        site.admin("SELECT pg_switch_wal()")
    return "PANIC" in site.servers.postgres.log.read_text(errors="replace")


def ended(server: Server) -> bool:
    return server.process is None or server.process.poll() is not None

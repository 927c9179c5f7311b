"""Every command in the container files, run outside Docker on real servers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from levelq.embedded import Postgres, Servers, Valkey
from levelq_core import Settings
from tests.support.containers import DOTENV, ROOT, compose, seconds
from tests.support.fixtures.processes import children, end_family
from tests.support.fixtures.waiting import until


class ComposedValkey(Valkey):
    """The wheel's Valkey with the arguments of the compose file; only its folder and port are this test's."""

    def __init__(self, folder: Path, service: Mapping[str, Any]) -> None:
        super().__init__(folder / "data", folder)
        self.password = service["environment"]["REDISCLI_AUTH"]
        self.arguments = service["command"]

    @property
    def url(self) -> str:
        return f"unix://:{self.password}@{self.sockets / 'valkey.sock'}"

    def command(self) -> Sequence[str | Path]:
        assert self.arguments[0] == "valkey-server"
        place = ("--port", "0", "--unixsocket", self.sockets / "valkey.sock", "--dir", self.folder)
        return [super().command()[0], *self.arguments[1:], *place]


def test_valkey_keeps_everything_and_lets_nobody_else_in(server_folder: Path) -> None:
    service = compose()["services"]["valkey"]
    with ComposedValkey(server_folder, service) as server, Redis.from_url(server.url, decode_responses=True) as client:
        config: Any = client.config_get("*")
        assert (config["appendonly"], config["maxmemory-policy"]) == ("yes", "noeviction")
        assert (config["appendfsync"], config["save"], config["maxmemory"]) == ("everysec", "", str(2**30))
        with Redis(unix_socket_path=str(server_folder / "valkey.sock")) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
        assert valkey_health(service, server_folder, DOTENV["VALKEY_PASSWORD"]) == 0
        assert valkey_health(service, server_folder, "wrong") != 0
        client.set("kept", 1)
    with ComposedValkey(server_folder, service) as server, Redis.from_url(server.url) as client:
        assert client.get("kept") == b"1"


# The wheel has no valkey-cli. Like the real one, this prints what went wrong and exits with 0.
_CLI = """#!{python}
import os, sys, redis
try:
    client = redis.Redis(unix_socket_path="{socket}", password=os.environ["REDISCLI_AUTH"])
    print("PONG" if client.execute_command(*sys.argv[1:]) else "")
except redis.RedisError as error:
    print(error)
"""


def valkey_health(service: Mapping[str, Any], folder: Path, password: str) -> int:
    """Run the health check as the container would."""
    kind, script = service["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    program = folder / "valkey-cli"
    program.write_text(_CLI.format(python=sys.executable, socket=folder / "valkey.sock"))
    program.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "REDISCLI_AUTH": password}
    return subprocess.run(["sh", "-c", script], env=environment, check=False).returncode


class ComposedPostgres(Postgres):
    """The wheel's PostgreSQL with the options of the compose file."""

    def __init__(self, folder: Path, service: Mapping[str, Any]) -> None:
        super().__init__(folder / "data", folder)
        program, *arguments = service["command"]
        assert program == "postgres"
        assert set(arguments[::2]) == {"-c"}
        self.options = arguments[1::2]


def test_postgres_starts_as_written(server_folder: Path) -> None:
    service = compose()["services"]["postgres"]
    with ComposedPostgres(server_folder, service) as server:
        with psycopg.connect(server.url) as connection:
            for option in server.options:
                name, _, wanted = option.partition("=")
                assert connection.execute(f"SHOW {name}").fetchone() == (wanted,)
            assert connection.info.server_version // 10_000 == int(re.findall(r"\d+", service["image"])[0])
        programs = Path(server.command()[0]).parent
        assert postgres_health(service, programs, server_folder) == 0
    assert postgres_health(service, programs, server_folder) != 0


def postgres_health(service: Mapping[str, Any], programs: Path, folder: Path) -> int:
    """Run the health check on the socket, as this server listens on no port."""
    kind, program, *arguments = service["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "pg_isready")
    assert "--host=127.0.0.1" in arguments
    adapted = [f"--host={folder}" if argument == "--host=127.0.0.1" else argument for argument in arguments]
    return subprocess.run([programs / program, *adapted], check=False).returncode


@pytest.fixture
def environment(servers: Servers, redis: Redis, blank_database_url: str) -> dict[str, str]:
    """What a levelq container gets, with this test's servers instead of the compose file's."""
    services = compose()["services"]
    given = services["worker"]["environment"]
    named = Settings.load(redis_url=given["LEVELQ_REDIS_URL"], database_url=given["LEVELQ_DATABASE_URL"])
    assert f":{DOTENV['VALKEY_PASSWORD']}@valkey:" in named.redis_url
    assert f":{DOTENV['POSTGRES_PASSWORD']}@postgres:" in named.sqlalchemy_url
    return {
        **os.environ,
        **services["load"]["environment"],
        "LEVELQ_REDIS_URL": servers.valkey.url,
        "LEVELQ_DATABASE_URL": blank_database_url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def argv(service: Mapping[str, Any]) -> list[str]:
    """A service's command line: its entrypoint or the image's, and its command."""
    return [*service.get("entrypoint", ["levelq"]), *service["command"]]


def ran(service: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """What a service that ends by itself prints."""
    return subprocess.run(argv(service), env=environment, check=True, capture_output=True, text=True).stdout


def test_every_levelq_service_does_its_work(environment: dict[str, str]) -> None:
    services = compose()["services"]
    for _ in range(2):  # compose runs it at every `up`
        ran(services["migrate"], environment)
    worker = subprocess.Popen(argv(services["worker"]), env=environment, text=True)
    try:
        until(lambda: worker.poll() is not None or children(worker), what="the worker process")
        assert ran(services["load"], environment).count("queued") == 3
        until(lambda: levels(environment) == [(1, 2, 2), (2, 2, 2), (3, 2, 2)], what="three users at level 2")
        assert "PLAYER:1:0" in ran(services["cli"], environment)
        assert worker_health(children(worker)[0].pid) == 0
        assert worker_health(worker.pid) != 0
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(seconds(services["worker"]["stop_grace_period"])) == 0
    finally:
        end_family(worker)


def levels(environment: Mapping[str, str]) -> list[tuple[int, int, int]]:
    """(user, level of the progress, level of the license)."""
    with psycopg.connect(environment["LEVELQ_DATABASE_URL"]) as connection:
        return connection.execute("""
            SELECT p.student_id, p.current_level, l.current_level FROM specialization_progress p
            JOIN user_licenses l ON (l.user_id, l.specialization_type) = (p.student_id, p.specialization_id) ORDER BY 1
        """).fetchall()


def worker_health(pid: int) -> int:
    """The image's health check, for one process instead of all."""
    (check,) = re.findall(r"^\s+CMD (grep .*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    everywhere = "/proc/[0-9]*/comm"
    assert everywhere in check
    return subprocess.run(["sh", "-c", check.replace(everywhere, f"/proc/{pid}/comm")], check=False).returncode

"""The main paths on an installed levelq: `make lowest` runs this on the lowest versions that pyproject.toml allows.

Run by `python -I tests/lowest/smoke.py`: nothing of this folder is imported, so levelq is the wheel. A step that fails
ends it with a traceback.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError
from urllib.request import urlopen

from packaging.requirements import Requirement
from packaging.version import Version
from redis import Redis
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from levelq import (
    AsyncProducer,
    History,
    LevelEvents,
    LevelUp,
    Outbox,
    Producer,
    SetLevel,
    command_id_for,
    level_up_atomic,
    status,
)
from levelq.embedded import Servers, Valkey
from levelq.testing import RecordingProducer

LEVELQ = Path(sys.executable).parent / "levelq"
SHOWN = (
    "celery",
    "redis",
    "rq",
    "pydantic",
    "pydantic-settings",
    "sqlalchemy",
    "psycopg",
    "alembic",
    "typer",
    "rich",
    "starlette",
    "uvicorn",
)
EXTRAS = ("worker", "console", "embedded", "demo", "load")
SECONDS = 300  # ends what hangs; a busy machine takes a minute for what takes seconds


def command(*arguments: str, code: int = 0) -> str:
    """Run `levelq` to its end; returns what it printed."""
    done = subprocess.run([LEVELQ, *arguments], check=False, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == code, f"levelq {' '.join(arguments)}: {done.returncode}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def step(done: Callable[[], object]) -> None:
    """Run one step and print how long it took."""
    since = time.monotonic()
    done()
    print(f"{time.monotonic() - since:5.1f} s  {(done.__doc__ or '').partition('.')[0]}", flush=True)


@contextmanager
def worker() -> Iterator[None]:
    """A worker that waits for wake-ups by RQ. It must end with 0 when it is asked to, and never restart."""
    with subprocess.Popen([LEVELQ, "worker"], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=SECONDS)
            print(log, end="", flush=True)
    assert process.returncode == 0, log
    assert "starting another" not in log, log
    assert "Traceback" not in log, log


def versions() -> None:
    """Each dependency at its lower bound."""
    bounds: dict[str, Version] = {}
    for needed in map(Requirement, requires("levelq") or ()):
        if needed.name == "levelq" or not _installed(needed):
            continue
        for bound in (Version(one.version) for one in needed.specifier if one.operator == ">="):
            bounds[needed.name] = max(bound, bounds.get(needed.name, bound))
    assert {"redis", "sqlalchemy", "matplotlib"} <= bounds.keys()
    found = {name: Version(version(name)) for name in bounds}
    assert found == bounds, "requirements-lowest.lock is not of these bounds: make lock"


def _installed(needed: Requirement) -> bool:
    return needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in EXTRAS)


def database() -> None:
    """Tables of an empty database, made and checked."""
    assert "CREATE TABLE" in command("db", "upgrade", "--sql")
    command("db", "upgrade")
    command("db", "check")
    command("doctor")


def sends() -> None:
    """Sends from threads and from asyncio, applied in bursts."""
    with Producer() as producer:
        handles = [producer.level_up(1, "PLAYER", 100)]
        coached = (
            LevelUp(user_id=n % 50 + 1, specialization="COACH", xp_gained=30, theory_hours=1) for n in range(500)
        )
        handles += producer.send_many(coached)
        command("worker", "--burst", "--processes", "2")
        assert all(handle.result().status == "applied" for handle in handles)

        async def asynchronous() -> None:
            async with AsyncProducer() as sender:
                sent = [await sender.set_level(7, "PLAYER", 3), await sender.sync(7, "PLAYER", "license")]
                sent += await sender.send_many([SetLevel(user_id=8, specialization="PLAYER", new_level=2)])
                await asyncio.to_thread(command, "worker", "--burst")
                assert [(await handle.result()).status for handle in sent] == ["applied"] * 3

        asyncio.run(asynchronous())


def woken() -> None:
    """Commands applied by a worker that RQ wakes."""
    with worker(), Producer() as producer:
        # The second comes when the connections of the first have been idle.
        for seconds in (0.0, 1.5):
            time.sleep(seconds)
            outcome = producer.level_up(9, "PLAYER", 600).result(timeout=SECONDS)
            assert outcome.status == "applied", outcome
        assert outcome.to_level == 2, outcome


def _sqlalchemy_url() -> str:
    return os.environ["LEVELQ_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")


def direct() -> None:
    """Direct calls on the application's own Session and AsyncSession."""
    url = _sqlalchemy_url()
    engine = create_engine(url)
    with Session(engine) as session:
        assert level_up_atomic(session, 110, "PLAYER", 1200)["success"]
        assert session.execute(text("SELECT current_level FROM user_licenses WHERE user_id = 110")).scalar_one() == 2
    engine.dispose()

    async def asynchronous() -> None:
        made = create_async_engine(url)
        async with AsyncSession(made) as session:
            result = await session.run_sync(lambda s: level_up_atomic(s, 111, "PLAYER", 1200))
            assert result["success"], result
        await made.dispose()

    asyncio.run(asynchronous())


def outbox() -> None:
    """A command of the application's own transaction."""
    engine = create_engine(_sqlalchemy_url())
    with Session(engine) as session:
        handle = Outbox(session).send(LevelUp(user_id=112, specialization="PLAYER", xp_gained=1000))
        session.commit()
    engine.dispose()
    command("worker", "--burst")
    assert handle.result().to_level == 2


def looks_back() -> None:
    """An idempotency key, states, a wait for all of a lane, events, readings, a producer without servers."""
    key, engine = "match-991:player-113", create_engine(_sqlalchemy_url())
    with Producer() as producer:
        producer.level_up(113, "PLAYER", 1000, idempotency_key=key)
        assert producer.state(command_id_for(key)) == "queued"
        command("worker", "--burst")
        producer.wait_until_applied(113, "PLAYER")
        outcome = producer.outcome(command_id_for(key))
    assert outcome is not None and outcome.to_level == 2
    assert 113 in [event.user_id for event in LevelEvents(engine, consumer="smoke")]
    assert [entry.command_id for entry in History(engine).of(113)] == [command_id_for(key)]
    assert status().problems == ()
    engine.dispose()
    with RecordingProducer() as recorder:
        recorder.level_up(113, "PLAYER", 1000)
        recorder.assert_sent(LevelUp, user_id=113)


def reports() -> None:
    """What an operator runs."""
    assert json.loads(command("status", "--json"))["partitions"]
    command("status")
    assert "PLAYER" in command("history", "112")
    command("check")
    command("verify", "--at-rest")


def console() -> None:
    """The console's first page, and the answer to a form of another site."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    process = subprocess.Popen([LEVELQ, "console", "--port", port], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = process.stderr.readline().strip()
        with urlopen(url, timeout=SECONDS) as page:
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            assert "<title>Overview" in page.read().decode()
        with urlopen(f"{url}runbook", timeout=SECONDS) as page:
            assert "<table>" in page.read().decode()
        try:
            urlopen(f"{url}logout", b"x=y", timeout=SECONDS)
        except HTTPError as refused:
            assert refused.code == 403, refused
            refused.close()
        else:
            raise AssertionError("a form without a token was accepted")
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=SECONDS)
    assert (process.returncode, log) == (0, ""), log


def cluster() -> None:
    """Lanes on a Redis Cluster, of one server with all slots, in a namespace of their own."""
    with TemporaryDirectory(prefix="levelq-lowest-") as folder:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        node = Valkey(Path(folder) / "valkey", Path(folder))
        node.options = ("--bind", "127.0.0.1", "--port", port, "--cluster-enabled", "yes")
        with node, Redis.from_url(node.url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                time.sleep(0.05)
            os.environ |= {
                "LEVELQ_RQ_URL": os.environ["LEVELQ_REDIS_URL"],
                "LEVELQ_REDIS_URL": f"redis+cluster://127.0.0.1:{port}",
                "LEVELQ_NAMESPACE": "clustered",
            }
            with Producer() as producer:
                handle = producer.level_up(120, "PLAYER", 1000)
                command("worker", "--burst")
                assert handle.result().to_level == 2
            asyncio.run(_on_cluster())


async def _on_cluster() -> None:
    async with AsyncProducer() as producer:
        handle = await producer.level_up(121, "PLAYER", 1000)
        await asyncio.to_thread(command, "worker", "--burst")
        assert (await handle.result()).to_level == 2


def extras() -> None:
    """The demo, and Locust."""
    with TemporaryDirectory(prefix="levelq-lowest-") as folder:
        picture = Path(folder) / "demo.png"
        command("demo", "--users", "50", "--commands", "1000", "--picture", str(picture))
        assert picture.exists()
    subprocess.run([LEVELQ.parent / "locust", "--version"], check=True, timeout=SECONDS, capture_output=True)


def main() -> None:
    """Every step, on servers of its own."""
    print(f"Python {sys.version.split()[0]}, " + ", ".join(f"{name} {version(name)}" for name in SHOWN))
    with TemporaryDirectory(prefix="levelq-lowest-") as folder, Servers(Path(folder)) as servers:
        os.environ |= {"LEVELQ_REDIS_URL": servers.valkey.url, "LEVELQ_DATABASE_URL": servers.postgres.url}
        for done in (versions, database, sends, woken, direct, outbox, looks_back, reports, console, extras, cluster):
            step(done)


if __name__ == "__main__":
    main()

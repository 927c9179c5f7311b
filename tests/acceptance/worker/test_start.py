"""Stop signals at each moment of a start, and orphans that a command adopts. As real process 1: tests/system."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from levelq.server_account import temporary_folder
from levelq_core import Settings
from tests.support.fixtures.processes import Started, children
from tests.support.fixtures.waiting import until
from tests.support.starting import LONG, STOPS, Adopting, Importing, Silent
from tests.support.system import System, ended

Start = Callable[..., Started]
BARE_INTERPRETER = -signal.SIGTERM  # nothing of levelq has run yet; only process 1 survives the signal then


def code_after(process: Started, number: signal.Signals) -> int:
    """Send the signal; the exit code."""
    process.send_signal(number)
    process.communicate(timeout=30)
    return process.returncode


def workers_at_work(worker: Started, number: int) -> list[psutil.Process]:
    """The processes of a supervisor, once it has this number."""
    until(lambda: len(children(worker)) == number, what=f"{number} children")
    return children(worker)


def first_line(worker: Started) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline()


def stops_at_once(start: Start, command: str, code: int, number: signal.Signals, folder: Path) -> None:
    importing = Importing(folder)
    process = start(command, **importing.environment)
    with importing.held():
        assert code_after(process, number) == code


@pytest.mark.parametrize("number", STOPS)
def test_stop_signal_during_imports_ends_a_worker_at_once(number: signal.Signals, start: Start, tmp_path: Path) -> None:
    stops_at_once(start, "worker", 0, number, tmp_path)


@pytest.mark.parametrize(("command", "code"), [("up", 0), ("demo", 130), ("loadtest", 130)])
def test_sigterm_during_imports_ends_other_long_commands_at_once(
    command: str, code: int, start: Start, tmp_path: Path
) -> None:
    stops_at_once(start, command, code, signal.SIGTERM, tmp_path)


@pytest.mark.usefixtures("unmeasured")
def test_sigterm_during_imports_of_a_short_command_keeps_its_default(start: Start, tmp_path: Path) -> None:
    stops_at_once(start, "status", -signal.SIGTERM, signal.SIGTERM, tmp_path)


def test_sigterm_as_soon_as_the_process_exists_ends_it(start: Start) -> None:
    assert code_after(start("worker"), signal.SIGTERM) in (0, BARE_INTERPRETER)


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("server", ["redis", "postgresql"])
def test_stop_signal_while_preflight_waits_for_a_server_ends_a_worker_at_once(
    server: str, number: signal.Signals, start: Start
) -> None:
    with Silent() as silent:
        redis, postgresql = {"LEVELQ_REDIS_URL": silent.redis_url}, {"LEVELQ_DATABASE_URL": silent.database_url}
        worker = start("worker", **(redis if server == "redis" else postgresql), **LONG)
        with silent.asked():
            assert code_after(worker, number) == 0


@pytest.fixture
def nohup() -> object:
    """Children ignore SIGHUP, as under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("nohup")
def test_sighup_under_nohup_does_not_stop_a_start(start: Start) -> None:
    with Silent() as redis:
        worker = start("worker", LEVELQ_REDIS_URL=redis.redis_url, **LONG)
        with redis.asked():
            worker.send_signal(signal.SIGHUP)
        output, _ = worker.communicate(timeout=30)
    assert worker.returncode == 2
    assert "LEVELQ_REDIS_URL" in output  # it went on, and found the connection closed


@pytest.mark.usefixtures("own_engine", "nohup")
def test_sighup_under_nohup_does_not_stop_a_worker(start: Start) -> None:
    worker = start("worker", "--processes", "1")
    (child,) = workers_at_work(worker, 1)
    worker.send_signal(signal.SIGHUP)
    child.kill()
    assert "starting another in" in first_line(worker)  # noted after the SIGHUP, and not as a stop
    until(lambda: children(worker), what="another child")
    assert code_after(worker, signal.SIGTERM) == 0


@pytest.mark.usefixtures("own_engine")
@pytest.mark.parametrize("number", STOPS)
def test_stop_signal_while_children_are_forked_is_a_clean_stop(number: signal.Signals, start: Start) -> None:
    worker = start("worker", "--processes", "4")
    until(lambda: children(worker), what="the first child")
    assert code_after(worker, number) == 0


@pytest.mark.usefixtures("own_engine")
def test_sigterm_during_a_restart_pause_is_a_clean_stop(start: Start) -> None:
    worker = start("worker", "--processes", "1")
    (child,) = workers_at_work(worker, 1)
    child.kill()
    assert "ended with -9; starting another in" in first_line(worker)
    assert code_after(worker, signal.SIGTERM) == 0


@pytest.mark.usefixtures("own_engine")
def test_sigterm_again_and_again_until_the_end_is_a_clean_stop(start: Start) -> None:
    worker = start("worker", "--processes", "2")
    workers_at_work(worker, 2)
    while worker.poll() is None:
        worker.send_signal(signal.SIGTERM)
    assert worker.returncode == 0


@pytest.mark.usefixtures("own_engine")
def test_worker_reaps_adopted_orphans_and_still_sees_the_ends_of_its_own_children(settings: Settings) -> None:
    with Adopting(["worker", "--processes", "2"], settings.environment()) as worker:
        until(lambda: len(worker.own("levelq-worker")) == 2, what="the workers")
        until(lambda: len(worker.adopted()) == worker.orphans, what="the orphans, and the end of their parent")
        victim, _ = worker.own("levelq-worker")
        victim.kill()
        worker.end_orphans()
        assert worker.process.stderr is not None
        assert f"worker {victim.pid} ended with -9; starting another" in worker.process.stderr.readline()
        until(lambda: not worker.adopted(), what="the end of the orphans")
        until(lambda: len(worker.own("levelq-worker")) == 2, what="another worker")
        worker.process.terminate()
        assert worker.process.wait(30) == 0
        assert worker.process.stderr.read() == ""  # orphans are not logged


def test_up_reaps_adopted_orphans_and_still_sees_the_ends_of_its_servers() -> None:
    with temporary_folder("levelq-") as folder, Adopting(["up", "--data", str(folder)], {}) as up:
        assert up.process.stdout is not None
        assert up.process.stdout.readline().startswith("export")
        until(lambda: len(up.adopted()) == up.orphans, what="the orphans, and the end of their parent")
        up.end_orphans()
        until(lambda: not up.adopted(), what="the end of the orphans")
        (valkey,) = up.own("valkey-server")
        valkey.kill()
        assert up.process.wait(60) == 2
        assert up.process.stderr is not None
        assert "valkey has ended by itself" in up.process.stderr.read()


def test_workers_that_are_restarted_on_broken_tables_say_why_once_and_end_their_supervisor(
    system: System, start: Start
) -> None:
    worker = start("worker", "--processes", "3")
    workers_at_work(worker, 3)
    until(lambda: system.redis.scard("rq:workers") == 3, what="the workers to have begun")
    system.sql("ALTER TABLE user_licenses DROP CONSTRAINT user_licenses_pair_key")
    for child in children(worker):
        child.kill()
    code, output = ended(worker)
    assert code == 2
    (reason,) = [line for line in output.splitlines() if line.startswith("levelq: ")]
    assert "user_licenses has no unique constraint on (specialization_type, user_id)" in reason

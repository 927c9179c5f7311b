"""The demo as a user runs it, and its checks, which must be able to fail."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock
from uuid import uuid4

import httpx
import psutil
import pytest
from redis import Redis

from levelq.demo.burst import TOP_LEVEL, Burst
from levelq.demo.checks import Check, check_report, check_rows
from levelq.demo.demo import call_directly, run_demo, save_picture
from levelq.laboratory.environment import Environment, connected_environment
from levelq.loadtest.sender import SenderThread
from levelq_core import Settings
from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.operations.verify import Options, verify
from levelq_producer import Producer
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.fixtures.keys import KEYS
from tests.support.loadtest import result

SEED = 20
SMALL = Burst(SEED, users=12, commands=1_500)
CHECKS = 16  # with the line that sums up the checker's
CHILD = "import sys; from pathlib import Path; from levelq.demo.demo import run_demo; sys.exit(run_demo({}))"


def begin(arguments: str, mark: str, folder: Path) -> subprocess.Popen[str]:
    """Start a demo whose processes, servers included, all carry a mark in their environment."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.format(arguments)],
        cwd=folder,
        env=os.environ | {"DEMO_TEST_MARK": mark, "LEVELQ_REDIS_URL": "redis://not.ours:1/0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def marked(mark: str) -> list[psutil.Process]:
    """The processes of that demo that still live."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("DEMO_TEST_MARK") == mark:
                found.append(process)
    return found


def test_small_demo_passes_every_check_and_draws(tmp_path: Path) -> None:
    mark = uuid4().hex
    arguments = f"users=50, commands=2000, picture=Path('out/burst.png'), seed={SEED}, with_console=True"
    demo = begin(arguments, mark, tmp_path)
    assert demo.stdout is not None
    first = "".join(itertools.islice(demo.stdout, 2))
    (url,) = re.findall(r"^console · (http://127\.0\.0\.1:\d+)/$", first, re.MULTILINE)
    seen = httpx.get(f"{url}/partitions/PLAYER:1:0", timeout=60)  # while the demo runs; nobody presses Enter for it
    output = first + demo.communicate(timeout=110)[0]
    assert demo.returncode == 0, output
    assert seen.status_code == 200 and "Partition PLAYER:1:0" in seen.text
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    assert (output.count("✔"), output.count("✖"), f"seed {SEED}" in output) == (CHECKS, 0, True)
    picture = (tmp_path / "out/burst.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) > 10_000
    assert marked(mark) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("unmeasured")
def test_interrupted_demo_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    mark = uuid4().hex
    demo = begin("users=50, commands=5_000", mark, tmp_path)
    assert demo.stdout is not None
    lines: list[str] = []
    try:
        for line in demo.stdout:
            lines.append(line)
            if "the workers are up" in line:
                demo.send_signal(number)
                demo.send_signal(number)  # an impatient second one does not cut the clean-up short
        assert demo.wait(60) == 130, "".join(lines)
    finally:
        demo.kill()
        demo.communicate()
    assert lines[-1].strip() == "interrupted: all processes and servers of the demo are stopped"
    assert "Traceback" not in "".join(lines)
    assert marked(mark) == []


def test_demo_without_matplotlib_names_the_extra_for_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    assert save_picture(Path("none.png"), 0.0, result()) == (
        "no picture: matplotlib is not installed; pip install 'levelq[demo]'"
    )


def test_demo_refuses_a_folder_that_holds_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="folder: expected an empty folder or a new one, got 'used'"):
        run_demo(folder=Path("used"))


# ---- the checks


class Played:
    """A small burst that went through producer, lanes, drain and direct calls, in this process."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.environment = environment
        self.record = folder / "sends.jsonl"
        settings = environment.settings
        with Producer(settings.model_copy(update={"database_url": None})) as producer:
            at_once = [arrival._replace(held=False) for arrival in SMALL.arrivals(0, 1)]
            sender = SenderThread(producer, at_once, self.record, 1, 1, threading.Event(), started=1_700_000_000.0)
            sender.run()
            assert (sender.failure, sender.errors) == (None, {})
            assert sender.counts["sent"] + sender.counts["again"] == SMALL.commands
        runtime = Runtime(settings)
        for partition in map(Partition, TOP_LEVEL):
            while environment.lanes.status(partition).waiting:  # a drain ends after a slice
                Drain(runtime, partition).run()
        runtime.close()
        enough = Mock(wait=Mock(side_effect=[False] * 5 + [True]))
        assert len(call_directly(environment.engine, SMALL, enough)) == 5

    def checks(self) -> list[Check]:
        environment, options = self.environment, Options(history=[self.record], at_rest=True)
        report = verify(environment.engine, environment.redis, environment.settings, options)
        return [*check_report(report), *check_rows(environment.engine)]

    def assert_failed(self, name: str) -> None:
        failed = [check.name for check in self.checks() if not check.passed]
        assert any(each.startswith(name) for each in failed), failed


@pytest.fixture
def played(settings: Settings, redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Played]:
    with connected_environment("demo test", settings, 0, tmp_path, embedded=True) as environment:
        yield Played(environment, tmp_path)


def test_checks_pass_on_what_levelq_did(played: Played) -> None:
    for check in played.checks():
        assert check.passed, check
        empty = "quarantined" in check.name or check.name.startswith("I8")  # right if there are none
        assert check.detail[0] != "0" or empty, f"{check.name}: looked at nothing"


def test_commands_are_decided_as_the_burst_means_them(played: Played) -> None:
    impossible = {send.number for send in SMALL.sends() if -(2**31 - 1) in send.fields.values()}
    with played.environment.engine.connect() as connection:
        ids = connection.exec_driver_sql("SELECT command_id FROM levelq_ledger WHERE status = 'rejected'").scalars()
        assert {command_id.int & 0xFFFFFFFF for command_id in ids} == impossible != set()


_ONE = "(SELECT min(id) FROM levelq_ledger WHERE status = 'applied')"
_RISEN = "(SELECT min(user_license_id) FROM license_progressions)"
_TOTAL, _LEVEL = "SQL: every total", "SQL: both levels"


@pytest.mark.parametrize(
    ("tampering", "name"),
    [
        (f"DELETE FROM levelq_ledger WHERE id = {_ONE}", "I1 nothing lost"),
        (
            "ALTER TABLE levelq_ledger DROP CONSTRAINT levelq_ledger_command_id_key;"
            f" CREATE TEMP TABLE copied AS SELECT * FROM levelq_ledger WHERE id = {_ONE};"
            " UPDATE copied SET id = -id; INSERT INTO levelq_ledger SELECT * FROM copied",
            "I2 nothing doubled",
        ),
        (f"UPDATE levelq_ledger SET xp = xp + 1 WHERE id = {_ONE}", "I2"),
        (f"UPDATE levelq_ledger SET command_id = gen_random_uuid() WHERE id = {_ONE}", "I1 nothing lost"),
        (
            "WITH pair AS (SELECT user_id, specialization, min(id) AS a, max(id) AS z FROM levelq_ledger"
            " WHERE source = 'queue' GROUP BY 1, 2 HAVING count(*) > 1 LIMIT 1),"
            " gone AS (UPDATE levelq_ledger SET id = -id FROM pair WHERE levelq_ledger.id = pair.z) SELECT 1",
            "I5 nothing reordered",
        ),
        (f"UPDATE levelq_ledger SET status = 'rejected' WHERE id = {_ONE}", _TOTAL),
        ("UPDATE levelq_ledger SET status = 'applied' WHERE status = 'rejected'", "I2"),
        ("UPDATE specialization_progress SET total_xp = total_xp + 1 WHERE id = 1", _TOTAL),
        ("DELETE FROM specialization_progress WHERE id = 1", _TOTAL),
        ("UPDATE specialization_progress SET current_level = current_level + 1 WHERE id = 1", _LEVEL),
        ("DELETE FROM specialization_progress WHERE id = 1", _LEVEL),
        (f"UPDATE user_licenses SET max_achieved_level = current_level - 1 WHERE id = {_RISEN}", "I3"),
        (
            "INSERT INTO license_progressions (user_license_id, from_level, to_level, requirements_met)"
            f" SELECT id, current_level, current_level + 1, '{{}}' FROM user_licenses WHERE id = {_RISEN}",
            "I4 one progression",
        ),
        (
            "DELETE FROM license_progressions WHERE id = (SELECT min(id) FROM license_progressions)",
            "I4 one progression",
        ),
        (f"UPDATE levelq_ledger SET after[4] = after[4] + 1 WHERE id = {_ONE}", "I2"),
        (f"UPDATE levelq_ledger SET before[1] = 9 WHERE id = {_ONE}", _LEVEL),
        (f"UPDATE levelq_ledger SET to_level = to_level + 1 WHERE id = {_ONE}", "I4"),
        (
            "UPDATE specialization_progress SET current_level = 9 WHERE id = 1;"
            " UPDATE user_licenses l SET current_level = 9 FROM specialization_progress p"
            " WHERE p.id = 1 AND l.user_id = p.student_id AND l.specialization_type = p.specialization_id",
            _LEVEL,
        ),
        ("UPDATE user_licenses SET max_achieved_level = max_achieved_level + 1 WHERE id = 1", _LEVEL),
        ("UPDATE levelq_ledger SET after[4] = 0 WHERE source = 'direct'", "I2"),
        (
            "INSERT INTO levelq_quarantine (specialization, reason, raw, length, sha256)"
            " VALUES ('PLAYER', 'garbage', 'x', 1, 'x')",
            "SQL: nothing is quarantined",
        ),
    ],
)
def test_tampered_database_fails_a_check(played: Played, tampering: str, name: str) -> None:
    with played.environment.engine.begin() as connection:
        connection.exec_driver_sql(tampering)
    played.assert_failed(name)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda played: played.environment.redis.rpush(KEYS.lane(Partition("COACH"), 1), "x"), "I1"),
        (lambda played: played.environment.redis.zadd(KEYS.of(Partition("COACH"), "claimed"), {"1": 1}), "I8"),
    ],
    ids=["left in a lane", "claimed"],
)
def test_other_faults_fail_a_check(played: Played, change: Callable[[Played], object], name: str) -> None:
    change(played)
    played.assert_failed(name)


def test_burst_repeats_from_its_seed_and_gives_each_user_one_sender() -> None:
    sends = SMALL.sends()
    assert sends == SMALL.sends() != SMALL._replace(seed=SEED + 1).sends()
    shares = [[send for one in SMALL.arrivals(thread, 2) for send in one.commands] for thread in (0, 1)]
    assert sorted(map(str, shares[0] + shares[1])) == sorted(map(str, sends))
    assert not {send.lane[0] for send in shares[0]} & {send.lane[0] for send in shares[1]}
    again = [send for send in sends if send.again]
    first = {send.number: send for send in sends if not send.again}
    assert {first[send.number].fields == send.fields for send in again} == {True, False}  # duplicates and conflicts
    assert len({send.lane[0] for send in sends}) == SMALL.users
    assert {send.kind.__name__ for send in sends} == {"LevelUp", "SetLevel", "SyncLevels", "Adjust", "Reset"}

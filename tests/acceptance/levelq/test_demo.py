"""The demo as a stranger runs it, and its verifier, which must be able to say no."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg
import pytest
from redis import Redis
from rich.console import Console
from sqlalchemy.orm import Session

from levelq.demo import calling, producing
from levelq.demo.measuring import Batch, rate_curve
from levelq.demo.record import Record
from levelq.demo.reference import Learner, apply
from levelq.demo.running import Demo
from levelq.demo.scenario import TOP_LEVEL, Scenario, Sent
from levelq.demo.verifying import Check, verify
from levelq_core import Settings
from levelq_core.database.engine import engine_for
from levelq_core.keys import Partition
from levelq_producer import Handle, Producer
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.fixtures.keys import KEYS

SEED = 20
SMALL = Scenario(SEED, users=12, commands=1_500, started_ms=1_700_000_000_000)
CHECKS = 19
CHILD = "import sys; from pathlib import Path; from levelq.demo import run_demo; sys.exit(run_demo({}))"


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
    """The processes that still live and belong to that demo."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DEMO_TEST_MARK") == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_a_small_demo_passes_every_check_and_draws(tmp_path: Path) -> None:
    mark = uuid4().hex
    demo = begin(f"users=50, commands=2000, picture=Path('out/burst.png'), seed={SEED}", mark, tmp_path)
    output, _ = demo.communicate(timeout=110)
    assert demo.returncode == 0, output
    assert output.count("✔") == CHECKS
    assert "✖" not in output
    assert f"seed {SEED}" in output
    picture = (tmp_path / "out/burst.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 10_000
    assert marked(mark) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("unmeasured")
def test_an_interrupted_demo_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    mark = uuid4().hex
    demo = begin("users=50, commands=5_000", mark, tmp_path)
    assert demo.stdout is not None
    lines: list[str] = []
    try:
        for line in demo.stdout:
            lines.append(line)
            if "the workers are up" in line:
                demo.send_signal(number)
                demo.send_signal(number)  # an impatient second one does not cut the cleaning up short
        assert demo.wait(60) == 130, "".join(lines)
    finally:
        demo.kill()
        demo.communicate()
    assert lines[-1].strip() == "interrupted: all processes and servers of the demo are stopped"
    assert "Traceback" not in "".join(lines)
    assert marked(mark) == []


def test_without_matplotlib_it_says_how_to_get_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "levelq.demo.picture", raising=False)
    told = io.StringIO()
    with ExitStack() as stack:
        demo = Demo(Scenario(1, 1, 1, 0), 1, Path("none.png"), Console(file=told, width=100), stack)
        demo.draw(None, None)  # type: ignore[arg-type]
    assert told.getvalue() == "no picture: matplotlib is not installed; pip install 'levelq[demo]'\n"


# ---- the verifier


class Played:
    """A small scenario that went through producer, lanes, drain and direct calls, in this process."""

    def __init__(self, settings: Settings, redis: Redis, database: psycopg.Connection[Any]) -> None:
        self.redis = redis
        self.database = database
        self.record = Record(SMALL.sends())
        report: dict[str, Any] = {"spans": [], "acknowledged": [], "errors": [], "answers": []}
        asked: list[Handle] = []
        runtime = Runtime(settings)
        with Producer(settings.model_copy(update={"database_url": None})) as producer:
            asked += producing.send(producer, producing.windows_of(SMALL.sends()), report)
            for name in TOP_LEVEL:
                Drain(runtime, Partition(name)).run()
            report["answers"] = [producing.answer_of(handle) for handle in asked]
        self.record.add_producer(report)
        runtime.close()
        engine = engine_for(settings)
        with Session(engine) as session:
            self.record.add_caller({"calls": calling.call(session, SMALL, 5)})
        engine.dispose()

    def checks(self) -> list[Check]:
        return verify(self.database, self.redis, self.record, KEYS.namespace)

    def failed(self) -> list[str]:
        return [check.name for check in self.checks() if not check.passed]


@pytest.fixture
def played(settings: Settings, redis: Redis, capsys: pytest.CaptureFixture[str]) -> Iterator[Played]:
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url, autocommit=True) as database:
        yield Played(settings, redis, database)


def test_what_levelq_did_passes(played: Played) -> None:
    assert played.failed() == []
    for check in played.checks():
        assert check.detail[0] != "0" or "left" in check.detail, f"{check.name}: looked at nothing"


_ONE = "(SELECT min(id) FROM levelq_ledger WHERE status = 'applied')"
_RISEN = "(SELECT min(user_license_id) FROM license_progressions)"


@pytest.mark.parametrize(
    ("tampering", "name"),
    [
        (f"DELETE FROM levelq_ledger WHERE id = {_ONE}", "nothing lost"),
        (
            "ALTER TABLE levelq_ledger DROP CONSTRAINT levelq_ledger_command_id_key;"
            f" CREATE TEMP TABLE copied AS SELECT * FROM levelq_ledger WHERE id = {_ONE};"
            " UPDATE copied SET id = -id; INSERT INTO levelq_ledger SELECT * FROM copied",
            "nothing doubled",
        ),
        (f"UPDATE levelq_ledger SET xp = xp + 1 WHERE id = {_ONE}", "nothing invented"),
        (f"UPDATE levelq_ledger SET command_id = gen_random_uuid() WHERE id = {_ONE}", "nothing invented"),
        (
            "WITH pair AS (SELECT user_id, specialization, min(id) AS a, max(id) AS z FROM levelq_ledger"
            " WHERE source = 'queue' GROUP BY 1, 2 HAVING count(*) > 1 LIMIT 1),"
            " gone AS (UPDATE levelq_ledger SET id = -id FROM pair WHERE levelq_ledger.id = pair.z) SELECT 1",
            "nothing reordered",
        ),
        (f"UPDATE levelq_ledger SET status = 'rejected' WHERE id = {_ONE}", "rejected"),
        ("UPDATE levelq_ledger SET status = 'applied' WHERE status = 'rejected'", "rejected"),
        ("UPDATE specialization_progress SET total_xp = total_xp + 1 WHERE id = 1", "every total"),
        ("DELETE FROM specialization_progress WHERE id = 1", "every total"),
        ("UPDATE specialization_progress SET current_level = current_level + 1 WHERE id = 1", "progress level"),
        ("DELETE FROM specialization_progress WHERE id = 1", "progress level"),
        (f"UPDATE user_licenses SET max_achieved_level = current_level - 1 WHERE id = {_RISEN}", "no level is above"),
        (
            "INSERT INTO license_progressions (user_license_id, from_level, to_level, requirements_met)"
            f" SELECT id, current_level, current_level + 1, '{{}}' FROM user_licenses WHERE id = {_RISEN}",
            "progressions form",
        ),
        (
            "DELETE FROM license_progressions WHERE id = (SELECT min(id) FROM license_progressions)",
            "progressions form",
        ),
        (f"UPDATE levelq_ledger SET after[4] = after[4] + 1 WHERE id = {_ONE}", "each decision"),
        (f"UPDATE levelq_ledger SET before[1] = 9 WHERE id = {_ONE}", "each decision"),
        (f"UPDATE levelq_ledger SET to_level = to_level + 1 WHERE id = {_ONE}", "each decision"),
        (
            "UPDATE specialization_progress SET current_level = 9 WHERE id = 1;"
            " UPDATE user_licenses l SET current_level = 9 FROM specialization_progress p"
            " WHERE p.id = 1 AND l.user_id = p.student_id AND l.specialization_type = p.specialization_id",
            "each pair of rows",
        ),
        ("UPDATE user_licenses SET max_achieved_level = max_achieved_level + 1 WHERE id = 1", "each pair of rows"),
        (
            "UPDATE levelq_ledger SET after[4] = 0 WHERE source = 'direct'",
            "direct calls",
        ),
        (
            "INSERT INTO levelq_quarantine (specialization, reason, raw, length, sha256)"
            " VALUES ('PLAYER', 'rubbish', 'x', 1, 'x')",
            "at rest",
        ),
    ],
)
def test_the_verifier_sees_a_tampered_database(played: Played, tampering: str, name: str) -> None:
    played.database.execute(tampering)
    assert any(failed.startswith(name) for failed in played.failed())


def _unanswered(played: Played) -> None:
    played.record.answers.pop(0)


def _twice(played: Played) -> None:
    played.record.answers = [answer._replace(duplicate=False) for answer in played.record.answers]


def _no_conflict(played: Played) -> None:
    played.record.answers = [answer._replace(error=None) for answer in played.record.answers]


def _refused_call(played: Played) -> None:
    played.record.calls[0] = played.record.calls[0]._replace(result={"success": False})


def _unacknowledged(played: Played) -> None:
    played.record.acknowledged.pop()


def _left_in_a_lane(played: Played) -> None:
    played.redis.rpush(KEYS.lane(Partition("COACH"), 1), "x")


def _left_claimed(played: Played) -> None:
    played.redis.zadd(KEYS.of(Partition("COACH"), "claimed"), {"1": 1})


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (_unanswered, "s"),
        (_twice, "sent twice"),
        (_no_conflict, "same id"),
        (_refused_call, "direct calls"),
        (_unacknowledged, "every send"),
        (_left_in_a_lane, "at rest"),
        (_left_claimed, "at rest"),
    ],
)
def test_the_verifier_sees_what_else_went_wrong(played: Played, change: Callable[[Played], None], name: str) -> None:
    change(played)
    assert any(failed.startswith(name) for failed in played.failed())


# ---- its own arithmetic


def test_a_scenario_is_the_same_from_the_same_seed_and_each_user_has_one_producer() -> None:
    sends = SMALL.sends()
    assert sends == SMALL.sends() != SMALL._replace(seed=SEED + 1).sends()
    shares = [SMALL.share(0, 2), SMALL.share(1, 2)]
    assert sorted(shares[0] + shares[1]) == sorted(sends)
    assert not {sent.user_id for sent in shares[0]} & {sent.user_id for sent in shares[1]}
    assert {sent.fate for sent in sends} == {"applied", "rejected", "duplicate", "conflict"}
    assert len({sent.user_id for sent in sends}) == SMALL.users


def test_the_reference_knows_the_rules() -> None:
    base = Sent(uuid4(), 1, "PLAYER", "level_up", "applied")
    risen = apply(Learner(), base._replace(xp=2600, sessions=3))
    assert risen == Learner(3, 3, 3, 2600, 3)
    assert apply(risen, base._replace(xp=10**6)) == Learner(8, 8, 8, 1_002_600, 3)
    lowered = apply(risen, base._replace(kind="set_level", level=1, xp=-2600))
    assert lowered == Learner(1, 1, 3, 0, 3)
    assert apply(risen, base._replace(kind="set_level", level=1, xp=-2601)) is None
    assert apply(risen, base._replace(kind="set_level", level=9)) is None
    assert apply(risen, base._replace(theory=1)) is None
    assert apply(risen, base._replace(kind="sync_levels")) == risen
    assert apply(Learner(), base._replace(kind="sync_levels")) is None
    set_high = Learner(5, 5, 5, 2600, 3)
    assert apply(set_high, base._replace(kind="adjust", xp=-100)) == Learner(5, 5, 5, 2500, 3)
    assert apply(set_high, base._replace(kind="adjust", xp=-101, earned=True)) == Learner(2, 2, 5, 2499, 3)
    assert apply(set_high, base._replace(kind="adjust", xp=-2601)) is None
    assert apply(set_high, base._replace(kind="reset", xp=1000, earned=True)) == Learner(2, 2, 5, 1000)
    assert apply(set_high, base._replace(kind="reset", sessions=1, level=3)) == Learner(3, 3, 5, 0, 1)
    assert apply(set_high, base._replace(kind="reset", level=9)) is None


def test_a_batch_is_spread_over_its_transaction() -> None:
    batches = [Batch(0.0, 0.5, 100, 100), Batch(0.5, 1.0, 300, 300), Batch(2.0, 2.5, 50, 60)]
    assert max(rate_curve(batches, 0.0, 2.5, 1.0)) == 400
    assert rate_curve([], 0.0, 0.0, 0.5) == [0]
    assert rate_curve(batches, 0.0, 2.5, 0.5)[:5] == [200, 600, 0, 0, 100]

"""Old code beside the queue: verify reports what erases an applied command, and nothing of what locks or adds."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq.cli.options import time_of
from levelq_core import ConfigurationError, Settings
from tests.support.db_check import query
from tests.support.verify import World, assert_clean, up, verify_command, violations_of, world_on

READ = text("SELECT total_xp FROM specialization_progress WHERE student_id = :user AND specialization_id = 'PLAYER'")
LOCK = text(f"{READ.text} FOR UPDATE")
WRITE = text("UPDATE specialization_progress SET total_xp = :xp WHERE student_id = :user")
ADD = text("UPDATE specialization_progress SET total_xp = total_xp + :xp WHERE student_id = :user")


@pytest.fixture
def world(settings: Settings, redis: Redis, engine: Engine, tmp_path: Path, database_url: str) -> Iterator[World]:
    own = settings.model_copy(update={"database_url": database_url})
    with world_on(own, redis, engine, tmp_path) as made:
        yield made


def read_then_write(world: World, user: int, xp: int, meanwhile: int) -> None:
    """The old code: it reads, adds in Python and writes; levelq applies a command between its read and its write."""
    with Session(world.engine) as session:
        seen = session.execute(READ, {"user": user}).scalar_one()
        session.commit()
        world.apply(up(user, meanwhile))
        session.execute(WRITE, {"user": user, "xp": seen + xp})
        session.commit()


def test_read_add_write_that_erases_a_command_is_reported_with_user_total_amount_and_times(world: World) -> None:
    for user in (1, 2, 3):
        world.apply(up(user, 100))
    read_then_write(world, 1, 10, meanwhile=50)  # 100 -> 150 -> 110, and nothing follows
    read_then_write(world, 2, 10, meanwhile=50)  # the same, and a command follows
    world.apply(up(2, 5))
    read_then_write(world, 3, 80, meanwhile=50)  # 100 -> 150 -> 180: this looks like an addition of 30
    report = world.verify(foreign_writes=True)
    assert {found[:4] for found in violations_of(report)} == {("I2", "lost", user, "PLAYER") for user in (1, 2)}
    assert report.violations == 2
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    details = {found.user_id: found.detail for found in report.examples}
    assert re.fullmatch(rf"total_xp fell by 40 \(150 to 110\) between {time} and {time}, in the table", details[1])
    assert re.fullmatch(rf"total_xp fell by 40 \(150 to 110\) between {time} and {time}, its next command", details[2])
    (grew,) = report.notes
    assert [(found.user_id, found.detail[:40]) for found in grew.examples] == [
        (3, "total_xp grew by 30 (150 to 180) between")
    ]
    assert "looks the same" in grew.hint
    strict = world.verify()
    assert (strict.broken, strict.violations) == ({"I2"}, 3)
    code, output = verify_command(world, "--foreign-writes")
    output = " ".join(output.split())
    assert code == 1
    assert "I2 lost: user 1, PLAYER, command " in output
    assert "total_xp fell by 40 (150 to 110)" in output
    assert "total_xp grew by 30 (150 to 180)" in output
    assert "SET total_xp = total_xp + n" in output


@pytest.mark.parametrize("style", ["locks", "adds in SQL"])
def test_old_code_that_locks_or_adds_in_sql_erases_nothing(world: World, style: str) -> None:
    users, failures = range(1, 6), list[BaseException]()
    world.apply(*(up(user, 100) for user in users))

    def old_code() -> None:
        try:
            with Session(world.engine) as session:
                for user in [*users] * 20:
                    if style == "locks":
                        seen = session.execute(LOCK, {"user": user}).scalar_one()
                        session.execute(WRITE, {"user": user, "xp": seen + 3})
                    else:
                        session.execute(ADD, {"user": user, "xp": 3})
                    session.commit()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=old_code)
    thread.start()
    for _ in range(10):
        world.apply(*(up(user, 7) for user in users))
    thread.join()
    assert failures == []
    assert_clean(world.verify(foreign_writes=True))
    assert query(world.engine, "SELECT total_xp FROM specialization_progress") == [(100 + 20 * 3 + 10 * 7,)] * 5


def test_thousands_of_violations_are_cut_with_their_number_on_a_narrow_terminal(world: World) -> None:
    world.sql(
        "INSERT INTO specialization_progress (student_id, specialization_id, current_level, created_at, updated_at) "
        "SELECT n, 'PLAYER', 1, now(), now() FROM generate_series(1, 2000) n"
    )
    environment = os.environ | world.settings.environment() | {"COLUMNS": "80"}
    levelq = Path(sys.executable).with_name("levelq")
    done = subprocess.run([levelq, "verify"], env=environment, capture_output=True, text=True, check=False)
    output = done.stdout
    assert done.returncode == 1
    assert "... and 1,980 more of I3" in output
    assert "2,000 violations of I3" in output
    assert output.count("I3 out of step:") == 20
    assert len(output.splitlines()) < 200
    table = [line for line in output.splitlines() if not line.startswith(("I3 ", "... and", "note:"))]
    assert max(map(len, table)) <= 80


@pytest.mark.parametrize("since", ["1d", "2026-01-31T06:00Z", "2026-01-31 06:00", "2026-01-31", "0001-01-01"])
def test_since_is_an_age_or_a_time(world: World, since: str) -> None:
    world.apply(up(1, 5))
    code, output = verify_command(world, "--since", since)
    assert code == 0
    assert "Every invariant holds." in output


@pytest.mark.parametrize("since", ["yesterday", "1", "-1d", "9999-01-01", ""])
def test_since_that_is_neither_is_refused_with_what_was_expected(since: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"--since: expected .*got '{since}'"):
        time_of("--since", since)

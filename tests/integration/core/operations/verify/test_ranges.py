"""The checker looks at ranges of users and pages of ids: what is wrong is found wherever the borders lie."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Connection, Engine, event, text

from levelq_core import LevelUp, Settings, SyncLevels
from levelq_core.operations.verify import Options, Report, verify
from tests.support.coupler import drain_all, push
from tests.support.db_check import execute
from tests.support.verify import World, assert_clean, up, violations_of

FAR = 2**62  # ids may lie far apart
WAVES = (10, 1500, 30)
USERS = (1, 2, 3, FAR)
BAD = (2, FAR)
DAY_AGO = datetime.now(UTC) - timedelta(days=1)
MODES: list[dict[str, Any]] = [{}, {"range_rows": 1}, {"since": DAY_AGO, "range_rows": 2}]
LARGER: list[dict[str, Any]] = [{}, {"range_rows": 10}, {"since": DAY_AGO, "range_rows": 10}]


def send_waves(world: World, users: Iterable[int]) -> list[dict[int, LevelUp]]:
    """Three waves of a command per user, each wave one batch; the second one brings a level."""
    made = [{user: up(user, xp) for user in users} for xp in WAVES]
    for wave in made:
        world.apply(*wave.values())
    return made


@pytest.fixture
def waves(world: World) -> list[dict[int, LevelUp]]:
    return send_waves(world, USERS)


ROW = "WHERE user_id = :user AND xp ="
PROGRESS = "UPDATE specialization_progress SET {} WHERE student_id = :user"
LICENSE = "UPDATE user_licenses SET {} WHERE user_id = :user"

# What is done to a user, and what is then found: (invariant, verdict, the wave whose command is named).
Tampering = tuple[list[str], list[tuple[str, str, int]]]
TAMPERINGS: dict[str, Tampering] = {
    "a command in the ledger twice": (
        ["ALTER TABLE levelq_ledger DROP CONSTRAINT IF EXISTS levelq_ledger_command_id_key",
         "CREATE TEMPORARY TABLE copied AS SELECT * FROM levelq_ledger WHERE user_id = :user AND xp = 30",
         "UPDATE copied SET id = id + 1000, xp = 0, before = after",
         "INSERT INTO levelq_ledger SELECT * FROM copied",
         "DROP TABLE copied"],
        [("I2", "duplicated", 2)]),
    "a command that added something else": ([f"UPDATE levelq_ledger SET xp = 11 {ROW} 10"], [("I2", "miscounted", 0)]),
    "a total below the last command's": ([PROGRESS.format("total_xp = total_xp - 7")], [("I2", "lost", 2)]),
    "a total that lacks the last command": ([PROGRESS.format("total_xp = total_xp - 30")], [("I2", "lost", 2)]),
    "a total above the last command's": ([PROGRESS.format("total_xp = total_xp + 7")], [("I2", "miscounted", 2)]),
    "a total that fell between two commands": (
        [f"UPDATE levelq_ledger SET before[4] = before[4] - 5, after[4] = after[4] - 5 {ROW} 30",
         PROGRESS.format("total_xp = total_xp - 5")],
        [("I2", "lost", 1)]),
    "a total that grew between two commands": (
        [f"UPDATE levelq_ledger SET before[4] = before[4] + 5, after[4] = after[4] + 5 {ROW} 30",
         PROGRESS.format("total_xp = total_xp + 5")],
        [("I2", "miscounted", 2)]),
    "no progress row": (
        ["DELETE FROM specialization_progress WHERE student_id = :user"],
        [("I2", "lost", 2), ("I3", "out of step", 2), ("I6", "unexplained", 2)]),
    "a command that left the levels apart": (
        [f"UPDATE levelq_ledger SET after[1] = 7 {ROW} 1500", f"UPDATE levelq_ledger SET before[1] = 7 {ROW} 30"],
        [("I3", "out of step", 1)]),
    "rows that are apart": (
        [PROGRESS.format("current_level = 3")], [("I3", "out of step", 2), ("I6", "unexplained", 2)]),
    "a highest level that fell": (
        [LICENSE.format("max_achieved_level = 1")], [("I3", "out of step", 2), ("I6", "unexplained", 2)]),
    "no progression": (
        ["DELETE FROM license_progressions p USING user_licenses l "
         "WHERE l.id = p.user_license_id AND l.user_id = :user"],
        [("I4", "broken chain", 1)]),
    "levels that changed between two commands": (
        [f"UPDATE levelq_ledger SET before[3] = 3, after[3] = 3 {ROW} 30", LICENSE.format("max_achieved_level = 3")],
        [("I6", "unexplained", 2)]),
    "levels that changed after the last": ([LICENSE.format("max_achieved_level = 5")], [("I6", "unexplained", 2)]),
    "a batch that another one interrupted": (
        ["UPDATE levelq_ledger SET (batch, xid) = (SELECT l.batch, l.xid FROM levelq_ledger l "
         f"WHERE l.user_id = :user AND l.xp = 30) {ROW} 10"],
        [("I6", "interleaved", 2)]),
}  # fmt: skip


def test_what_is_wrong_is_found_in_every_range_and_in_nothing_else(world: World) -> None:
    """Each tampering on two users of their own, far apart, and users between them whose rows are right."""
    bad = {name: (2 * n, FAR + 2 * n) for n, name in enumerate(TAMPERINGS, 1)}
    waves = send_waves(world, [user for first, second in bad.values() for user in (first, first + 1, second)])
    assert_clean(world.verify(at_rest=True, range_rows=10))
    expected = []
    for name, (statements, found) in TAMPERINGS.items():
        for user in bad[name]:
            with world.engine.begin() as connection:
                for statement in statements:
                    connection.execute(text(statement), {"user": user} if ":user" in statement else {})
            expected += [(kind, verdict, user, "PLAYER", waves[n][user].command_id) for kind, verdict, n in found]
    for options in LARGER:
        report = world.verify(**options)
        assert sorted(violations_of(report), key=str) == sorted(expected, key=str), options
        assert report.violations == len(expected)


def test_batch_of_two_transactions_whose_users_are_in_two_ranges_is_found(
    world: World, waves: list[dict[int, LevelUp]]
) -> None:
    world.sql("UPDATE levelq_ledger SET xid = xid + 1 WHERE user_id <= 2 AND xp = 1500")
    for options in MODES:
        (found,) = violations_of(world.verify(**options))
        assert found[:2] == ("I6", "interleaved")
        assert found[4] in {waves[1][user].command_id for user in (3, FAR)}


def test_lost_unexpected_and_reordered_commands_are_found_in_every_range(world: World) -> None:
    first, second = ({user: up(user, xp) for user in USERS} for xp in (1, 2))
    push(world.worker, [command for user in USERS for command in (second[user], first[user])])
    world.drain()
    world.recorder.sent([command for user in USERS for command in (first[user], second[user])], [None] * 8)
    lost, unexpected = {user: up(user, 3) for user in BAD}, {user: up(user, 4) for user in BAD}
    world.recorder.sent(list(lost.values()), [None, None])
    push(world.worker, list(unexpected.values()))
    world.drain()
    expected = [
        *(("I1", "lost", user, "PLAYER", command.command_id) for user, command in lost.items()),
        *(("I1", "unexpected", user, "PLAYER", command.command_id) for user, command in unexpected.items()),
        *(("I5", "reordered", user, "PLAYER", command.command_id) for user, command in second.items()),
    ]
    for options in MODES:
        assert sorted(violations_of(world.verify(**options)), key=str) == sorted(expected, key=str), options


class LaneBatch:
    """What a verification does: its transactions, and the rows that it loads at a time."""

    def __init__(self, engine: Engine) -> None:
        self.transactions, self.most_rows, self.loads = 0, 0, 0
        event.listen(engine, "commit", self._committed)
        event.listen(engine, "after_cursor_execute", self._executed)

    def _committed(self, connection: Connection) -> None:
        self.transactions += 1

    def _executed(self, connection: Connection, cursor: Any, statement: str, *rest: Any) -> None:
        if "INSERT INTO levelq_verify_" in statement:
            self.loads += 1
            self.most_rows = max(self.most_rows, cursor.rowcount)


_LEDGER = """
    INSERT INTO levelq_ledger (command_id, user_id, specialization, kind, status, digest, xp, sessions, projects,
        theory_hours, practice_hours, from_level, to_level, before, after, batch, xid, source)
    SELECT gen_random_uuid(), u, 'PLAYER', 'level_up', 'applied', '', 1, 0, 0, 0, 0, 1, 1,
           ARRAY[1, 1, 1, n, 0, 0, 0, 0], ARRAY[1, 1, 1, n + 1, 0, 0, 0, 0], lpad(to_hex(n / 3), 32, '0')::uuid, n / 3,
           'worker'
    FROM generate_series(0, CAST(:per AS int) - 1) n CROSS JOIN generate_series(CAST(:first AS bigint), :last) u
"""
_USERS = "FROM generate_series(CAST(:first AS bigint), :last) u"
_ROWS = (
    f"INSERT INTO specialization_progress (student_id, specialization_id, total_xp) SELECT u, 'PLAYER', :per {_USERS}",
    f"INSERT INTO user_licenses (user_id, specialization_type) SELECT u, 'PLAYER' {_USERS}",
)


def fill(engine: Engine, first: int, last: int, per: int) -> None:
    with engine.begin() as connection:
        for statement in (_LEDGER, *_ROWS):
            values = {"first": first, "last": last, "per": per}
            connection.execute(text(statement), {k: v for k, v in values.items() if f":{k}" in statement})


def forbid_temporary_files(engine: Engine) -> None:
    """Let PostgreSQL refuse every sort or hash that does not fit into memory."""
    execute(engine, f"ALTER DATABASE {engine.url.database} SET temp_file_limit = 0")
    engine.dispose()


def counted(report: Report) -> set[int]:
    """How many commands each question of I2 looked at; one of them looks at lanes."""
    return {check.checked for check in report.checks if check.invariant == "I2" and "lane with" not in check.what}


def test_four_times_the_rows_take_four_times_the_work_and_no_more_memory(
    settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    forbid_temporary_files(own_engine)
    work, users, done = LaneBatch(own_engine), 0, list[tuple[int, int]]()
    for upto in (250, 1000):
        fill(own_engine, users + 1, upto, per=10)
        users = upto
        before = (work.transactions, work.loads)
        report = verify(own_engine, redis, settings, Options(range_rows=500))
        assert_clean(report)
        assert counted(report) == {10 * users}
        done.append((work.transactions - before[0], work.loads - before[1]))
    assert done[1][0] <= 4 * done[0][0]
    assert done[1][1] <= 4 * done[0][1]
    assert work.most_rows <= 500


def test_one_user_with_most_of_the_rows_is_not_loaded_but_read_where_it_is(
    settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    forbid_temporary_files(own_engine)
    fill(own_engine, 1, 20, per=10)
    fill(own_engine, 21, 21, per=5_000)
    fill(own_engine, 2**60, 2**60 + 20, per=10)
    work = LaneBatch(own_engine)
    report = verify(own_engine, redis, settings, Options(range_rows=500))
    assert_clean(report)
    assert counted(report) == {5_000 + 41 * 10}
    assert work.most_rows <= 500
    execute(own_engine, "UPDATE levelq_ledger SET before[4] = 7 WHERE user_id = 21 AND before[4] = 3000")
    report = verify(own_engine, redis, settings, Options(range_rows=500))
    assert [example[1:3] for example in report.examples] == [("miscounted", 21), ("lost", 21)]


def test_both_lanes_of_a_user_too_large_to_load_are_looked_at(world: World) -> None:
    coach = [LevelUp(user_id=2, specialization="COACH", xp_gained=400, theory_hours=1) for _ in range(12)]
    for n in range(12):
        world.apply(up(2, 300), coach[n], *(up(user, 5) for user in (1, 3)))
        drain_all(world.worker, "COACH")
    assert_clean(world.verify(at_rest=True, range_rows=5))
    world.sql("UPDATE specialization_progress SET total_xp = 0 WHERE specialization_id = 'COACH'")
    report = world.verify(range_rows=5)
    assert violations_of(report) == [("I2", "lost", 2, "COACH", coach[-1].command_id)]


# --since


def make_older(world: World, days: int, condition: str) -> None:
    world.sql(f"UPDATE levelq_ledger SET applied_at = applied_at - interval '{days} days' WHERE {condition}")


def test_since_looks_at_later_rows_and_at_their_users_only(world: World, waves: list[dict[int, LevelUp]]) -> None:
    make_older(world, 2, "true")
    later = up(3, 7)
    world.apply(later)
    world.path.write_text("")
    # Wrong, but of before; of a user who was not touched since; of one who was.
    world.sql("UPDATE levelq_ledger SET xp = 11 WHERE xp = 10")
    world.sql("UPDATE specialization_progress SET total_xp = total_xp - 3, current_level = 1 WHERE student_id = 2")
    assert_clean(world.verify(partial_history=True, since=DAY_AGO))
    world.sql("UPDATE specialization_progress SET total_xp = total_xp - 7 WHERE student_id = 3")
    report = world.verify(partial_history=True, since=DAY_AGO)
    assert violations_of(report) == [("I2", "lost", 3, "PLAYER", later.command_id)]
    assert counted(report) == {1}
    assert world.verify(partial_history=True).violations > 1


def test_since_finds_what_changed_between_a_command_of_before_and_the_first_one_after(
    world: World, waves: list[dict[int, LevelUp]]
) -> None:
    make_older(world, 2, "true")
    world.sql("UPDATE specialization_progress SET total_xp = total_xp - 9 WHERE student_id = 2")
    world.apply(up(2, 4))
    for rows in (1, 20_000):
        report = world.verify(since=DAY_AGO, range_rows=rows)
        assert violations_of(report) == [("I2", "lost", 2, "PLAYER", waves[2][2].command_id)]
        assert "total_xp fell by 9 (1540 to 1531)" in report.examples[0].detail


def test_since_on_an_empty_ledger_and_on_one_without_later_rows_finds_nothing(world: World) -> None:
    assert_clean(world.verify(since=DAY_AGO))
    world.apply(up(1, 5))
    make_older(world, 3, "true")
    assert_clean(world.verify(since=DAY_AGO))


# Missing indexes


def test_a_missing_index_is_named_with_the_statement_that_makes_it(
    settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    fill(own_engine, 1, 100, per=10)
    with own_engine.begin() as connection:
        connection.execute(text("DROP INDEX license_progressions_license, levelq_ledger_user"))
        connection.execute(text("UPDATE specialization_progress SET total_xp = 0 WHERE student_id = 77"))
    report = verify(own_engine, redis, settings, Options(range_rows=40))
    assert [example.user_id for example in report.examples] == [77]
    statements = [remark.partition("files: ")[2] for remark in report.remarks]
    assert statements == [
        "CREATE INDEX CONCURRENTLY ON levelq_ledger (user_id, id)",
        "CREATE INDEX CONCURRENTLY ON license_progressions (user_license_id, id)",
    ]
    with own_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.execute(text(statement))
    assert verify(own_engine, redis, settings, Options(range_rows=40)).remarks == []


# Forgotten users


def forget(world: World, user: int) -> None:
    world.sql("DELETE FROM license_progressions")
    for table, column in (("user_licenses", "user_id"), ("specialization_progress", "student_id")):
        world.sql(f"DELETE FROM {table} WHERE {column} = :user", user=user)
    world.sql("UPDATE levelq_ledger SET user_id = 0, digest = '' WHERE user_id = :user", user=user)


def test_ledger_rows_of_forgotten_users_explain_no_table_and_break_nothing(world: World) -> None:
    for n in range(3):
        world.apply(up(7, 900), up(7, n), up(8, 20), SyncLevels(user_id=8, specialization="PLAYER"))
    forget(world, 7)
    for options in MODES:
        assert_clean(world.verify(at_rest=True, **options))
    world.send(up(7, 5))  # who comes back begins again
    world.drain()
    for options in MODES:
        assert_clean(world.verify(at_rest=True, **options))


def test_ids_of_forgotten_users_still_count(world: World) -> None:
    command, never_sent = up(7, 5), up(7, 6)
    world.apply(command)
    push(world.worker, [never_sent])
    world.drain()
    world.sql("DELETE FROM user_licenses WHERE user_id = 7")
    world.sql("DELETE FROM specialization_progress WHERE student_id = 7")
    world.sql("UPDATE levelq_ledger SET user_id = 0")
    assert violations_of(world.verify()) == [("I1", "unexpected", None, "PLAYER", never_sent.command_id)]
    world.sql("DELETE FROM levelq_ledger WHERE command_id = :id", id=never_sent.command_id)
    world.sql("ALTER TABLE levelq_ledger DROP CONSTRAINT levelq_ledger_command_id_key")
    world.sql("CREATE TABLE copied AS SELECT * FROM levelq_ledger")
    world.sql("UPDATE copied SET id = id + 1000")
    world.sql("INSERT INTO levelq_ledger SELECT * FROM copied")
    assert [example[:2] for example in world.verify().examples] == [("I2", "duplicated")]


# Rows of license_progressions that are an application's notes

NOTES: dict[str, Callable[[int, int], tuple[int | None, int | None]]] = {
    "revoked": lambda was, now: (now, now),
    "renewed before the level": lambda was, now: (was, was),
    "without levels": lambda was, now: (None, None),
    "without the level it had": lambda was, now: (None, now),
    "without the level it got": lambda was, now: (now, None),
    "made at the first level": lambda was, now: (0, 1),
}


@pytest.mark.parametrize("name", [name for name in NOTES if name != "made at the first level"])
def test_progressions_that_change_no_level_are_no_part_of_the_chain(world: World, name: str) -> None:
    for column in ("from_level", "to_level"):
        execute(world.engine, f"ALTER TABLE license_progressions ALTER COLUMN {column} DROP NOT NULL")
    for xp, levels in ((10, (1, 1)), (1500, (1, 2)), (1500, (2, 3))):
        world.apply(up(7, xp))
        before, after = NOTES[name](*levels)
        world.sql(
            "INSERT INTO license_progressions (user_license_id, from_level, to_level, requirements_met) "
            "SELECT id, :before, :after, '{}' FROM user_licenses",
            before=before,
            after=after,
        )
        assert_clean(world.verify(at_rest=True))
    world.sql("DELETE FROM license_progressions WHERE from_level = 2 AND to_level = 3")
    assert world.verify().broken == {"I4"}


def test_progression_that_notes_a_new_license_is_no_part_of_the_chain(world: World) -> None:
    world.sql("INSERT INTO user_licenses (user_id, specialization_type) VALUES (7, 'PLAYER')")
    world.sql(
        "INSERT INTO license_progressions (user_license_id, from_level, to_level, requirements_met) "
        "SELECT id, 0, 1, '{}' FROM user_licenses"
    )
    world.apply(up(7, 10))
    assert_clean(world.verify(at_rest=True))
    world.apply(up(7, 1500))
    assert_clean(world.verify(at_rest=True))

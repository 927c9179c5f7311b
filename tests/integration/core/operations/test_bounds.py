"""What a console reads every few seconds, or for a page, takes no more work with more lanes and more rows."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, event

from levelq_core.database.table_names import AUDIT, LEDGER, LICENSES, OUTBOX, PROGRESS, PROGRESSIONS, QUARANTINE
from levelq_core.domain.codec import encode
from levelq_core.keys import Keys
from levelq_core.operations import queries
from levelq_core.operations.dbcheck import spelling
from levelq_core.operations.readings import row_list
from levelq_core.operations.readings.audit_lines import AUDIT_LINES, Acts
from levelq_core.operations.readings.explanation import explain
from levelq_core.operations.readings.history import History
from levelq_core.operations.readings.lane_search import find_lane
from levelq_core.operations.readings.overview import overview
from levelq_core.operations.readings.quarantine import QUARANTINED
from levelq_core.operations.readings.rejected import REJECTED
from levelq_core.operations.readings.selection import Selection
from levelq_core.operations.readings.status import status
from tests.support.fixtures.command_line import Levelq
from tests.support.system import PLAYER, System, up

AGO = datetime(2020, 1, 1, tzinfo=UTC)
_LEDGER = """
    INSERT INTO levelq_ledger (command_id, user_id, specialization, kind, status, error, message, digest, xp, sessions,
        projects, theory_hours, practice_hours, batch, xid, source, applied_at)
    SELECT gen_random_uuid(), {user}, 'PLAYER', 'level_up', 'rejected', 'validation_error', '{message}', '', 1, 0, 0, 0,
        0, gen_random_uuid(), 1, 'queue', timestamptz '2020-01-01 00:00+00' + n * interval '1 second'
    FROM generate_series({first}, {last}) n
"""


def rejections(system: System, last: int, *, first: int = 1, message: str = "no", user: str = "1 + n % 9") -> None:
    system.sql(_LEDGER.format(first=first, last=last, message=message, user=user))


def calls_of(system: System, read: Callable[[], object]) -> dict[str, int]:
    """How often a reading called each command of Redis, also in scripts."""
    read()  # connections are made, scripts are loaded
    system.redis.config_resetstat()
    read()
    found: dict[str, Any] = system.redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in found.items()}


def fill(system: System, first: int, last: int) -> None:
    """Lanes, of which some are parked, and some paused."""
    keys: Keys = system.settings.keys
    users, later = range(first, last), 1000 * time.time() + 3_600_000
    system.lanes.push([(PLAYER, [(user, [encode(up(user))]) for user in users])])
    parked = {str(user): f"1 3 refused {user} (SQLSTATE 23514)" for user in users if user % 3 == 0}
    paused = {str(user): "1 0 ops|" for user in users if user % 3 == 1}
    system.redis.hset(keys.of(PLAYER, "parked"), mapping=parked)
    system.redis.hset(keys.of(PLAYER, "paused"), mapping=paused)
    system.redis.zadd(keys.of(PLAYER, "ready"), dict.fromkeys(parked, later) | dict.fromkeys(paused, 1e16))


@contextmanager
def statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """The statements of the block, with their values."""
    found: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        found.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


def plans(engine: Engine, made: list[tuple[str, Any]]) -> str:
    """How PostgreSQL executes them if it avoids reading a whole table wherever it can."""
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute("SET LOCAL enable_seqscan = off")
        lines = list[str]()
        for statement, values in made:
            if statement.lstrip().startswith(("SELECT", "WITH")):
                cursor.execute(f"EXPLAIN {statement}", values)
                lines += [line for (line,) in cursor.fetchall()]
        return "\n".join(lines)


def test_overview_calls_redis_as_often_for_many_lanes_as_for_few(system: System) -> None:
    def read() -> object:
        return overview(system.settings, engine=system.engine)

    fill(system, 1, 1_500)
    few = calls_of(system, read)
    fill(system, 1_500, 9_000)
    many = calls_of(system, read)
    assert many["llen"] <= 400 and many["lindex"] <= 1_000  # of the lanes that are due longest
    assert sum(many.values()) <= sum(few.values()) + 10  # HSCAN may take a page more
    assert not {"keys", "scan"} & set(many)
    found = overview(system.settings, engine=system.engine).status
    assert sum(each.waiting for each in found.partitions) == 8_999 and len(found.parked_lanes) == 100
    more = [line for line in found.problems if line.endswith("more paused: levelq status --json")]
    assert len(more) == 1 and more[0].startswith("at least ")


def test_totals_are_counted_up_to_a_limit_and_estimated_above(
    system: System, levelq_here: Levelq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MOST_COUNTED", 1_000)
    rejections(system, 1_000)
    exact = status(system.settings, engine=system.engine)
    assert (exact.rejected, exact.rejected_open, exact.estimated) == (1_000, 1_000, ())
    rejections(system, 2_000, first=1_001)
    with system.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE levelq_ledger")
    rejections(system, 2_500, first=2_001)  # since the estimate
    found = status(system.settings, engine=system.engine)
    assert (found.rejected, found.rejected_open, found.quarantined) == (2_000, 2_000, 0)
    assert found.estimated == ("rejected", "rejected_open")
    assert "rejected about 2,000" in levelq_here("status")[1]
    with statements(system.engine) as made:
        overview(system.settings, engine=system.engine)
    counting = [(statement, values) for statement, values in made if "rejected_estimate" in statement]
    plan = plans(system.engine, counting)
    assert plan.count("Limit") == 3 and "using levelq_ledger_rejected" in plan and "using levelq_ledger_open" in plan


def test_overview_looks_for_misspelt_names_in_the_newest_rows_of_a_large_table(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(read: Callable[..., Any]) -> bool:
        found = read(system.settings, engine=system.engine)
        return any("not spelt" in line for line in getattr(found, "status", found).problems)

    row = (
        "INSERT INTO specialization_progress (student_id, specialization_id) SELECT n, '{}' FROM generate_series({}) n"
    )
    system.sql(row.format("player", "1, 1"), row.format("PLAYER", "2, 1_100"))
    assert told(status) and told(overview)  # a small table is read whole
    monkeypatch.setattr(spelling, "SMALL_BYTES", 0)
    assert told(status) and not told(overview)
    system.sql(row.format("Player", "3_000, 3_000"))
    assert told(overview)
    with statements(system.engine) as made:
        overview(system.settings, engine=system.engine)
    assert "Seq Scan on" not in plans(system.engine, [one for one in made if "AS newest" in one[0]])


def test_pages_of_lists_look_at_so_many_rows_and_go_on_where_they_ended(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_list, "MOST_SEARCHED", 20)
    rejections(system, 1, message="rare")
    rejections(system, 100, first=2)
    rare, pages, before = Selection(reason="RARE"), 0, None
    while not (page := REJECTED.page(system.engine, rare, before=before)).rows:
        pages, before = pages + 1, page.before
        assert before is not None
    assert pages == 4 and page.before == page.rows[0].id  # the fifth page looked at the last 20
    assert REJECTED.page(system.engine, rare, before=page.before) == type(page)(rows=(), before=None)
    newest = REJECTED.page(system.engine, Selection(), limit=3)
    assert [row.message for row in newest.rows] == ["no"] * 3 and newest.before == newest.rows[-1].id
    of_user = REJECTED.page(system.engine, Selection(user_id=5))
    assert [row.user_id for row in of_user.rows] == [5] * 11 and of_user.before is None
    assert REJECTED.page(system.engine, Selection(ids=(page.rows[0].command_id,))).rows == page.rows


def test_pages_find_what_lists_find(system: System) -> None:
    rejections(system, 50)
    system.sql(
        "INSERT INTO levelq_quarantine (specialization, user_id, reason, raw, length, sha256) "
        "SELECT 'PLAYER', n % 3, 'reason ' || n, '', 0, '' FROM generate_series(1, 30) n",
        "INSERT INTO levelq_audit (actor, origin, action, target) SELECT 'a', 'o', 'rejected retry', target "
        "FROM unnest('{user 4,user 4 PLAYER,user 42,everything}'::text[]) target",
    )
    (entry,) = QUARANTINED.page(system.engine, Selection(reason="reason 30")).rows
    assert (entry.reason, len(QUARANTINED.page(system.engine, Selection(user_id=1)).rows)) == ("reason 30", 10)
    assert QUARANTINED.page(system.engine, Selection(), before=entry.id, limit=1).rows[0].reason == "reason 29"
    of_user = AUDIT_LINES.page(system.engine, Acts(user_id=4)).rows
    assert [line.target for line in of_user] == ["user 4 PLAYER", "user 4"]
    assert len(AUDIT_LINES.page(system.engine, Acts(action="rejected")).rows) == 4
    later = datetime.now(UTC) + timedelta(hours=9)
    for none in (Acts(action="pause"), Acts(since=later)):
        assert AUDIT_LINES.page(system.engine, none).rows == ()


LARGE = "|".join((PROGRESS, LICENSES, PROGRESSIONS, LEDGER, OUTBOX, QUARANTINE, AUDIT))
READINGS: dict[str, Callable[[System], object]] = {
    "overview": lambda s: overview(s.settings, engine=s.engine),
    "user": lambda s: explain(s.settings, 7, engine=s.engine),
    "user, since": lambda s: explain(s.settings, 7, since=AGO, engine=s.engine),
    "history": lambda s: History(s.engine, s.settings).of(7, "PLAYER", since=AGO),
    "rejected": lambda s: REJECTED.page(s.engine, Selection(reason="x", specialization="PLAYER", settled=True)),
    "rejected of a user": lambda s: REJECTED.page(s.engine, Selection(user_id=7)),
    "rejected since": lambda s: REJECTED.page(s.engine, Selection(since=AGO, until=AGO)),
    "quarantined": lambda s: QUARANTINED.page(s.engine, Selection(reason="x")),
    "quarantined of a user": lambda s: QUARANTINED.page(s.engine, Selection(user_id=7, since=AGO)),
    "audit": lambda s: AUDIT_LINES.page(s.engine, Acts(action="pause", since=AGO)),
    "audit of a user": lambda s: AUDIT_LINES.page(s.engine, Acts(user_id=7)),
    "search": lambda s: find_lane(s.settings, UUID(int=7), engine=s.engine),
}


def test_no_reading_of_a_page_reads_a_whole_table(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spelling, "SMALL_BYTES", -1)
    rejections(system, 50)
    for name, read in READINGS.items():
        with statements(system.engine) as made:
            read(system)
        whole = [
            line for line in plans(system.engine, made).splitlines() if re.search(rf"Seq Scan on ({LARGE})\b", line)
        ]
        assert made and not whole, name


def test_audit_of_a_user_is_read_by_the_index_of_targets(system: System) -> None:
    system.sql(
        "INSERT INTO levelq_audit (actor, origin, action, target) "
        "SELECT 'a', 'o', 'pause', 'user ' || n % 3000 || ' PLAYER' FROM generate_series(1, 6000) n",
        "ANALYZE levelq_audit",
    )
    with statements(system.engine) as made:
        assert len(AUDIT_LINES.page(system.engine, Acts(user_id=7)).rows) == 2
        explain(system.settings, 7, engine=system.engine)
    of_audit = plans(system.engine, [one for one in made if "levelq_audit" in one[0]])
    assert of_audit.count("levelq_audit_target") >= 3 and "levelq_audit_pkey" not in of_audit


def test_search_for_a_waiting_command_asks_once_for_each_partition(system: System) -> None:
    command = up(150)
    system.lanes.push([(PLAYER, [(user, [encode(up(user))]) for user in range(1, 300)])])
    system.lanes.push([(PLAYER, [(150, [encode(command)])])])

    def read() -> object:
        return find_lane(system.settings, command.command_id, engine=system.engine)

    assert read() == ("PLAYER", 150)
    calls = calls_of(system, read)
    assert "scan" not in calls and calls.get("eval_ro", 0) + calls.get("eval", 0) <= 3


def test_id_before_a_moment_is_found_in_one_statement_also_where_ids_are_missing(system: System) -> None:
    rejections(system, 400)
    system.sql("DELETE FROM levelq_ledger WHERE id % 7 < 4 OR id BETWEEN 100 AND 180")
    rows = system.rows("SELECT id, applied_at FROM levelq_ledger ORDER BY id")
    with system.engine.connect() as connection, statements(system.engine) as made:
        for second in (0, 1, 99, 140, 200, 399, 500):
            moment = AGO + timedelta(seconds=second, microseconds=1)
            last = queries.last_id_before(connection, "levelq_ledger", "applied_at", moment)
            older = [number for number, at in rows if at < moment]
            assert all(number <= last for number in older)
            assert not [number for number, at in rows if number <= last and at >= moment]
        assert queries.last_id_before(connection, "levelq_audit", "at", AGO) == 0  # there is no row
    assert len(made) == 8

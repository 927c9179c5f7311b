"""What dashboards read: the same as the commands print, as frozen records."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ValidationError
from redis import Redis
from sqlalchemy import Engine, create_engine, text

import levelq
from levelq import Command, History, InvalidArgument, LevelEvents, ParkedUserLane, Reset, Settings
from levelq_core.lanes.parked import bounded
from tests.support.fixtures.command_line import NOWHERE, Levelq
from tests.support.fixtures.keys import KEYS
from tests.support.isolation import apply
from tests.support.system import PLAYER, System, up


def assert_frozen(record: BaseModel) -> None:
    for name in type(record).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(record, name, None)


def test_history_gives_every_decided_command_once_page_by_page(own_engine: Engine) -> None:
    """Commands of one batch have one time, so pages are told apart by the command, not by the time."""
    first: list[Command] = [
        up(7, 600, reason="a match"),
        up(7, 600, "COACH"),
        up(8, 1),
        Reset(user_id=7, specialization="PLAYER"),
    ]
    apply(own_engine, first)
    between = datetime.now(UTC)
    last: list[Command] = [up(7, 1200, advanced_by=3), up(7, 5, "INTERNSHIP", theory_hours=1)]
    apply(own_engine, last)
    past = History(own_engine)
    ids = [entry.command_id for entry in past.of(7)]
    assert set(ids) == {command.command_id for command in [*first, *last] if command.user_id == 7}
    pages, before = list[UUID](), None
    while page := past.of(7, limit=2, before=before):
        before = page[-1].command_id
        pages += [entry.command_id for entry in page]
    assert pages == ids
    assert past.of(7, before=between) == past.of(7)[2:] and past.of(7, before=uuid4()) == past.of(9) == ()
    assert past.of(7, "coach") == tuple(entry for entry in past.of(7) if entry.specialization == "COACH")
    raised, reset, oldest = past.of(7, "PLAYER")
    (rejected,) = past.of(7, "INTERNSHIP")
    assert (rejected.status, rejected.error, rejected.after) == ("rejected", "validation_error", None)
    assert (raised.xp, raised.advanced_by, raised.from_level, raised.to_level) == (1200, 3, 1, 2)
    assert raised.before and raised.after and (raised.before.total_xp, raised.after.total_xp) == (0, 1200)
    assert (reset.kind, oldest.reason, oldest.user_id) == ("reset", "a match", 7)
    assert timedelta(0) <= datetime.now(UTC) - oldest.at < timedelta(minutes=5)
    assert_frozen(oldest)


def test_parked_lanes_and_quarantined_entries_are_part_of_the_history(
    system: System, own_engine: Engine, levelq_here: Levelq
) -> None:
    system.push_raw(7, b"\xff no command")
    system.drain()
    system.push(up(7), up(7))
    since = 1000 * int(datetime.now(UTC).timestamp())
    why = "a trigger says no (SQLSTATE P0001)"
    system.redis.hset(KEYS.of(PLAYER, "parked"), "7", b"%d 3 " % since + bounded(why))
    system.redis.zadd(KEYS.of(PLAYER, "ready"), {"7": since + 60_000})
    past = History(own_engine, system.settings)
    (lane,) = past.parked(7)
    assert type(lane) is ParkedUserLane and past.parked(8) == ()
    assert (lane.partition, lane.specialization, lane.user) == ("PLAYER:1:0", "PLAYER", 7)
    assert (lane.attempts, lane.waiting, lane.reason) == (3, 2, why)
    assert lane.until and lane.until - lane.since == timedelta(minutes=1)
    assert lane.retry_in_seconds is not None and 0 < lane.retry_in_seconds <= 60
    (entry,) = past.quarantined(7)
    assert (entry.specialization, entry.raw[-12:], entry.length) == ("PLAYER", b"\xff no command"[-12:], len(entry.raw))
    assert past.quarantined(8) == () and type(entry).model_validate_json(entry.model_dump_json()) == entry
    shown = levelq_here("history", 7).out
    assert f"  to do  {lane.remedy}\n" in shown and entry.reason in shown
    (seen,) = levelq.status(system.settings).parked_lanes
    assert seen.model_dump() == {name: getattr(lane, name) for name in type(seen).model_fields}
    assert_frozen(lane)


def test_status_is_what_the_command_prints_on_two_connections_to_redis_and_the_engine_given(
    system: System, redis: Redis, levelq_here: Levelq
) -> None:
    system.push(up(7), up(8))
    url = Settings.load(database_url=system.settings.database_url).sqlalchemy_url
    unreachable = system.settings.model_copy(update={"database_url": f"postgresql://{NOWHERE}/none"})
    engine = create_engine(url, pool_size=1, max_overflow=0)  # of the application
    before: Any = redis.info("stats")
    report = levelq.status(unreachable, engine=engine)
    after: Any = redis.info("stats")
    engine.dispose()
    assert after["total_connections_received"] - before["total_connections_received"] == 2
    assert report.problems == ("PLAYER:1:0: 2 commands waiting and no worker serves it: levelq worker -s PLAYER",)
    (partition,) = [found for found in report.partitions if found.waiting]
    assert (partition.specialization, partition.ready) == ("PLAYER", 2)
    assert (report.lanes_readable, report.rejected, report.workers) == (True, 0, 0)
    printed = levelq_here("status", "--json").out
    ages = {found.partition: found.oldest_seconds for found in report.partitions}
    again = levelq.StatusReport.model_validate_json(printed)
    same_age = [found.model_copy(update={"oldest_seconds": ages[found.partition]}) for found in again.partitions]
    assert sorted((lane.user, lane.waiting) for lane in again.hot_spots.longest) == [(7, 1), (8, 1)]
    aged = {"partitions": tuple(same_age), "hot_spots": report.hot_spots}
    assert again.model_copy(update=aged) == report
    assert printed == again.model_dump_json() + "\n"
    assert_frozen(report)


def test_check_gives_the_pairs_out_of_step_with_their_repair(own_engine: Engine) -> None:
    assert levelq.check(own_engine) == levelq.CheckReport(total=0, pairs=(), tables_complete=True)
    with own_engine.begin() as connection:
        connection.execute(text("INSERT INTO user_licenses (user_id, specialization_type) VALUES (3, 'COACH')"))
        connection.execute(text("INSERT INTO user_licenses (user_id, specialization_type) VALUES (4, 'CHEF')"))
    report = levelq.check(own_engine, limit=1)
    (pair,) = report.pairs
    assert (report.total, pair.user_id, pair.progress_level, pair.license_level) == (2, 3, None, 1)
    assert (pair.repair, pair.action) == ("levelq sync 3 COACH --source license", "create_progress_from_license")
    chef = levelq.check(own_engine, levelq.Catalog.of({"CHEF": [0]})).pairs[1]
    assert chef.repair == "levelq sync 4 CHEF --source license"
    assert levelq.check(own_engine, limit=0).total == 2
    assert len(levelq.check(own_engine, limit=2**63).pairs) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"user_id": 0}, "user_id: expected an integer from 1 to 9223372036854775807, got 0"),
        ({"user_id": "7"}, "user_id: expected an integer from 1 to 9223372036854775807, got '7'"),
        ({"limit": True}, "limit: expected an integer from 1 to 10000, got True"),
        ({"limit": 10_001}, "limit: expected an integer from 1 to 10000, got 10001"),
        ({"specialization": 5}, "specialization: expected its name, got 5"),
        ({"specialization": "A\0"}, r"specialization: expected a text in UTF-8 without NUL, got 'A\x00'"),
        ({"before": "2026-01-31"}, "before: expected a command_id (UUID) or a datetime with a zone, got '2026-01-31'"),
    ],
)
def test_wrong_argument_is_refused_with_what_was_expected(given: Any, message: str) -> None:
    past = History(create_engine(f"postgresql+psycopg://{NOWHERE}/none"))
    with pytest.raises(InvalidArgument) as caught:
        past.of(**{"user_id": 7} | given)
    assert (str(caught.value), caught.value.field) == (message, message.partition(":")[0])


@pytest.mark.parametrize("given", ["01a22d16-4c23-7bb9-86ef-6dc1613cf557", "x", None, 7])
def test_command_id_that_is_no_uuid_is_refused(given: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        History(create_engine(f"postgresql+psycopg://{NOWHERE}/none")).command(given)
    assert str(caught.value) == f"command_id: expected a UUID, got {given!r}"
    assert (caught.value.field, caught.value.value) == ("command_id", given)


@pytest.mark.parametrize("reading", [History, LevelEvents, levelq.check, lambda given: levelq.status(engine=given)])
def test_what_is_no_engine_is_refused(reading: Any) -> None:
    with pytest.raises(TypeError, match=r"^engine: expected a SQLAlchemy Engine, got Settings$"):
        reading(Settings.load())

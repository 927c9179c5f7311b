"""What is logged and shown of parked lanes, without a server."""

import logging

import pytest

from levelq_core import LevelUp
from levelq_core.coupler.apply import group_by_lane
from levelq_core.coupler.bisect import LOCKED_REASON
from levelq_core.coupler.lane_batch import Parked
from levelq_core.keys import Partition
from levelq_core.lanes.parked import MOST_BYTES, NEWER_VERSION, WRONG_TYPE, ParkedLane, ParkedLanes, bounded, cause_of
from levelq_core.operations.parked_advice import MOST_CAUSES as MOST_LINES
from levelq_core.operations.parked_advice import advice, cause_lines, is_locked, waiting_advice
from levelq_worker.draining.cause_log import LASTS_SECONDS, MOST_CAUSES, CauseLog

PLAYER = Partition("PLAYER")


def parked(user_id: int, reason: str) -> Parked:
    (work,) = group_by_lane([LevelUp(user_id=user_id, specialization="PLAYER", reason="a secret")])
    return Parked(work, reason, locked=False)


def lane(user_id: int, reason: str, since_ms: int = 1_769_828_291_000) -> ParkedLane:
    return ParkedLane(str(user_id), since_ms, None, 1, reason)


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        ("learner 13 is blocked (SQLSTATE P0001)", "a trigger or function"),
        ('nextval: reached maximum value of sequence "a_seq" (32767) (SQLSTATE 2200H)', "ALTER SEQUENCE a_seq AS big"),
        ('null value in column "a" of relation "b" violates it (SQLSTATE 23502)', "ALTER TABLE b ALTER COLUMN a SET D"),
        ('duplicate key violates unique constraint "license_progressions_pkey" (SQLSTATE 23505)', "a sequence lags"),
        ("violates foreign key constraint (SQLSTATE 23503)", "a constraint of the database"),
        ("permission denied for table users (SQLSTATE 42501)", "GRANT"),
        ("relation does not exist (SQLSTATE 42P01)", "`levelq db check`"),
        ("division by zero (SQLSTATE 22012)", "fix its cause"),
        ("a reason without a code", "fix its cause"),
        (f"{NEWER_VERSION}: encoding version 2", "start workers"),
        (WRONG_TYPE, "other code wrote that key"),
        (LOCKED_REASON, "commit or end the transaction"),
    ],
)
def test_each_kind_of_reason_has_its_remedy(reason: str, what: str) -> None:
    assert advice(reason).startswith(what)
    assert is_locked(reason) is (reason == LOCKED_REASON)


@pytest.mark.parametrize("what", ["PostgreSQL: away", "PostgreSQL: cannot execute INSERT (SQLSTATE 25006)"])
def test_worker_that_can_only_wait_gets_no_advice(what: str) -> None:
    assert waiting_advice(what) is None


def test_reasons_that_differ_in_numbers_are_one_cause() -> None:
    first, second = ("learner 13 is blocked (SQLSTATE P0001)", "learner 7 is blocked (SQLSTATE P0001)")
    assert cause_of(first) == cause_of(second) == "learner # is blocked (SQLSTATE P0001)"
    assert cause_of("x (SQLSTATE 23502)") != cause_of("x (SQLSTATE 23505)")


def test_most_frequent_causes_come_first_and_the_rest_is_counted() -> None:
    letters = "abcdefgh"
    lanes = [lane(n, letters[0]) for n in (1, 2)] + [lane(n + 10, letters[n]) for n in range(1, 8)]
    lines = list(cause_lines(PLAYER, ParkedLanes(2_000, lanes)))
    assert lines[0] == (
        "PLAYER:1:0: 2 lanes parked since 2026-01-31 02:58:11 UTC, users 1, 2: a;"
        " fix its cause; PostgreSQL's log has the details"
    )
    assert len(lines) == MOST_LINES + 1
    assert lines[-1] == "PLAYER:1:0: 1,994 lanes more parked for other causes: levelq status --json"


def test_first_users_of_a_cause_are_named_and_the_rest_is_counted() -> None:
    (line,) = cause_lines(PLAYER, ParkedLanes(7, [lane(n, "a") for n in range(1, 8)]))
    assert line.startswith(
        "PLAYER:1:0: 7 lanes parked since 2026-01-31 02:58:11 UTC, users 1, 2, 3, 4, 5 and 2 more: a;"
    )


def test_rows_that_a_known_session_holds_name_it() -> None:
    (line,) = cause_lines(PLAYER, ParkedLanes(1, [lane(1, LOCKED_REASON)]), "session 7")
    assert line.endswith(f": {LOCKED_REASON}; session 7")


def test_short_reason_is_kept_and_a_long_one_keeps_its_code() -> None:
    assert bounded("a  b\nc") == b"a b c"
    long = bounded("x" * 1000 + " (SQLSTATE P0001)")
    assert len(long) == MOST_BYTES and long.endswith(b"x... (SQLSTATE P0001)")


def test_cause_is_logged_once_while_it_lasts_and_again_when_it_returns(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    causes = CauseLog(lambda: now)
    for user in range(13, 23):
        causes.log_parked(PLAYER, [parked(user, f"learner {user} is blocked (SQLSTATE P0001)"), parked(1, "other")])
        now += LASTS_SECONDS
    assert [record.getMessage() for record in caplog.records] == [
        "PLAYER:1:0: 1 lane parked: learner 13 is blocked (SQLSTATE P0001); user 13",
        "PLAYER:1:0: 1 lane parked: other; user 1",
    ]
    assert "secret" not in caplog.text
    now += LASTS_SECONDS
    causes.log_parked(PLAYER, [parked(13, "other")])
    assert len(caplog.records) == 3


def test_bounded_number_of_causes_is_remembered(caplog: pytest.LogCaptureFixture) -> None:
    causes = CauseLog(lambda: 0.0)
    for n in range(MOST_CAUSES + 1):
        causes.log(logging.WARNING, (PLAYER, n), "cause", "cause %(n)d", n=n)
    caplog.clear()
    causes.log(logging.WARNING, (PLAYER, MOST_CAUSES), "cause", "known")
    causes.log(logging.WARNING, (PLAYER, 0), "cause", "forgotten")
    assert caplog.messages == ["forgotten"]

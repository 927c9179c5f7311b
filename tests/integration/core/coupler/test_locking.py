"""The lock order, shown with two connections of which one holds a row: how far does the other get?"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

from levelq_core import LevelUp, Outcome
from tests.support.coupler import free, session, wait_until_blocked_by
from tests.support.isolation import apply
from tests.support.model import Row

USERS = (1, 2, 3)
Holder = psycopg.Connection[Row]


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=4) as pool:
        yield pool


def level_up(
    engine: Engine, *users: int, name: str = "PLAYER", xp: int = 1000, advanced_by: int | None = None
) -> list[Outcome]:
    return apply(
        engine, [LevelUp(user_id=u, specialization=name, xp_gained=xp, advanced_by=advanced_by) for u in users]
    )


@pytest.fixture
def waiting(engine: Engine, database_url: str, background: ThreadPoolExecutor) -> Callable[..., Any]:
    """`stopped_at` on this database."""
    return partial(stopped_at, database_url, background)


@contextmanager
def stopped_at(
    url: str, background: ThreadPoolExecutor, held: str, work: Callable[[], list[Outcome]]
) -> Iterator[Callable[[str], list[bool]]]:
    """While `work` waits for the rows that `held` locks: which rows of a table, by user, are still free."""

    def still_free(table: str) -> list[bool]:
        user = "student_id" if table == "specialization_progress" else "user_id"
        return [free(url, f"SELECT FROM {table} WHERE {user} = {n}") for n in USERS]

    with session(url) as holder:
        holder.execute(f"{held} FOR UPDATE")
        future: Future[list[Outcome]] = background.submit(work)
        wait_until_blocked_by(url, holder)
        yield still_free
        holder.rollback()
        assert [outcome.status for outcome in future.result(30)] == ["applied"] * len(future.result())


def test_progress_rows_are_locked_first_and_by_user(engine: Engine, waiting: Callable[..., Any]) -> None:
    level_up(engine, *USERS)
    held = "SELECT FROM specialization_progress WHERE student_id = 2"
    with waiting(held, lambda: level_up(engine, 3, 2, 1)) as still_free:
        assert still_free("specialization_progress") == [False, False, True]
        assert still_free("user_licenses") == [True, True, True]


def test_license_rows_follow_after_all_progress_rows(engine: Engine, waiting: Callable[..., Any]) -> None:
    level_up(engine, *USERS)
    held = "SELECT FROM user_licenses WHERE user_id = 2"
    with waiting(held, lambda: level_up(engine, 3, 2, 1)) as still_free:
        assert still_free("specialization_progress") == [False, False, False]
        assert still_free("user_licenses") == [False, False, True]


def test_specializations_come_before_users_in_the_order(
    database_url: str, engine: Engine, waiting: Callable[..., Any]
) -> None:
    level_up(engine, *USERS, name="COACH")
    level_up(engine, 1, name="PLAYER")
    commands = [LevelUp(user_id=1, specialization="PLAYER"), LevelUp(user_id=3, specialization="COACH")]
    rows = "SELECT FROM specialization_progress WHERE student_id = {} AND specialization_id = '{}'"
    with waiting(rows.format(3, "COACH"), lambda: apply(engine, commands)):
        assert free(database_url, rows.format(1, "PLAYER"))


def test_missing_progress_rows_are_made_before_any_row_is_locked(
    database_url: str, engine: Engine, background: ThreadPoolExecutor
) -> None:
    level_up(engine, 1, 2)
    with session(database_url) as holder:
        holder.execute(
            "INSERT INTO specialization_progress (student_id, specialization_id, current_level, created_at)"
            " VALUES (3, 'PLAYER', 1, now())"
        )
        future = background.submit(level_up, engine, 1, 2, 3)
        wait_until_blocked_by(database_url, holder)
        assert all(free(database_url, f"SELECT FROM specialization_progress WHERE student_id = {n}") for n in (1, 2))
        holder.rollback()
        assert [outcome.status for outcome in future.result(30)] == ["applied"] * 3


@pytest.mark.parametrize(
    ("author", "free_users"), [(None, [True, True]), (3, [True, True, True])], ids=["of the lane", "who is the author"]
)
def test_users_are_locked_before_rows(
    application_database_url: str,
    application_engine: Engine,
    background: ThreadPoolExecutor,
    author: int | None,
    free_users: list[bool],
) -> None:
    """The foreign key of advanced_by locks the author's row: if that came last, an application that locks users,
    progress, license in this order could deadlock with levelq."""
    level_up(application_engine, *(USERS if author else (1, 2)), xp=1)
    held = "SELECT FROM users WHERE id = 3"
    work = partial(level_up, application_engine, 1, 2, 3, advanced_by=author)
    with stopped_at(application_database_url, background, held, work) as still_free:
        assert still_free("specialization_progress")[: len(free_users)] == free_users


def test_foreign_key_checks_of_others_pass_while_the_rows_are_locked(
    database_url: str, engine: Engine, background: ThreadPoolExecutor
) -> None:
    level_up(engine, *USERS)
    with session(database_url) as other, session(database_url) as holder:
        holder.execute("SELECT FROM user_licenses WHERE user_id = 3 FOR UPDATE")
        future = background.submit(level_up, engine, *USERS)
        wait_until_blocked_by(database_url, holder)
        other.execute("SET lock_timeout = 1000")
        other.execute("SELECT FROM user_licenses WHERE user_id = 1 FOR KEY SHARE")
        other.rollback()
        holder.rollback()
        assert len(future.result(30)) == 3

"""The three phases of docs/how-to/migrate.md: an old service writes the same rows beside real workers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from levelq_core import ProgressLicenseCoupler, level_up_atomic
from tests.support.fixtures.command_line import Levelq
from tests.support.fixtures.processes import Started
from tests.support.fixtures.waiting import until
from tests.support.orm import License, Progress, loaded
from tests.support.system import System, up

USERS = range(1, 21)
CARELESS = range(1, 21, 4)  # for these the old service fails between its two transactions


class OldService:
    """Raises levels as it did before levelq: as objects, in a transaction for each table."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def raise_level(self, user: int, *, fails: bool = False) -> None:
        progress, license_ = loaded(self.session, user)
        level = progress.current_level + 1
        progress.current_level = level
        self.session.commit()
        if not fails:
            license_.level = level
            self.session.commit()

    def raise_level_at_once(self, user: int) -> None:
        progress, license_ = loaded(self.session, user)
        license_.level = progress.current_level = progress.current_level + 1
        self.session.commit()


@pytest.fixture
def service(system: System) -> Iterator[OldService]:
    """On a session of its own."""
    with Session(system.engine) as session:
        yield OldService(session)


def play(system: System, phase: int) -> None:
    """A level-up of each user through the queue, in small numbers of experience; returns when all are applied."""
    system.producer.send_many([up(user, 10) for user in USERS])
    until(lambda: system.applied() >= 20 * phase, what="the queue to be drained")


def different(system: System) -> set[int]:
    """The users whose levels differ."""
    rows = select(Progress.student_id).join(License, License.holder == Progress.student_id)
    with Session(system.engine) as session:
        return set(session.scalars(rows.where(License.level != Progress.current_level)))


def test_each_phase_of_a_migration(
    levelq: Levelq, levelq_here: Levelq, system: System, service: OldService, start: Callable[..., Started]
) -> None:
    start("worker")
    play(system, 1)

    # Parallel: what the old service leaves half done is found; a level-up or `levelq sync` repairs it.
    for user in USERS:
        service.raise_level(user, fails=user in CARELESS)
    assert different(system) == set(CARELESS)
    assert "nothing was changed: 5 pairs out of step" in levelq_here.refused("db", "enforce", "--yes")
    found = levelq_here("check")
    assert found.code == 1
    for command in re.findall(r"levelq (sync [59] PLAYER --source \w+)", found.out):
        assert levelq_here(*command.split()).code == 0
    assert different(system) == {1, 13, 17}
    play(system, 2)
    assert different(system) == set() and levelq_here("check").code == 0

    # Delegate: the same service calls levelq, beside workers that apply commands of the same users.
    system.producer.send_many([up(user, 10) for user in USERS])
    coupler = ProgressLicenseCoupler(service.session)
    for user in USERS:
        assert level_up_atomic(service.session, user, "PLAYER", 10)["success"]
        assert coupler.update_level_atomic(user, "PLAYER", 4)["success"]
    until(lambda: system.applied() >= 20 * 5 + 2, what="the queue to be drained")
    assert different(system) == set() and system.total_xp() == 20 * 40

    # Enforce: the path that was forgotten gets an error, the others and the queue go on.
    assert levelq("db", "enforce", "--yes").code == 0
    for user in CARELESS:
        with pytest.raises(IntegrityError, match="levelq_pair_in_step") as caught:
            service.raise_level(user)
        service.session.rollback()
        assert caught.value.orig.diag.constraint_name == "levelq_pair_in_step"  # type: ignore[union-attr]
    service.raise_level_at_once(2)
    play(system, 6)
    assert different(system) == set() and system.total_xp() == 20 * 50
    assert levelq_here("check").code == 0 and levelq_here("status").code == 0

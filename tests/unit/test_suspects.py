"""What a process remembers of batches that failed: how the next one is cut, and for how long."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors

from levelq_core import LevelUp
from levelq_core.apply import gather
from levelq_core.codec import Lane
from levelq_core.screening import BATCHES, Remembered
from levelq_core.suspects import MOST_LANES, Suspects
from levelq_core.work import Work


def works(users: Sequence[int]) -> list[Work]:
    return gather(LevelUp(user_id=user, specialization="PLAYER", xp_gained=1) for user in users)


def suspecting(*users: int) -> Suspects:
    suspects = Suspects()
    for user in users:
        suspects.add(Lane("PLAYER", user))
    return suspects


def cut(suspects: Suspects, users: Sequence[int]) -> list[list[int]]:
    return [[work.lane.user_id for work in part] for part in suspects.apart(works(users))]


def test_batch_without_suspects_is_one_part() -> None:
    assert cut(Suspects(), [1, 2, 3]) == [[1, 2, 3]]
    assert cut(suspecting(9), [1, 2, 3]) == [[1, 2, 3]]


def test_suspects_are_parts_of_their_own() -> None:
    assert cut(suspecting(3, 4), [1, 2, 3, 4, 5, 6]) == [[1, 2], [3], [4], [5, 6]]


def test_batch_of_suspects_mostly_is_one_part() -> None:
    assert cut(suspecting(1, 2), [1, 2, 3]) == [[1, 2, 3]]


@given(st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30), min_size=1))
def test_parts_keep_every_lane_in_lock_order(suspects: set[int], users: set[int]) -> None:
    parts = cut(suspecting(*suspects), sorted(users))
    assert [user for part in parts for user in part] == sorted(users)


def test_lane_that_passed_is_no_suspect_any_more() -> None:
    suspects = suspecting(2, 3)
    suspects.clear([Lane("PLAYER", 2)])
    assert cut(suspects, [1, 2, 3, 4]) == [[1, 2], [3], [4]]


def test_oldest_suspects_are_forgotten_first() -> None:
    suspects = suspecting(*range(1, MOST_LANES + 2))
    assert cut(suspects, [1, 2]) == [[1], [2]]


def test_check_is_remembered_until_it_refused_nothing_for_long() -> None:
    remembered, error = Remembered(), errors.CheckViolation("no")
    remembered.note("t.c", error, refused=True)
    for _ in range(BATCHES - 1):
        remembered.note("t.c", error, refused=False)
    assert remembered.errors() == {"t.c": error}
    remembered.note("t.c", error, refused=False)
    assert remembered.errors() == {}
    remembered.note("t.never", error, refused=False)
    assert remembered.errors() == {}

"""The fold of a batch: each lane in order, each id once, however the batch is cut."""

from collections.abc import Sequence
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levelq_core import Command, LevelUp, SetLevel, SyncLevels
from levelq_core.coupler.apply import group_by_lane
from levelq_core.coupler.couple import fold, owning_lanes
from levelq_core.coupler.lane_batch import Database
from levelq_core.coupler.ledger import PriorDecision
from levelq_core.database.schema import LICENSES, PROGRESS, PROGRESSIONS, REQUIRED, Column, Schema
from levelq_core.domain.commands import new_command_id
from levelq_core.domain.record import Lane
from levelq_core.domain.rules import NOTHING, Decision, State
from tests.support.strategies import DEFAULT

SCHEMA = Schema({table: dict.fromkeys(names, Column("int8")) for table, names in REQUIRED.items()}, {}, {})
DATABASE = Database.of(SCHEMA, DEFAULT)


class Model:
    """Folds as the coupler does, over rows in a dictionary instead of two tables."""

    def __init__(self) -> None:
        self.rows: dict[Lane, State] = {}
        self.known: dict[bytes, PriorDecision] = {}

    def batch(self, commands: Sequence[Command]) -> list[Decision]:
        works = sorted(group_by_lane(commands), key=lambda w: w.lane)
        for work in works:
            work.reset(DATABASE)
            work.locked_state = work.state = self.rows.get(work.lane, NOTHING)
        decided: dict[int, Decision] = {}
        fresh = fold(DATABASE, works, self.known, owning_lanes(works))
        for work in works:
            self.rows[work.lane] = work.state
            decided.update(zip(work.indexes, work.decisions, strict=True))
        assert len(fresh) == sum(not d.duplicate and d.error != "conflict" for d in decided.values())
        return [decided[index] for index in range(len(commands))]


IDS = [new_command_id() for _ in range(8)]
_few_users = st.integers(1, 3)
_names = st.sampled_from(("PLAYER", "COACH", "WIZARD"))
_ids = st.sampled_from(IDS) | st.builds(new_command_id)


def up(xp: int, user_id: int = 1, command_id: UUID | None = None, specialization: str = "PLAYER") -> LevelUp:
    command_id = command_id or new_command_id()
    return LevelUp(user_id=user_id, specialization=specialization, xp_gained=xp, command_id=command_id)


_common = {"user_id": _few_users, "specialization": _names, "command_id": _ids}
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(LevelUp, **_common, xp_gained=st.integers(0, 6000)),
    st.builds(SetLevel, **_common, new_level=st.integers(0, 9), xp_change=st.integers(-3000, 3000)),
    st.builds(SyncLevels, **_common, source=st.sampled_from(("progress", "license"))),
)


@given(st.lists(commands, max_size=20), st.sets(st.integers(1, 19)))
def test_batch_split_anywhere_gives_the_same_decisions(batch: list[Command], cuts: set[int]) -> None:
    whole, parts = Model(), Model()
    expected = whole.batch(batch)
    edges = [0, *sorted(cut for cut in cuts if cut < len(batch)), len(batch)]
    found = [decision for start, end in pairwise(edges) for decision in parts.batch(batch[start:end])]
    assert found == expected
    found_rows, expected_rows = ({lane: row for lane, row in m.rows.items() if any(row)} for m in (parts, whole))
    assert found_rows == expected_rows


def test_same_command_twice_in_a_batch_counts_once() -> None:
    model, command = Model(), up(700)
    first, again, later = model.batch([command, command, up(400)])
    assert (first.duplicate, again) == (False, first._replace(duplicate=True))
    assert model.rows[Lane("PLAYER", 1)][:4] == (2, 2, 2, 1100)
    assert later.before == first.after


def test_rejection_is_the_answer_again() -> None:
    model = Model()
    command = SetLevel(user_id=1, specialization="PLAYER", new_level=2, xp_change=-1)
    (first,) = model.batch([command])
    made_possible, again = model.batch([up(5000), command])
    assert first.error == "validation_error"
    assert made_possible.error is None
    assert again == first._replace(duplicate=True)


@pytest.mark.parametrize("other", [up(2), up(1, 2), up(1, 1, None, "COACH")], ids=("content", "user", "specialization"))
def test_same_id_for_another_command_is_a_conflict(other: LevelUp) -> None:
    model, command = Model(), up(1, 1, UUID(int=5))
    stolen = other.model_copy(update={"command_id": command.command_id})
    first, conflict, again = model.batch([command, stolen, command])
    assert first.error is None
    assert conflict.error == "conflict"
    assert conflict.message == "command_id was used before, for another command of PLAYER:1"
    assert again == first._replace(duplicate=True)
    assert model.rows[Lane("PLAYER", 1)][3] == 1
    assert not any(model.rows.get(Lane("COACH", 1), NOTHING))


def test_id_in_several_lanes_belongs_to_the_first_in_the_input_not_in_lock_order() -> None:
    for first, second in (("PLAYER", "COACH"), ("COACH", "PLAYER")):
        model, one_id = Model(), new_command_id()
        kept, conflict = model.batch([up(1, 1, one_id, first), up(1, 1, one_id, second)])
        assert (kept.error, conflict.error) == (None, "conflict")
        assert f"{first}:1" in conflict.message


def test_rejected_command_does_not_stop_those_behind_it() -> None:
    model = Model()
    impossible = SetLevel(user_id=1, specialization="PLAYER", new_level=999)
    assert [d.error for d in model.batch([up(1), impossible, up(2)])] == [None, "validation_error", None]
    assert model.rows[Lane("PLAYER", 1)][3] == 3


def test_unknown_specialization_is_refused_beside_others() -> None:
    refused, fine = Model().batch([up(1, 1, None, "WIZARD"), up(1)])
    assert (refused.error, fine.error) == ("validation_error", None)
    assert refused.message == "specialization: expected one of PLAYER, COACH, INTERNSHIP, got 'WIZARD'"


def test_limits_follow_the_columns() -> None:
    columns = {table: dict.fromkeys(names, Column("int8")) for table, names in REQUIRED.items()}
    columns[PROGRESS] |= {"total_xp": Column("int4"), "specialization_id": Column("varchar", 50)}
    columns[LICENSES] |= {"user_id": Column("int4"), "specialization_type": Column("varchar", 20)}
    columns[PROGRESSIONS] |= {"to_level": Column("int2"), "advanced_by": Column("int4")}
    columns[PROGRESSIONS] |= {"advancement_reason": Column("varchar", 255)}
    limits = Schema(columns, {}, {}).limits
    assert limits.totals == (2**31 - 1, *(2**63 - 1,) * 4)
    assert limits.level == 2**15 - 1
    assert (limits.user_id, limits.advanced_by) == (2**31 - 1,) * 2
    assert (limits.specialization, limits.reason) == (20, 255)

"""Records, states and the two ways a decision can go, for the tests of the rules."""

from levelq_core import Adjust, LevelUp, Reset, SetLevel, SyncLevels
from levelq_core.domain.catalog import Requirement, Track
from levelq_core.domain.codec import record_of
from levelq_core.domain.record import Record
from levelq_core.domain.rules import Limits, State, decide
from tests.support.strategies import DEFAULT

PLAYER, COACH, INTERNSHIP = DEFAULT["PLAYER"], DEFAULT["COACH"], DEFAULT["INTERNSHIP"]
LIMITS = Limits()
INT4 = Limits(totals=(2**31 - 1,) * 5, level=2**31 - 1, user_id=2**31 - 1, advanced_by=2**31 - 1, specialization=20)
ALL = Track("ALL", (Requirement(), Requirement(10, 2, 3, 4, 5), Requirement(20, 4, 6, 8, 10)), tracks_hours=True)


def up(**fields: int) -> Record:
    return record_of(LevelUp(user_id=1, specialization="ANY", **fields))  # type: ignore[arg-type]


def set_to(level: int, **fields: int) -> Record:
    return record_of(SetLevel(user_id=1, specialization="ANY", new_level=level, **fields))  # type: ignore[arg-type]


def adjust(level: str = "keep", **fields: int) -> Record:
    return record_of(Adjust(user_id=1, specialization="ANY", level=level, **fields))  # type: ignore[arg-type]


def reset(level: int | str = "earned", **fields: int) -> Record:
    return record_of(Reset(user_id=1, specialization="ANY", level=level, **fields))  # type: ignore[arg-type]


def sync(source: str = "progress") -> Record:
    return record_of(SyncLevels(user_id=1, specialization="ANY", source=source))  # type: ignore[arg-type]


def at(progress: int, license_: int, highest: int = 0, *totals: int) -> State:
    return (progress, license_, highest or license_, *(*totals, 0, 0, 0, 0, 0)[:5])  # type: ignore[return-value]


def applied(state: State, record: Record, track: Track = PLAYER, limits: Limits = LIMITS) -> State:
    decision = decide(state, record, track, limits)
    assert (decision.error, decision.message, decision.duplicate) == (None, "", False)
    assert decision.after is not None
    assert decision.to_level == decision.after[1]
    return decision.after


def rejected(state: State, record: Record, track: Track = PLAYER, limits: Limits = LIMITS) -> str:
    """The message; a refusal leaves the state as it is."""
    decision = decide(state, record, track, limits)
    assert decision.error == "validation_error"
    assert decision.from_level is decision.to_level is None
    assert decision.before == decision.after == (state if state[0] or state[1] else None)
    assert decision.message
    assert "\n" not in decision.message
    return decision.message

"""Properties that hold for any command, state and catalog."""

from hypothesis import given
from hypothesis import strategies as st

from levelq_core.domain.catalog import Track
from levelq_core.domain.record import RESET, Record
from levelq_core.domain.rules import NOTHING, Limits, State, decide, started
from tests.support.commands import CHANGES, GAINS, TOTALS
from tests.support.rules_kit import LIMITS, adjust, applied, at, rejected, reset, set_to, sync, up
from tests.support.strategies import tracks

_small = st.integers(0, 60)
_change = st.integers(-60, 60)
_levels = st.integers(0, 14)
records = st.one_of(
    st.builds(up, **dict.fromkeys(GAINS, _small)),
    st.builds(set_to, st.integers(-1, 14), **dict.fromkeys(CHANGES, _change)),
    st.builds(adjust, st.sampled_from(("keep", "earned")), **dict.fromkeys(CHANGES, _change)),
    st.builds(reset, st.just("earned") | st.integers(-1, 14), **dict.fromkeys(TOTALS, _small)),
    st.builds(sync, st.sampled_from(("progress", "license"))),
)


@st.composite
def states(draw: st.DrawFn) -> State:
    progress, license_ = draw(_levels), draw(_levels)
    highest = license_ + draw(st.integers(0, 3)) if license_ else 0
    totals = [draw(_small) if progress else 0 for _ in range(5)]
    return at(progress, license_, highest, *totals)


TIGHT = Limits(totals=(100, 90, 80, 70, 60), level=13)


@given(states(), records, tracks())
def test_after_an_applied_command_the_levels_are_equal(state: State, record: Record, track: Track) -> None:
    decision = decide(state, record, track, TIGHT)
    if decision.error is not None:
        return
    assert decision.before is not None
    assert decision.after is not None
    assert decision.after[0] == decision.after[1] == decision.to_level
    assert 1 <= decision.after[0] <= TIGHT.level
    assert decision.after[2] == max(decision.before[2], decision.after[1])
    assert all(0 <= total <= most for total, most in zip(decision.after[3:], TIGHT.totals, strict=True))


@given(states(), records, tracks())
def test_refused_command_leaves_the_state(state: State, record: Record, track: Track) -> None:
    decision = decide(state, record, track, TIGHT)
    if decision.error is not None:
        rejected(state, record, track, TIGHT)


@given(states(), st.lists(records, max_size=12), tracks())
def test_highest_level_never_falls_and_a_level_up_never_lowers(state: State, batch: list[Record], track: Track) -> None:
    for record in batch:
        decision = decide(state, record, track, LIMITS)
        if decision.error is None:
            assert decision.after is not None
            assert decision.after[2] >= state[2]
            if record.kind == 1:
                assert decision.after[0] >= max(state[:2])
                assert decision.after[0] <= max(track.max_level, *state[:2])
                assert all(new >= old for new, old in zip(decision.after[3:], state[3:], strict=True))
            state = decision.after


@given(states(), st.lists(_small, min_size=1, max_size=8), tracks())
def test_many_gains_equal_their_sum(state: State, gains: list[int], track: Track) -> None:
    one = applied(state, up(xp_gained=sum(gains)), track)
    for gain in gains:
        state = applied(state, up(xp_gained=gain), track)
    assert state == one


@given(states(), st.sampled_from(("progress", "license")), tracks())
def test_second_sync_changes_nothing(state: State, source: str, track: Track) -> None:
    decision = decide(state, sync(source), track, LIMITS)
    if decision.error is None:
        assert decision.after is not None
        assert decision.after[3:] == state[3:]
        assert applied(decision.after, sync(source), track) == decision.after


@given(states(), records, tracks())
def test_reset_leads_to_the_same_state_from_any_other(state: State, record: Record, track: Track) -> None:
    if record.kind != RESET:
        return
    decision = decide(state, record, track, LIMITS)
    if decision.error is None:
        assert decision.after is not None
        fresh = applied(NOTHING, record, track)
        assert decision.after[:2] == fresh[:2]
        assert decision.after[3:] == fresh[3:] == record[5:10]
        assert applied(decision.after, record, track) == decision.after


@given(states(), st.integers(0, 60), tracks())
def test_adjust_and_its_opposite_leave_the_totals(state: State, xp: int, track: Track) -> None:
    there = applied(state, adjust("earned", xp_change=xp), track)
    back = applied(there, adjust("earned", xp_change=-xp), track)
    assert back[3:] == started(state)[3:]
    assert back[:2] == applied(state, adjust("earned"), track)[:2]

"""What the commands mean: each rule on states and records."""

import pytest

from levelq_core import Catalog
from levelq_core.domain.catalog import Requirement, Track
from levelq_core.domain.commands import MAX_NUMBER
from levelq_core.domain.record import Lane, Record
from levelq_core.domain.rules import (
    FIELDS,
    NOTHING,
    Decision,
    Limits,
    State,
    decide,
    describe,
    forbidden,
    lane_refusal,
    started,
    sync_action,
)
from tests.support.commands import CHANGES, GAINS, TOTALS
from tests.support.rules_kit import (
    ALL,
    COACH,
    INT4,
    INTERNSHIP,
    LIMITS,
    PLAYER,
    adjust,
    applied,
    at,
    rejected,
    reset,
    set_to,
    sync,
    up,
)


class TestLevelUp:
    @pytest.mark.parametrize(
        ("xp", "level"), [(0, 1), (999, 1), (1000, 2), (2499, 2), (2500, 3), (79_999, 7), (80_000, 8), (MAX_NUMBER, 8)]
    )
    def test_rises_to_the_highest_level_earned_several_at_once(self, xp: int, level: int) -> None:
        assert applied(NOTHING, up(xp_gained=xp)) == (level, level, level, xp, 0, 0, 0, 0)

    def test_adds_to_all_totals(self) -> None:
        before = at(1, 1, 1, 1, 2, 3, 4, 5)
        gains = up(xp_gained=10, sessions_completed=20, projects_completed=30, theory_hours=40, practice_hours=50)
        assert applied(before, gains, COACH) == (1, 1, 1, 11, 22, 33, 44, 55)

    def test_counts_earlier_totals(self) -> None:
        assert applied(at(1, 1, 1, 990), up(xp_gained=10))[:4] == (2, 2, 2, 1000)

    def test_never_lowers_a_level(self) -> None:
        assert applied(at(5, 5), up(xp_gained=1))[:3] == (5, 5, 5)

    def test_stops_at_the_highest_level_but_a_legacy_level_above_it_stays(self) -> None:
        assert applied(at(8, 8, 8, 10**9), up(xp_gained=10**9))[:3] == (8, 8, 8)
        assert applied(at(12, 12, 12, 10**9), up(xp_gained=1))[:3] == (12, 12, 12)

    def test_needs_every_requirement_of_a_level(self) -> None:
        enough = dict(zip(GAINS, (20, 4, 6, 8, 10), strict=True))
        assert applied(NOTHING, up(**enough), ALL)[0] == 3
        for name, value in enough.items():
            assert applied(NOTHING, up(**enough | {name: value - 1}), ALL)[0] == 2
            assert applied(NOTHING, up(**enough | {name: 0}), ALL)[0] == 1

    def test_starts_from_the_higher_of_two_that_differ(self) -> None:
        for state in (at(5, 3), at(3, 5)):
            decision = decide(state, up(), PLAYER, LIMITS)
            assert decision.before == state
            assert decision.after is not None
            assert decision.after[:2] == (5, 5)
            assert (decision.from_level, decision.to_level) == (state[1], 5)

    def test_with_nothing_to_gain_still_makes_the_levels_equal(self) -> None:
        assert applied(NOTHING, up()) == (1, 1, 1, 0, 0, 0, 0, 0)


class TestSetLevel:
    @pytest.mark.parametrize("level", [1, 2, 7, 8])
    def test_sets_both_levels_up_or_down(self, level: int) -> None:
        assert applied(at(4, 4), set_to(level))[:3] == (level, level, max(4, level))
        assert applied(at(6, 2, 7), set_to(level))[:3] == (level, level, max(7, level))

    def test_adds_the_changes_whatever_their_sign(self) -> None:
        changes = dict(zip(CHANGES, (-1, 2, -3, 4, -5), strict=True))
        assert applied(at(1, 1, 1, 1, 2, 3, 4, 5), set_to(2, **changes), COACH) == (2, 2, 2, 0, 4, 0, 8, 0)

    def test_ignores_what_the_totals_earn(self) -> None:
        assert applied(NOTHING, set_to(8))[:4] == (8, 8, 8, 0)
        assert applied(at(8, 8, 8, 80_000), set_to(1))[:4] == (1, 1, 8, 80_000)

    @pytest.mark.parametrize("level", [0, -1, 9, 999, MAX_NUMBER, -MAX_NUMBER])
    def test_outside_the_catalog_is_refused(self, level: int) -> None:
        assert rejected(at(3, 3), set_to(level)) == f"new_level: expected 1 to 8 for PLAYER, got {level}"
        assert rejected(NOTHING, set_to(level, xp_change=5)).startswith("new_level: ")

    def test_top_is_that_of_the_specialization(self) -> None:
        assert applied(NOTHING, set_to(3), INTERNSHIP)[0] == 3
        assert rejected(NOTHING, set_to(4), INTERNSHIP) == "new_level: expected 1 to 3 for INTERNSHIP, got 4"

    @pytest.mark.parametrize(("change", "field"), list(zip(CHANGES, FIELDS[3:], strict=True)))
    def test_total_never_goes_below_zero(self, change: str, field: str) -> None:
        state = at(2, 2, 2, 10, 10, 10, 10, 10)
        assert applied(state, set_to(2, **{change: -10}), COACH)[FIELDS.index(field)] == 0
        assert rejected(state, set_to(2, **{change: -11}), COACH) == f"{field}: 10 -11 would go below zero"
        assert rejected(NOTHING, set_to(2, **{change: -1}), COACH) == f"{field}: 0 -1 would go below zero"


class TestAdjust:
    def test_adds_the_changes_whatever_their_sign(self) -> None:
        changes = dict(zip(CHANGES, (-1, 2, -3, 4, -5), strict=True))
        assert applied(at(1, 1, 1, 1, 2, 3, 4, 5), adjust("keep", **changes), COACH) == (1, 1, 1, 0, 4, 0, 8, 0)

    def test_keep_leaves_the_levels_whatever_the_totals_earn(self) -> None:
        assert applied(at(3, 3, 5, 2500), adjust(xp_change=-2000)) == at(3, 3, 5, 500)
        assert applied(at(3, 3, 5, 2500), adjust(xp_change=90_000)) == at(3, 3, 5, 92_500)
        assert applied(at(12, 12, 12, 0), adjust(xp_change=1))[:3] == (12, 12, 12)

    def test_keep_raises_both_levels_to_the_higher(self) -> None:
        for state in (at(5, 3), at(3, 5)):
            decision = decide(state, adjust(), PLAYER, LIMITS)
            assert decision.after is not None
            assert decision.after[:2] == (5, 5)
            assert (decision.from_level, decision.to_level) == (state[1], 5)

    def test_keep_inserts_missing_rows_at_level_1_or_at_the_other_level(self) -> None:
        assert applied(NOTHING, adjust(xp_change=90_000))[:4] == (1, 1, 1, 90_000)
        assert applied(at(4, 0), adjust())[:3] == (4, 4, 4)
        assert applied(at(0, 4, 6), adjust())[:3] == (4, 4, 6)

    @pytest.mark.parametrize(("change", "level"), [(0, 3), (-1, 2), (-2500, 1), (2499, 3), (2500, 4), (10**6, 8)])
    def test_earned_sets_both_levels_up_or_down(self, change: int, level: int) -> None:
        for state in (at(3, 3, 3, 2500), at(8, 2, 8, 2500), at(2, 12, 12, 2500)):
            after = applied(state, adjust("earned", xp_change=change))
            assert after[:4] == (level, level, max(state[2], level), 2500 + change)

    def test_earned_starts_from_missing_rows_too(self) -> None:
        assert applied(NOTHING, adjust("earned", xp_change=2500))[:3] == (3, 3, 3)
        assert applied(at(4, 0), adjust("earned"))[:3] == (1, 1, 4)

    @pytest.mark.parametrize("level", ["keep", "earned"])
    @pytest.mark.parametrize(("change", "field"), list(zip(CHANGES, FIELDS[3:], strict=True)))
    def test_total_never_goes_below_zero(self, change: str, field: str, level: str) -> None:
        state = at(2, 2, 2, 10, 10, 10, 10, 10)
        assert applied(state, adjust(level, **{change: -10}), COACH)[FIELDS.index(field)] == 0
        assert rejected(state, adjust(level, **{change: -11}), COACH) == f"{field}: 10 -11 would go below zero"
        assert rejected(NOTHING, adjust(level, **{change: -1}), COACH) == f"{field}: 0 -1 would go below zero"


class TestReset:
    def test_sets_all_totals_by_default_to_0(self) -> None:
        before = at(3, 3, 5, 9, 9, 9, 9, 9)
        totals = dict(zip(TOTALS, (2500, 1, 2, 3, 4), strict=True))
        assert applied(before, reset(**totals), COACH) == (3, 3, 5, 2500, 1, 2, 3, 4)
        assert applied(before, reset(), COACH) == (1, 1, 5, 0, 0, 0, 0, 0)
        assert applied(before, reset()) == (1, 1, 5, 0, 0, 0, 0, 0)  # hours that are not tracked, too

    @pytest.mark.parametrize("level", [1, 2, 7, 8])
    def test_sets_the_level_given_whatever_the_totals_earn(self, level: int) -> None:
        assert applied(at(4, 6, 7), reset(level, total_xp=1000))[:4] == (level, level, max(7, level), 1000)

    def test_sets_a_legacy_level_above_the_top_to_what_is_earned(self) -> None:
        assert applied(at(12, 12, 12, 90_000), reset(total_xp=80_000))[:3] == (8, 8, 12)

    @pytest.mark.parametrize("level", [0, -1, 9, 999, MAX_NUMBER, -MAX_NUMBER])
    def test_to_a_level_outside_the_catalog_is_refused(self, level: int) -> None:
        assert rejected(at(3, 3), reset(level)) == f"level: expected 'earned' or 1 to 8 for PLAYER, got {level}"
        assert rejected(NOTHING, reset(level, total_xp=5)).startswith("level: ")

    @pytest.mark.parametrize(("name", "field"), list(zip(TOTALS, FIELDS[3:], strict=True)))
    def test_to_a_total_over_its_column_is_refused(self, name: str, field: str) -> None:
        narrow = Limits(totals=(2**15 - 1,) * 5)
        state = at(1, 1, 1, *[2**15 - 1] * 5)
        assert applied(state, reset(**{name: 2**15 - 1}), COACH, narrow)[FIELDS.index(field)] == 2**15 - 1
        message = rejected(state, reset(**{name: 2**15}), COACH, narrow)
        assert message == f"{field}: 32768 would overflow its column (at most 32767)"

    def test_repairs_a_total_below_zero(self) -> None:
        assert applied(at(1, 1, 1, -7), reset())[3] == 0


class TestAfterADemotion:
    def test_next_level_up_rises_to_what_the_totals_earn(self) -> None:
        demoted = applied(at(3, 3, 3, 2500), set_to(1))
        assert demoted[:2] == (1, 1)
        assert applied(demoted, up(xp_gained=1))[:2] == (3, 3)

    def test_adjust_or_a_reset_lasts(self) -> None:
        for record in (adjust("earned", xp_change=-2000), reset(total_xp=500)):
            lowered = applied(at(3, 3, 3, 2500), record)
            assert lowered[:2] == (1, 1)
            assert applied(lowered, up(xp_gained=1))[:2] == (1, 1)


class TestHours:
    @pytest.mark.parametrize("track", [PLAYER, INTERNSHIP], ids=lambda t: t.name)
    def test_are_refused_where_they_are_not_tracked(self, track: Track) -> None:
        for record, field in (
            (up(theory_hours=1), "theory_hours"),
            (up(practice_hours=1), "practice_hours"),
            (set_to(1, theory_hours_change=1), "theory_hours_change"),
            (set_to(1, practice_hours_change=1), "practice_hours_change"),
            (adjust(theory_hours_change=1), "theory_hours_change"),
            (adjust(practice_hours_change=1), "practice_hours_change"),
            (reset(theory_hours=1), "theory_hours"),
            (reset(practice_hours=1), "practice_hours"),
        ):
            assert rejected(at(1, 1), record, track) == f"{field}: {track.name} does not track hours, expected 0, got 1"

    def test_are_counted_where_they_are_tracked(self) -> None:
        assert applied(NOTHING, up(theory_hours=3, practice_hours=4), COACH)[6:] == (3, 4)


class TestSync:
    @pytest.mark.parametrize("level", [1, 5, 8, 9, 1000, 2**31 - 1])
    def test_copies_whatever_level_the_source_has(self, level: int) -> None:
        assert applied(at(level, 3, 4), sync())[:3] == (level, level, max(4, level))
        assert applied(at(3, level, level), sync("license"))[:3] == (level, level, level)

    def test_lowers_levels_but_not_the_highest(self) -> None:
        assert applied(at(2, 6, 7), sync())[:3] == (2, 2, 7)

    def test_inserts_the_missing_row(self) -> None:
        assert applied((4, 0, 0, 5, 6, 7, 0, 0), sync()) == (4, 4, 4, 5, 6, 7, 0, 0)
        assert applied(at(0, 4, 6), sync("license")) == (4, 4, 6, 0, 0, 0, 0, 0)

    def test_without_its_source_is_refused(self) -> None:
        lacking = ((NOTHING, "progress"), (NOTHING, "license"), (at(0, 3), "progress"), (at(3, 0), "license"))
        for state, source in lacking:
            assert rejected(state, sync(source)) == f"source: there is no {source} row with a level to copy"

    def test_of_equal_levels_is_applied_and_changes_nothing(self) -> None:
        state = at(3, 3, 5, 1, 2, 3)
        for source in ("progress", "license"):
            assert applied(state, sync(source)) == state

    @pytest.mark.parametrize(
        ("state", "source", "action"),
        [
            (at(3, 3), "progress", "none"),
            (at(3, 3), "license", "none"),
            (at(3, 2), "progress", "updated_license"),
            (at(3, 2), "license", "updated_progress"),
            (at(3, 0), "progress", "created_license"),
            (at(0, 2), "license", "created_progress"),
        ],
    )
    def test_its_action_has_a_name(self, state: State, source: str, action: str) -> None:
        decision = decide(state, sync(source), PLAYER, LIMITS)
        assert decision.before is not None
        assert sync_action(decision.before, int(source == "license")) == action
        assert describe(sync(source), decision) == f"{action}: both at level {decision.to_level}"

    def test_inserted_license_did_not_change_its_level(self) -> None:
        decision = decide(at(4, 0), sync(), PLAYER, LIMITS)
        assert (decision.from_level, decision.to_level) == (4, 4)

    def test_level_over_its_column_is_refused(self) -> None:
        int2 = Limits(level=2**15 - 1)
        message = rejected(at(2**15, 3), sync(), limits=int2)
        assert message == "level 32768 does not fit its column (at most 32767)"


class TestRowsThatDoNotExist:
    @pytest.mark.parametrize(
        ("found", "start"),
        [(NOTHING, (1, 1, 1)), (at(4, 0), (4, 4, 4)), (at(0, 4, 6), (4, 4, 6)), (at(4, 2, 3), (4, 2, 3))],
    )
    def test_are_inserted_at_level_1_or_at_the_other_level(self, found: State, start: tuple[int, ...]) -> None:
        assert started(found)[:3] == start
        for record in (up(), set_to(5), adjust(), adjust("earned"), reset(), reset(5)):
            decision = decide(found, record, PLAYER, LIMITS)
            assert decision.before == started(found)
            assert decision.from_level == start[1]

    def test_license_without_a_highest_level_gets_its_own(self) -> None:
        assert applied((3, 3, 0, 0, 0, 0, 0, 0), up())[2] == 3


class TestColumns:
    @pytest.mark.parametrize("index", range(5), ids=FIELDS[3:])
    def test_total_over_its_column_is_refused(self, index: int) -> None:
        field = FIELDS[3 + index]
        name = GAINS[index]
        totals = [0] * 5
        totals[index] = 2**31 - 1 - 10
        state = at(8, 8, 8, *totals)
        assert applied(state, up(**{name: 10}), COACH, INT4)[3 + index] == 2**31 - 1
        message = rejected(state, up(**{name: 11}), COACH, INT4)
        assert message == f"{field}: 2147483637 +11 would overflow its column (at most 2147483647)"

    def test_author_over_its_column_is_refused(self) -> None:
        assert forbidden(up(advanced_by=2**31 - 1), PLAYER, INT4) is None
        message = rejected(at(1, 1), up(advanced_by=2**31), limits=INT4)
        assert message == "advanced_by: expected at most 2147483647, as the column holds, got 2147483648"

    def test_reason_over_its_column_is_refused(self) -> None:
        record = up()._replace(reason="x" * 256)
        message = rejected(at(1, 1), record, limits=Limits(reason=255))
        assert message == "reason: expected at most 255 characters, as the column holds, got 256"
        assert forbidden(record, PLAYER, Limits(reason=256)) is None

    def test_level_over_its_column_is_refused(self) -> None:
        long = Track("LONG", (Requirement(),) * 200)
        assert applied(NOTHING, set_to(127), long, Limits(level=127))[0] == 127
        message = rejected(NOTHING, set_to(128), long, Limits(level=127))
        assert message == "level 128 does not fit its column (at most 127)"


class TestLanes:
    def lane(self, specialization: str = "PLAYER", user_id: int = 1) -> str | None:
        return lane_refusal(Lane(specialization, user_id), Catalog.default(), INT4)

    def test_of_the_catalog_are_accepted(self) -> None:
        assert self.lane() is None
        assert self.lane(user_id=2**31 - 1) is None

    def test_of_an_unknown_specialization_are_refused(self) -> None:
        assert self.lane("CHEF") == "specialization: expected one of PLAYER, COACH, INTERNSHIP, got 'CHEF'"

    def test_that_do_not_fit_the_columns_are_refused(self) -> None:
        assert self.lane(user_id=2**31) == "user_id: expected at most 2147483647, as the column holds, got 2147483648"


class TestMessages:
    @pytest.mark.parametrize(
        ("state", "record", "message"),
        [
            (NOTHING, up(xp_gained=2500), "level 1 -> 3"),
            (at(3, 3), up(), "level stays 3"),
            (at(3, 3), set_to(1), "level 3 -> 1"),
            (at(5, 3), up(), "level 3 -> 5"),
        ],
    )
    def test_tell_the_change_of_level(self, state: State, record: Record, message: str) -> None:
        assert describe(record, decide(state, record, PLAYER, LIMITS)) == message

    def test_of_a_refusal_tell_the_reason(self) -> None:
        assert describe(up(), Decision("validation_error", "because")) == "because"

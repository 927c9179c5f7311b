"""Hypothesis strategies of few users and few names, so that commands meet: in lanes, on ids, at bounds."""

from uuid import UUID

from hypothesis import strategies as st

from levelq_core import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels
from tests.support.commands import CHANGES, GAINS, TOTALS

INT4 = 2**31 - 1

users = st.sampled_from([1, 1, 1, 2, 2, 3, 3_000_000_000])
names = st.sampled_from(["PLAYER", "player", "COACH", "COACH", "Internship", "wizard"])
gains = st.sampled_from([0, 0, 0, 1, 700, 999, 1000, 4999, 12_000, INT4])
changes = st.sampled_from([0, 0, 0, 1, 700, 5000, INT4, -1, -300, -999, -INT4])
hours = st.sampled_from([0, 0, 0, 0, 3])
levels = st.sampled_from([0, 1, 2, 3, 4, 8, 9, 999, -1])
reasons = st.sampled_from(["", "earned", 'quoted "näive" \\ text', "long " * 60])
authors = st.sampled_from([None, None, 1, 7])


@st.composite
def histories(draw: st.DrawFn, commands: st.SearchStrategy[Command]) -> list[Command]:
    """Commands; some are sent again, and some have the id of an earlier one with other content."""
    sent: list[Command] = []
    for number in range(draw(st.integers(1, 20))):
        how = draw(st.integers(0, 9)) if sent else 9
        if how == 0:
            sent.append(draw(st.sampled_from(sent)))
        elif how == 1:
            command_id = draw(st.sampled_from(sent)).command_id
            sent.append(draw(commands).model_copy(update={"command_id": command_id}))
        else:
            sent.append(draw(commands).model_copy(update={"command_id": UUID(int=number + 1)}))
    return sent


_lane = {"user_id": users, "specialization": names}
_audited = _lane | {"reason": reasons, "advanced_by": authors}
_gains, _changes, _totals = (
    dict.fromkeys(fields[:3], values) | dict.fromkeys(fields[3:], hours)
    for fields, values in ((GAINS, gains), (CHANGES, changes), (TOTALS, gains))
)
level_ups = st.builds(LevelUp, **_audited, **_gains)
plain_level_ups = st.builds(LevelUp, **_lane, xp_gained=gains, sessions_completed=gains, reason=reasons)
set_levels = st.builds(SetLevel, **_audited, **_changes, new_level=levels)
syncs = st.builds(SyncLevels, **_lane, source=st.sampled_from(["progress", "license"]))
adjusts = st.builds(Adjust, **_audited, **_changes, level=st.sampled_from(["keep", "earned"]))
resets = st.builds(Reset, **_audited, **_totals, level=st.just("earned") | levels)
any_commands: st.SearchStrategy[Command] = st.one_of(level_ups, level_ups, set_levels, syncs, adjusts, resets)
direct_commands: st.SearchStrategy[Command] = st.one_of(plain_level_ups, set_levels, syncs, adjusts, resets)


# Rows that were there before: per lane (progress or None, license or None).
rows_before = st.dictionaries(
    st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from(["PLAYER", "COACH", "INTERNSHIP"])),
    st.tuples(
        st.none()
        | st.fixed_dictionaries(
            {"level": st.sampled_from([1, 2, 3, 5, 12])}
            | {name: st.sampled_from([0, None, 30, 998, 7000, INT4]) for name in TOTALS}
        ),
        st.none()
        | st.fixed_dictionaries(
            {"level": st.sampled_from([1, 2, 3, 5, 12]), "highest": st.sampled_from([None, 1, 3, 12])}
        ),
    ),
    max_size=4,
)

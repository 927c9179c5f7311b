"""Hypothesis strategies for the values of the domain."""

from uuid import UUID

from hypothesis import strategies as st

from levelq_core import Adjust, Catalog, Command, LevelUp, Reset, SetLevel, SyncLevels
from levelq_core.domain.catalog import Requirement, Track
from levelq_core.domain.commands import MAX_NUMBER, MAX_USER_ID
from tests.support.commands import CHANGES, GAINS, TOTALS

user_ids = st.integers(1, MAX_USER_ID)
specializations = st.from_regex(r"\A[A-Za-z][A-Za-z0-9_]{0,31}\Z")
command_ids = st.integers(0, 2**128 - 1).map(lambda n: UUID(int=n))
numbers = st.integers(-MAX_NUMBER, MAX_NUMBER)
gains = st.integers(0, MAX_NUMBER)
# Code points UTF-8 can hold; PostgreSQL's text takes all of them but NUL.
reasons = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=500)
authors = st.none() | user_ids

_common = {
    "user_id": user_ids,
    "specialization": specializations,
    "command_id": command_ids,
    "reason": reasons,
    "advanced_by": authors,
}

level_ups = st.builds(LevelUp, **_common, **dict.fromkeys(GAINS, gains))
set_levels = st.builds(SetLevel, **_common, **dict.fromkeys(("new_level", *CHANGES), numbers))
syncs = st.builds(SyncLevels, **_common, source=st.sampled_from(("progress", "license")))
adjusts = st.builds(Adjust, **_common, **dict.fromkeys(CHANGES, numbers), level=st.sampled_from(("keep", "earned")))
resets = st.builds(Reset, **_common, **dict.fromkeys(TOTALS, gains), level=st.just("earned") | numbers)
commands: st.SearchStrategy[Command] = st.one_of(level_ups, set_levels, syncs, adjusts, resets)


@st.composite
def tracks(draw: st.DrawFn) -> Track:
    """A specialization whose requirements never fall, in any mixture of totals."""
    top = draw(st.integers(1, 12))
    steps = st.sampled_from((0, 0, 1, 3, 50))
    columns = []
    for _ in Requirement._fields:
        column = [0]
        for _ in range(top - 1):
            column.append(column[-1] + draw(steps))
        columns.append(column)
    levels = tuple(Requirement(*row) for row in zip(*columns, strict=True))
    return Track("ANY", levels, tracks_hours=True)


DEFAULT = Catalog.default()

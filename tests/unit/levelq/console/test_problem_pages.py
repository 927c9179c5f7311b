"""Where the line of a problem leads: to the act or page that ends it, and to the users that it names."""

import pytest

from levelq.console.problem_pages import Way, page_for
from levelq.console.rendering import with_links


@pytest.mark.parametrize(
    ("problem", "way"),
    [
        (
            "user 99 in PLAYER: paused by kim since 2026-01-31 02:58:11 UTC, until resumed; to end it: levelq resume",
            Way("/act/resume?user=99&specialization=PLAYER", "Resume", acts=True),
        ),
        ("COACH: paused by kim since 2026", Way("/act/resume?specialization=COACH", "Resume", acts=True)),
        ("2 of 9 pairs out of step (progress, license), audited", Way("/drift", "Repair")),
        ("worker a.1 is silent since 2026", Way("/workers", "Workers")),
        ("batches take 2.1 s, usually 0.020 s for this size", Way("/workers", "Workers")),
        ("PLAYER:1:0: 1 lane parked since 2026, user 7: refused", Way("/partitions/PLAYER%3A1%3A0", "Partition")),
        ("something else", None),
    ],
)
def test_a_problem_leads_to_what_ends_it(problem: str, way: Way | None) -> None:
    assert page_for(problem) == way


def test_users_in_a_problem_are_links_and_the_rest_is_escaped() -> None:
    assert with_links("<i>, user 7: refused by superuser 8, user 9x") == (
        '&lt;i&gt;, user <a href="/users/7">7</a>: refused by superuser 8, user 9x'
    )

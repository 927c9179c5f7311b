"""Charts: what is drawn of which values, and what is said about them."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levelq.console.charts import (
    HEIGHT,
    MOST_STEPS,
    WIDTH,
    Chart,
    Line,
    Value,
    round_count,
    round_duration,
    round_number,
    scale,
)
from levelq.console.rendering import TEMPLATES
from tests.support.console import Page, assert_escaped

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def chart(*values: Value, name: str = "applied", title: str = "Applied") -> Chart:
    return Chart(
        title=title,
        times=[START + n * MINUTE for n in range(len(values))],
        slot=MINUTE,
        lines=[Line(name, values)],
        written=lambda value: f"{value:,.0f}/s",
    )


def drawn(shown: Chart) -> str:
    return with_macros("{{ draw.chart(shown) }}", shown)


def with_macros(text: str, shown: Chart) -> str:
    return TEMPLATES.from_string('{% import "charts.html" as draw %}' + text).render(shown=shown)


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]


def test_a_gap_in_what_is_known_is_a_gap_in_the_line() -> None:
    line = chart(0, 10, None, None, 5, 10).path(Line("", (0, 10, None, None, 5, 10)))
    first, second = re.findall(r"M[^M]*", line)
    assert [y for _, y in points(first)] == [100, 0]
    assert [y for _, y in points(second)] == [50, 0]
    assert points(second)[0][0] == WIDTH * 4.5 / 6


def test_a_single_value_is_a_dot() -> None:
    shown = chart(None, 4, None)
    assert shown.dots(shown.lines[0]) == f"M{WIDTH / 2} 0.0h0"
    assert shown.path(shown.lines[0]) == ""
    assert chart(7).ticks()[-1] == START + MINUTE


@pytest.mark.parametrize("values", [(0, 0, 0), (None, None), (0,)])
def test_nothing_above_zero_is_drawn_at_the_bottom_of_an_axis(values: tuple[Value, ...]) -> None:
    shown = chart(*values)
    assert shown.labels() == ["1/s", "0/s"]
    assert {y for _, y in points(shown.path(shown.lines[0]))} <= {HEIGHT}


@given(st.floats(min_value=1e-6, max_value=1e15), st.sampled_from([round_number, round_count, round_duration]))
def test_an_axis_holds_its_values_in_few_steps(most: float, round_step: object) -> None:
    top, step = scale([0, most, None], round_step)  # type: ignore[arg-type]
    assert most <= top * (1 + 1e-6)
    assert 1 <= round(top / step) <= MOST_STEPS


def test_steps_are_numbers_that_people_choose() -> None:
    assert scale([1234], round_number) == (1500, 500)
    assert scale([3], round_count) == (3, 1)
    assert scale([500], round_duration) == (600, 300)


def test_the_summary_says_the_latest_lowest_and_highest() -> None:
    assert chart(3, 12_000, None).summary() == "Applied. applied: latest unknown, lowest 3/s, highest 12,000/s."
    assert chart(None).summary() == "Applied. applied: nothing known."


def test_a_drawing_has_a_text_and_its_numbers_as_a_table() -> None:
    shown = chart(1, None, 2_500_000)
    (svg,) = Page(drawn(shown)).named("svg")
    assert svg.attributes["role"] == "img"
    assert "highest 2,500,000/s" in svg.attributes["aria-label"]
    assert svg.attributes["data-values"] == "1/s;-;2,500,000/s"
    table = Page(with_macros("{{ draw.numbers([shown, shown]) }}", shown))
    cells = re.findall(r"12:0\d|2,500,000/s|1/s|-", table.text)
    assert cells == ["12:02", *2 * ["2,500,000/s"], "12:01", *2 * ["-"], "12:00", *2 * ["1/s"]]


def test_names_are_escaped() -> None:
    hostile = '"><script>alert(1)</script>'
    assert_escaped(drawn(chart(1, 2, name=hostile, title=hostile)), hostile)

"""The report: one file that needs no network, and says what is wrong before it says how fast."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest

from levelq.loadtest.charts import Series, chart, decades, linear, nines, round_step, seconds_axis
from levelq.loadtest.measuring import CommandTiming, figures
from levelq.loadtest.report import render
from levelq.loadtest.result import Result
from levelq.loadtest.scenarios import chosen
from levelq.loadtest.screen import show
from levelq.loadtest.watching import Sample
from levelq.loadtest.wish import Wish
from levelq_core.operations.verify import Check, Report

START = 1_764_000_000.0


def result(*, violations: int = 0, undecided: int = 0, size: int = 400, **given: object) -> Result:
    """A run of four seconds, a command each hundredth of a second, 20 ms for each."""
    found = [
        CommandTiming(at, at + 0.001, at + 0.002, None if number < undecided else at + 0.02)
        for number in range(size)
        for at in [START + number / 100]
    ]
    check = Check("I2", "totals = start + the sum of what was applied", 400)
    for _ in range(violations):
        check.add(10, "duplicated", 7, "PLAYER", UUID(int=5), "counted twice: <b>not</b> 1 & 2")
    wish = Wish(chosen("match", users=50, seconds=4.0, burst=10), seed=42)
    looks = [Sample(START + at, at, 0, 0.0, 100 * at) for at in range(5)]
    counts = Counter(sent=size, queued=size, again=3)
    made = Result(
        wish, START, START + 4.1, counts, {}, found, figures(found), looks, size - undecided, 9, Report([check]),
        {"settings": "a <script>"}, False,
    )  # fmt: skip
    return Result(**{**vars(made), **given})


class Page(HTMLParser):
    """What a page would fetch, whether its tags are balanced, and its text."""

    VOID = ("meta", "line", "path", "link", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.told: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attributes if name in ("src", "href", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "script" not in self.open:
            self.told.append(data)


def test_the_page_stands_alone_and_tells_everything_once() -> None:
    text = render(result())
    page = Page(text)
    assert page.fetched == [] and page.open == []
    assert not re.search(r"https?://|@import|url\(", text)
    told = " ".join(page.told)
    for wanted in ("Load test: match", "The checker found nothing.", "20 ms", "matches end", "--seed 42", "a <script>"):
        assert wanted in told, wanted
    assert "$" not in told
    assert text.count("<svg") == 4 and "prefers-color-scheme: dark" in text


def test_programs_find_the_figures_in_it() -> None:
    (data,) = re.findall(r'<script type="application/json" id="result">(.*?)</script>', render(result(undecided=5)))
    found = json.loads(data)
    assert found["seed"] == 42 and found["scenario"]["name"] == "match" and found["violations"] == 0
    assert found["seconds"]["waits"]["p99"] == pytest.approx(0.02, abs=1e-5)
    assert found["counts"]["undecided"] == 5 and found["counts"]["begun"] == 400


def test_violations_come_first_and_are_no_markup() -> None:
    bad = result(violations=3)
    assert not bad.passed
    text = render(bad)
    assert '<p class="verdict bad">The checker found 3 violations.</p>' in text
    assert text.count("duplicated: user 7, PLAYER") == 3 and "<b>not</b>" not in text


def test_what_was_not_decided_is_a_failure_and_is_said() -> None:
    late = result(undecided=5)
    assert not late.passed
    assert "5 queued commands were not decided in time: no latency counts them" in render(late)
    assert not result(size=0).passed and "nothing could be queued" in render(result(size=0))


def test_notes_name_refusals_late_senders_and_interruptions() -> None:
    refused = result(errors={"LaneFull": "lane PLAYER:1"}, counts=Counter(refused=7, unknown=2))
    assert refused.notes == ["7 sends refused, 2 unanswered; first LaneFull: lane PLAYER:1"]
    slow = [course._replace(begun=course.intended + 1, told=course.intended + 1.001) for course in result().courses]
    assert "the senders themselves were late, by 1.00 s" in result(figures=figures(slow)).notes[0]
    stuck = [course._replace(begun=course.intended + 1, told=course.intended + 2) for course in result().courses]
    assert result(figures=figures(stuck)).notes == []  # held up by a push, which is the system's doing
    assert result(interrupted=True).notes == ["interrupted: these are the figures until then"]


@pytest.mark.parametrize("size", [1, 2, 40])
def test_a_run_of_few_commands_can_be_drawn_too(size: int) -> None:
    Page(render(result(size=size)))


def test_times_are_shown_in_three_digits_or_less() -> None:
    shown = {0.0: "0.0 ms", 0.00042: "0.4 ms", 0.00994: "9.9 ms", 0.00996: "10 ms", 0.9994: "999 ms", 0.9996: "1.00 s",
             9.994: "9.99 s", 9.996: "10 s", 83.2: "83 s"}  # fmt: skip
    assert {value: show(value) for value in shown} == shown


def test_axes_have_round_labels_and_hold_all_values() -> None:
    assert [linear(top, "").high for top in (1, 7, 99, 1116, 4_800)] == [1, 8, 100, 1500, 6000]
    assert [round_step(rough) for rough in (0.011, 0.3, 2.1, 30)] == [0.02, 0.5, 2.5, 50]
    assert seconds_axis(20.0).high == 20.0
    axis = decades([0.004, 1.3], "")
    assert (axis.low, axis.high) == (0.001, 10.0) and [label for _, label in axis.ticks][0::4] == ["1 ms", "10 s"]
    assert axis.share(0.001) == 0 and axis.share(0.1) == pytest.approx(0.5) and axis.share(99) == 1
    assert [label for _, label in nines(1000).ticks] == ["0 %", "50 %", "90 %", "99 %", "99.9 %"]


def test_a_gap_in_a_line_stays_a_gap_and_a_lone_value_is_a_dot() -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (3.0, 1.0)]
    drawn = chart([Series("a & b", points, "p50", filled=True)], seconds_axis(4.0), linear(2.0, ""), [(1.0, "<end>")])
    svg = ET.fromstring(drawn[drawn.index("<svg") :])
    lines = [path.attrib["d"] for path in svg.iter("path") if path.attrib["class"].startswith("line")]
    assert len(lines) == 2 and lines[1].endswith("h0")
    assert "a &amp; b" in drawn and "&lt;end&gt;" in drawn

import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from levelq.loadtest.report import render
from levelq.loadtest.timing import figures
from tests.support.loadtest import result


class Page(HTMLParser):
    """What a page would fetch, whether its tags are balanced, and its text."""

    VOID = ("meta", "line", "path", "link", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.shown: list[str] = []
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
            self.shown.append(data)


def test_page_fetches_nothing_and_shows_everything() -> None:
    text = render(result())
    page = Page(text)
    assert page.fetched == [] and page.open == []
    assert not re.search(r"https?://|@import|url\(", text)
    shown = " ".join(page.shown)
    for wanted in ("Load test: match", "The checker found nothing.", "20 ms", "matches end", "--seed 42", "a <script>"):
        assert wanted in shown, wanted
    assert "$" not in shown
    assert text.count("<svg") == 4 and "prefers-color-scheme: dark" in text


def test_page_holds_the_figures_as_json() -> None:
    (data,) = re.findall(r'<script type="application/json" id="result">(.*?)</script>', render(result(undecided=5)))
    found = json.loads(data)
    assert found["seed"] == 42 and found["scenario"]["name"] == "match" and found["violations"] == 0
    assert found["seconds"]["waits"]["p99"] == pytest.approx(0.02, abs=1e-5)
    assert found["counts"]["undecided"] == 5 and found["counts"]["begun"] == 400


def test_violations_come_first_and_are_escaped() -> None:
    bad = result(violations=3)
    assert not bad.passed
    text = render(bad)
    assert '<p class="verdict bad">The checker found 3 violations.</p>' in text
    assert text.count("duplicated: user 7, PLAYER") == 3 and "<b>not</b>" not in text


def test_undecided_commands_are_a_failure_and_are_noted() -> None:
    late = result(undecided=5)
    assert not late.passed
    assert "5 queued commands were not decided in time: no latency counts them" in render(late)
    assert not result(size=0).passed and "nothing could be queued" in render(result(size=0))


def test_notes_name_refusals_late_senders_and_interruptions() -> None:
    refused = result(errors={"LaneFull": "lane PLAYER:1"}, counts=Counter(refused=7, unknown=2))
    assert refused.notes == ["7 sends refused, 2 unanswered; first LaneFull: lane PLAYER:1"]
    slow = [timing._replace(begun=timing.intended + 1, queued=timing.intended + 1.001) for timing in result().timings]
    assert "the senders themselves were late, by 1.00 s" in result(figures=figures(slow)).notes[0]
    stuck = [timing._replace(begun=timing.intended + 1, queued=timing.intended + 2) for timing in result().timings]
    assert result(figures=figures(stuck)).notes == []  # held up by a push, which is the system's doing
    assert result(interrupted=True).notes == ["interrupted: these are the figures until then"]


@pytest.mark.parametrize("size", [1, 2, 40])
def test_run_of_few_commands_can_be_drawn(size: int) -> None:
    Page(render(result(size=size)))

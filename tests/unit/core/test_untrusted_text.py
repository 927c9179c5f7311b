"""Text that others wrote, in a terminal, a log, JSON and HTML."""

import json
import logging
import sys
from html.parser import HTMLParser

import pytest

from levelq.loadtest.report import render
from levelq_core.untrusted_text import printable, to_json
from levelq_worker.support.safe_log import MOST_CHARACTERS, SafeFormatter, json_formatter
from tests.support.hostile import RAW, TEXTS, assert_safe
from tests.support.loadtest import result

EACH = pytest.mark.parametrize("hostile", TEXTS.values(), ids=TEXTS)


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [
        ("plain", None, "plain"),
        ("\x1b[31mred\x07\n", None, "\\x1b[31mred\\x07\\n"),
        (b"\xff\xfe ok", None, "\ufffd\ufffd ok"),
        ("x" * 81, 80, "x" * 80 + "..."),
        ("x" * 80, 80, "x" * 80),
        (b"x" * 10_000_000, 80, "x" * 80 + "..."),
        ("\u202eevil", None, "\\u202eevil"),
        ("\ud800", None, "\\ud800"),
        ("é" * 3, 2, "éé..."),
    ],
)
def test_text_is_shown_without_control_characters_and_cut(text: str | bytes, most: int | None, shown: str) -> None:
    assert printable(text, most) == shown


def test_log_line_is_one_short_line_for_any_message() -> None:
    forged = "\x1b[2J\nWARNING forged" + "x" * 10**6
    record = logging.LogRecord("levelq", logging.WARNING, "", 1, "job %s", (forged,), None)
    line = SafeFormatter("%(levelname)s %(message)s").format(record)
    assert line.startswith("WARNING job \\x1b[2J\\nWARNING forged") and line.isprintable()
    assert len(line) < MOST_CHARACTERS + 20


@EACH
def test_hostile_text_is_one_visible_line_in_every_format(hostile: str) -> None:
    assert_safe(printable(hostile))
    assert "\n" not in printable(hostile)
    line = to_json({"reason": hostile})
    assert line.isascii() and line.isprintable() and json.loads(line) == {"reason": hostile}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_bytes_of_others_are_shown_as_text_that_is_safe(raw: bytes) -> None:
    assert_safe(printable(raw, 80))


class _Read(HTMLParser):
    """The text of a page, and its elements."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.text, self.tags = "", list[str]()
        self.feed(markup)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, _: object) -> None:
        self.tags.append(tag)


@EACH
def test_hostile_text_stays_text_in_a_page(hostile: str) -> None:
    """In the report of a load test: as a setting's value, in a note, and as what a chart marks."""
    made, plain = (
        render(result(facts={"settings": text}, errors={"LaneFull": text}, marks=[(1.0, text)]))
        for text in (hostile, "x")
    )
    read = _Read(made)
    assert read.tags == _Read(plain).tags and read.text.count(printable(hostile)) >= 5
    assert_safe(made)


@EACH
@pytest.mark.parametrize("form", ["text", "json"])
def test_hostile_text_in_the_log_is_one_line_of_either_format(hostile: str, form: str) -> None:
    formatter = json_formatter() if form == "json" else SafeFormatter("%(levelname)s %(message)s")
    try:
        raise ValueError(hostile)
    except ValueError:
        info = sys.exc_info()
    record = logging.LogRecord("levelq", logging.ERROR, "", 1, "entry %(entry)s", ({"entry": hostile},), info)
    record.entry = hostile
    line = formatter.format(record)
    assert_safe(line)
    if form == "text":
        message, *stack = line.split("\n")
        assert message == f"ERROR entry {printable(hostile)}" and all(row.startswith("  ") for row in stack)
    else:
        found = json.loads(line)
        assert found["entry"] == printable(hostile) and found["message"] == f"entry {printable(hostile)}"
        assert_safe(found["exception"])

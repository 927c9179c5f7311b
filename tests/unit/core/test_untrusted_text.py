"""Text that others wrote, in a terminal and in a log."""

from __future__ import annotations

import logging

import pytest

from levelq_core.untrusted_text import printable
from levelq_worker.support.safe_log import MOST_CHARACTERS, SafeFormatter


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

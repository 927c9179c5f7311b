"""Every event that is logged is on its page, with its level and the names of its fields."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.architecture.sources import ROOT, sources

PAGE = (ROOT / "docs" / "how-to" / "logs-and-traces.md").read_text()
ROWS = {
    name: (level, set(re.findall(r"`(\w+)`", fields)))
    for name, level, fields in re.findall(r"^\| `(\w+)` \| (debug|warning|error) \| (.*?) \|", PAGE, re.MULTILINE)
}


def logged() -> Iterator[tuple[str, str, set[str]]]:
    """Name, level and fields of every call that logs an event with a name."""
    for source in sources():
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call) or source.name == "levelq_core.log_events":
                continue
            name = ast.unparse(node.func)
            texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            if (name == "log_event" or name.endswith("log")) and texts and "logging." in ast.unparse(node.args[0]):
                level = ast.unparse(node.args[0]).removeprefix("logging.").lower()
                named = {keyword.arg for keyword in node.keywords if keyword.arg and keyword.arg != "exc_info"}
                yield texts[0], level, named


def test_page_has_every_event_and_no_other() -> None:
    found = list(logged())
    assert {event for event, _, _ in found} == ROWS.keys()
    for event, level, fields in found:
        assert level == ROWS[event][0] and fields <= ROWS[event][1], event


def test_what_is_logged_is_an_event() -> None:
    direct = {"log.debug", "log.info", "log.warning", "log.error", "log.exception", "logging.warning", "logging.error"}
    for source in sources():
        calls = {ast.unparse(node.func) for node in ast.walk(source.tree) if isinstance(node, ast.Call)}
        assert not calls & direct, source.where

"""Every event that is logged is on its page, with its level and the names of its fields."""

import ast
import logging
import re
from collections.abc import Iterator

from tests.architecture.sources import ROOT, sources

PAGE = (ROOT / "docs" / "how-to" / "logs-and-traces.md").read_text()
ROWS = {
    name: (level, set(re.findall(r"`(\w+)`", fields)))
    for name, level, fields in re.findall(r"^\| `(\w+)` \| (debug|warning|error) \| (.*?) \|", PAGE, re.MULTILINE)
}


def keys_of(tree: ast.Module, names: set[str]) -> Iterator[str]:
    """The keys of the dictionaries that are written out and bound to these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in names and isinstance(node.value, ast.Dict):
            yield from (str(key.value) for key in node.value.keys if isinstance(key, ast.Constant))


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
                spread = {ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg is None}
                yield texts[0], level, named | set(keys_of(source.tree, spread))


def test_page_has_every_event_and_no_other() -> None:
    found = list(logged())
    assert {event for event, _, _ in found} == ROWS.keys()
    for event, level, fields in found:
        assert level == ROWS[event][0] and fields <= ROWS[event][1], event


def test_no_field_has_the_name_of_an_attribute_of_a_record_or_of_a_key_of_a_line() -> None:
    """Python's `logging` raises a KeyError for the former; the latter would be lost in JSON."""
    record = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}
    taken = record | {"time", "process", "level", "logger", "event", "exception"}
    for event, _, fields in [*logged(), *((name, level, fields) for name, (level, fields) in ROWS.items())]:
        assert not fields & taken, event


def test_what_is_logged_is_an_event() -> None:
    direct = {"log.debug", "log.info", "log.warning", "log.error", "log.exception", "logging.warning", "logging.error"}
    for source in sources():
        calls = {ast.unparse(node.func) for node in ast.walk(source.tree) if isinstance(node, ast.Call)}
        assert not calls & direct, source.where

"""The error tree is documentation, so the documentation is checked."""

from __future__ import annotations

import re

import pytest

import levelq_core
import levelq_producer
from levelq_core import errors
from levelq_core.errors import LevelqError, describe

PUBLIC = {
    "InvalidCommand",
    "LaneFull",
    "PartitionFull",
    "NotDurable",
    "OutcomeTimeout",
    "OutcomeUnknown",
    "QueueUnavailable",
}


def documented() -> dict[str, str | None]:
    """Each class of the docstring's tree with the class it is drawn under."""
    tree: dict[str, str | None] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"([│├└─ ]*)([A-Z]\w+)(  |$)", line)
        if drawn:
            depth = len(drawn[1]) // 4
            tree[drawn[2]] = above[depth - 1] if depth else None
            above[depth:] = [drawn[2]]
    return tree


def real() -> dict[str, type[LevelqError]]:
    found: dict[str, type[LevelqError]] = {}
    waiting: list[type[LevelqError]] = [LevelqError]
    while waiting:
        error = waiting.pop()
        if error.__module__ == errors.__name__:
            found[error.__name__] = error
        waiting += error.__subclasses__()
    return found


def test_documented_tree_is_the_real_one() -> None:
    tree = {name: None if error is LevelqError else error.__bases__[0].__name__ for name, error in real().items()}
    assert documented() == tree


@pytest.mark.parametrize("name", sorted(real()))
def test_each_error_is_documented_and_importable_from_the_package(name: str) -> None:
    assert real()[name].__doc__
    assert getattr(levelq_core, name) is real()[name]


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_producers_errors_are_importable_from_both_packages(name: str) -> None:
    assert getattr(levelq_producer, name) is getattr(levelq_core, name)
    assert name in levelq_producer.__all__


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(errors.InvalidCommand, ValueError)
    assert issubclass(errors.QueueUnavailable, ConnectionError)
    assert issubclass(errors.OutcomeTimeout, TimeoutError)
    assert issubclass(errors.SendUnknown, errors.OutcomeUnknown)
    assert issubclass(errors.SendUnknown, errors.QueueUnavailable)


def test_validation_error_is_one_short_line() -> None:
    detail = {"loc": ("a", 1), "msg": "expected less", "input": "x\n" * 100}
    line = describe(detail)
    assert line.startswith("a.1: expected less, got 'x\\nx")
    assert line.endswith("...")
    assert "\n" not in line
    assert len(line) < 120
    assert describe({"loc": (), "msg": "no", "input": 1}) == "command: no, got 1"

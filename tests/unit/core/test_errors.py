"""The error tree is documentation, so the documentation is checked."""

import ast
import copy
import pickle
import re
from typing import Any
from uuid import UUID

import pytest

import levelq_core
import levelq_producer
from levelq_core import errors
from levelq_core.errors import InvalidCommand, LaneFull, LevelqError, ProducerClosed, describe
from tests.architecture.sources import sources

PUBLIC = {
    "InvalidArgument",
    "InvalidCommand",
    "LaneFull",
    "PartitionFull",
    "ProducerClosed",
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


NAMED: dict[str, Any] = {
    "command_id": UUID(int=7),
    "user_id": 42,
    "field": "timeout",
    "limit": 5,
    "reasons": ("a", "b"),
}


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("error", real().values(), ids=lambda error: error.__name__)
def test_pickle_and_copy_of_an_error_keep_its_message_and_attributes(error: type[LevelqError], again: Any) -> None:
    named = {name: value for name, value in NAMED.items() if hasattr(error, name)}
    first = error(f"{error.__name__}: what is wrong", **named)
    other = again(first)
    assert type(other) is error
    assert (str(other), other.args) == (str(first), first.args)
    assert vars(other) == vars(first) and named.items() <= vars(other).items()


def test_attribute_that_an_error_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="LaneFull has no attribute lane"):
        LaneFull("full", lane=1)


def test_closed_producers_error_says_what_to_do() -> None:
    assert "make another one" in str(ProducerClosed())


def test_error_of_a_validation_names_the_first_field_that_is_wrong() -> None:
    details = [{"loc": ("user_id",), "msg": "no", "input": 0}, {"loc": ("reason",), "msg": "no", "input": 1}]
    error = InvalidCommand.from_details(details)
    assert (error.field, error.value, str(error)) == ("user_id", 0, "user_id: no, got 0; reason: no, got 1")


# Their messages name several things, or nothing that is a value.
SEVERAL = {"levelq_core.database.schema", "levelq_core.operations.dbcheck", "levelq_core.operations.verify.verifier"}


@pytest.mark.parametrize("package", ["levelq_core", "levelq_producer"])
def test_error_whose_message_names_a_value_has_an_attribute(package: str) -> None:
    """A message that is put together from values is raised with at least one of them by name."""
    bare = []
    for source in sources():
        if source.name.partition(".")[0] != package or source.name in SEVERAL:
            continue
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", "") not in real() or node.keywords:
                continue
            if any(isinstance(arg, ast.JoinedStr | ast.Name) for arg in node.args):
                bare.append(f"{source.where}:{node.lineno}")
    assert bare == []
